"""The error memories of ReLoop2, and the correction of a prediction with their help.

A memory stores examples of recent errors under keys: numbers that a model computes from an
impression. It knows nothing else of the model.
Source: Zhu et al., ReLoop2: building self-adaptive recommendation models via responsive error
compensation loop, KDD 2023, arXiv 2306.08808.
Shapes: m examples or queries, d numbers of a key, k similar examples.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from distributed import collectives
from engine.tables import overwrite
from engine.topk import grouped_topk, topk_group_count
from utils import make_generator

BLOCK_SIMILARITIES = 1 << 23  # similarities computed at a time, 32 MB


class Similar(NamedTuple):
    """For each of m queries, k similar examples. NearestNeighbourMemory puts the nearest first."""

    similarity: Tensor  # (m, k), -inf if there is no example
    labels: Tensor  # (m, k)
    predictions: Tensor  # (m, k), of the model without correction

    def first(self, count):
        """Keep only the first `count` examples of each query."""
        return Similar(*(column[:, :count] for column in self))


def recall(similar, tau):
    """Average over similar examples with the weights softmax(similarity / tau).

    Returns the mean label and the mean prediction of the model (m,), nan for a query without
    similar examples.
    """
    weights = (similar.similarity / tau).softmax(1)  # (m, k)
    return (weights * similar.labels).sum(1), (weights * similar.predictions).sum(1)


def correct(predictions, label, base, strength, gamma):
    """Correct predictions y of a model by the errors of similar examples.

    predictions (m,): y
    label, base (m,): mean label and mean prediction of similar examples, from `recall`
    strength: weight of the correction
    gamma: weight of the label's difference from y, against its difference from base

    Returns y + strength * (gamma (label - y) + (1 - gamma) (label - base)), limited to 0 .. 1 (m,).
    With gamma = 1 this is (1 - strength) y + strength label. Where label or base is nan, it is y.
    """
    error = gamma * (label - predictions) + (1 - gamma) * (label - base)
    return torch.where(error.isnan(), predictions, (predictions + strength * error).clamp(0, 1))


class NearestNeighbourMemory:
    """--memory knn: stores the last `size` examples, in a ring whose rows the ranks divide.

    Similar examples are the `count` with the largest cosine similarity of their keys.
    """

    def __init__(self, width, args, device):
        """Make an empty memory.

        width: d
        args: flags; uses memory_size and memory_k
        """
        self.size, self.count = args.memory_size, args.memory_k
        # This rank's rows of the ring, (own, d) and (own, 2): keys of length 1; labels, predictions
        self.keys = torch.zeros(0, width, device=device)
        self.outcomes = torch.zeros(0, 2, device=device)
        self.stored = 0  # examples on all ranks together
        self.written = 0  # row of the ring that the next example is written to

    def address(self, keys):
        """Return keys (m, d) in the form that `read` and `write` take: with length 1."""
        return functional.normalize(keys)

    def write(self, address, labels, predictions):
        """Add m examples, the latest last; they replace the oldest ones if the memory is full.

        address (m, d): keys, from `address`
        labels, predictions (m,)

        All ranks must call it; m may differ, and the examples are added in the order of the ranks.
        """
        outcomes = torch.stack([labels, predictions], dim=1)  # (m, 2)
        address, outcomes = map(collectives.all_gather_rows, (address, outcomes))
        # Only the last `size` examples can stay.
        address, outcomes = address[-self.size :], outcomes[-self.size :]

        # Of the rows of the ring that they come to, this rank has each `ranks`-th.
        ranks = collectives.world_size()
        row = (self.written + torch.arange(len(address), device=address.device)) % self.size
        own = row % ranks == collectives.rank()
        row, address, outcomes = row[own] // ranks, address[own], outcomes[own]

        # Append while there is room, then overwrite the oldest rows.
        is_new = row >= len(self.keys)
        row = row[~is_new]
        self.keys = torch.cat([self.keys, address[is_new]])
        self.outcomes = torch.cat([self.outcomes, outcomes[is_new]])
        self.keys[row], self.outcomes[row] = address[~is_new], outcomes[~is_new]
        self.stored = min(self.stored + len(own), self.size)
        self.written = (self.written + len(own)) % self.size

    def read(self, address):
        """Return the Similar examples of m queries.

        address (m, d): keys of the queries, from `address`

        All ranks must call it. Each looks for the queries of all ranks among its own examples.
        """
        count = min(self.count, self.stored)
        if not count:
            zeros = address.new_zeros(len(address), 1)
            return Similar(zeros - torch.inf, zeros, zeros)
        ranks = collectives.world_size()
        if ranks == 1:
            return self.read_own(address, count)

        # Send to each rank what is found for its queries: (W, most queries of a rank, 3, k).
        sizes = collectives.all_gather_ints(len(address))
        found = torch.stack(self.read_own(collectives.all_gather_rows(address), count), dim=1)
        sent = found.new_zeros(ranks, max(sizes), *found.shape[1:])
        for piece, own in zip(sent, found.split(sizes), strict=True):
            piece[: len(own)] = own
        received = collectives.all_to_all(sent)[:, : len(address)]

        # Merge: (W, m, 3, k) -> (3, m, W * k)
        similarity, *outcomes = received.permute(2, 1, 0, 3).flatten(2)
        similarity, place = similarity.topk(count)  # (m, k) each
        return Similar(similarity, *(column.gather(1, place) for column in outcomes))

    def read_own(self, address, count):
        """Like `read`, among this rank's own examples. count: k; what is missing is -inf"""
        own = min(count, len(self.keys)) if len(address) else 0
        missing = address.new_zeros(len(address), count - own)
        if not own:
            return Similar(missing - torch.inf, missing, missing)

        # Reserve a buffer for a block of similarities, padded to whole groups for grouped_topk.
        groups = topk_group_count(len(self.keys), own)
        padded = -(-len(self.keys) // groups) * groups
        buffer = address.new_empty(max(1, BLOCK_SIMILARITIES // padded), padded)
        blocks = []
        for block in address.split(len(buffer)):
            cosine = buffer[: len(block)]
            stored = cosine[:, : len(self.keys)]
            torch.mm(block, self.keys.T, out=stored)  # (b, d) (d, stored) -> (b, stored)
            cosine[:, len(self.keys) :] = -torch.inf
            similarity, row = grouped_topk(cosine, own, groups)  # (b, own) each
            blocks.append(Similar(similarity, *self.outcomes[row].unbind(2)))
        found = (torch.cat(columns) for columns in zip(*blocks, strict=True))
        rest = missing - torch.inf, missing, missing
        return Similar(*(torch.cat(both, dim=1) for both in zip(found, rest, strict=True)))

    def settle(self):
        """Nothing to do: `write` stores at once."""

    def state_dict(self):
        """Return the content of the memory, on the first rank. The tensors are not copies."""
        whole = map(self.whole, (self.keys, self.outcomes))
        return {**dict(zip(("keys", "known"), whole, strict=True)), "written": self.written}

    def whole(self, own):
        """The rows of the ring in their order on the first rank; on the others None.

        own: this rank's rows of the ring
        """
        ranks = collectives.world_size()
        if ranks == 1:
            return own
        gathered = collectives.gather_to_first(own)
        if gathered is None:
            return None
        row = torch.cat([torch.arange(rank, self.stored, ranks) for rank in range(ranks)])
        return torch.empty_like(gathered).index_copy_(0, row, gathered)

    def load_state_dict(self, state):
        """Copy the content that `state_dict` returned."""
        count, written = len(state["keys"]), state["written"]
        if count > self.size or type(written) is not int or not 0 <= written <= count:
            raise ValueError(f"its memory of {count} examples has no place {written}")
        own = slice(collectives.rank(), None, collectives.world_size())
        keys, outcomes = state["keys"][own], state["known"][own]
        self.keys = self.keys.new_empty(len(keys), self.keys.shape[1])
        self.outcomes = self.outcomes.new_empty(len(keys), self.outcomes.shape[1])
        overwrite(self.keys, keys)
        overwrite(self.outcomes, outcomes)
        self.stored, self.written = count, written


class HashMemory:
    """--memory lsh: `count` arrays of 2^bits buckets; a bucket sums the examples that fall into it.

    A key's bucket in an array is given by the signs of its products with `bits` random directions.
    This is SimHash: a sign is equal for two keys with probability 1 - angle / pi (Charikar, STOC
    2002). A read returns one similar example per array: its label and prediction are the bucket's
    means, its similarity is the bucket's fraction of all examples (RACE: Coleman & Shrivastava, WWW
    2020). Memory and the time of a read or a write do not grow with the number of examples written.
    """

    def __init__(self, width, args, device):
        """Make an empty memory.

        width: d
        args: flags; uses memory_k, memory_bits and seed
        """
        self.count, self.bits = args.memory_k, args.memory_bits
        generator = make_generator(args.seed, device)
        # Grouped by array, so that a smaller --memory_k uses a prefix of these directions.
        directions = torch.randn(self.count * self.bits, width, generator=generator, device=device)
        self.directions = directions.T.contiguous()  # (d, k * bits)
        # Sums of 1, label and prediction per bucket (k * 2^bits, 3). A float32 would stop counting
        # at 2^24.
        self.sums = torch.zeros(self.count << self.bits, 3, dtype=torch.float64, device=device)
        # What this rank wrote and the others do not have yet
        self.fresh = torch.zeros_like(self.sums) if collectives.world_size() > 1 else self.sums

    @property
    def total(self):
        """Examples written: each is in one bucket of the first array."""
        return int(self.sums[: 1 << self.bits, 0].sum())

    def address(self, keys):
        """Return the buckets (m, k) of keys (m, d): rows of `sums`, one in each array."""
        signs = (keys @ self.directions).gt_(0)  # (m, k * bits), 0 or 1
        signs = signs.view(-1, self.bits)  # -> (m * k, bits)
        # A float32 holds these whole numbers exactly, as they are below 2^24.
        powers = 2.0 ** torch.arange(self.bits, device=keys.device)
        buckets = (signs @ powers).long().view(len(keys), self.count)
        return buckets + (torch.arange(self.count, device=keys.device) << self.bits)

    def write(self, address, labels, predictions):
        """Add m examples of this rank. `settle` must follow before the next `read`.

        address (m, k): buckets, from `address`
        labels, predictions (m,)
        """
        outcomes = torch.stack([torch.ones_like(labels), labels, predictions], dim=1).double()
        # Add each example (m, 3) to its k buckets (m, k) -> (m * k,).
        self.fresh.index_add_(0, address.flatten(), outcomes.repeat_interleave(self.count, 0))

    def settle(self):
        """Add up what the ranks wrote. All ranks must call it."""
        if self.fresh is not self.sums:
            self.sums += collectives.all_reduce_(self.fresh)
            self.fresh.zero_()

    def read(self, address):
        """Return the Similar examples of m queries, one from each array.

        address (m, k): buckets of the queries, from `address`
        """
        sums = self.sums.index_select(0, address.flatten()).float()  # (m * k, 3)
        count, labels, predictions = sums.view(*address.shape, 3).unbind(2)  # (m, k) each
        fraction = (count / max(self.total, 1)).masked_fill(count == 0, -torch.inf)
        count = count.clamp(min=1)
        return Similar(fraction, labels / count, predictions / count)

    def state_dict(self):
        """Return the content of the memory. The tensors are not copies."""
        return {"directions": self.directions, "sums": self.sums}

    def load_state_dict(self, state):
        """Copy the content that `state_dict` returned."""
        overwrite(self.directions, state["directions"])
        overwrite(self.sums, state["sums"])
