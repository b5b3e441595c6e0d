"""ReLoop2's memories of recent errors, and how they correct a prediction. They know no model, only keys.

Source: Zhu et al., ReLoop2: building self-adaptive recommendation models via responsive error compensation loop, KDD
2023, arXiv 2306.08808. Shapes: m examples, d numbers of a key, k similar examples.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engine.topk import grouped_topk, topk_group_width
from utils import make_generator

BLOCK_SIMILARITIES = 1 << 23  # held at a time, 32 MB


class Similar(NamedTuple):
    """What a memory has for m queries: k similar examples each, the most similar first where they are ordered."""

    similarity: Tensor  # (m, k), -inf where there is none
    labels: Tensor  # (m, k)
    predictions: Tensor  # (m, k), of the base model

    def first(self, count):
        """Only the first `count` of them."""
        return Similar(*(part[:, :count] for part in self))


def recalled(similar, tau):
    """Mean label and mean prediction of the base model over similar examples, weighted by softmax(s / tau): (m,) each.

    nan where there are no similar examples.
    """
    weights = (similar.similarity / tau).softmax(1)  # (m, k)
    return (weights * similar.labels).sum(1), (weights * similar.predictions).sum(1)


def corrected(predictions, label, base, strength, gamma):
    """Predictions y (m,) of the base model, corrected by what was `recalled`:

        y + strength * (gamma (label - y) + (1 - gamma) (label - base)), held within 0 and 1

    gamma = 1 makes it (1 - strength) y + strength label. Where nothing was recalled it stays as it is.
    """
    error = gamma * (label - predictions) + (1 - gamma) * (label - base)
    return torch.where(error.isnan(), predictions, (predictions + strength * error).clamp(0, 1))


class NearestNeighbourMemory:
    """--memory knn: the last `size` examples; similar are the `count` with the largest cosine of their keys."""

    def __init__(self, width, args, device):
        """width: d. Of args: memory_size, memory_k."""
        self.size, self.count = args.memory_size, args.memory_k
        self.keys = torch.zeros(0, width, device=device)  # (stored, d), of length 1
        self.known = torch.zeros(0, 2, device=device)  # (stored, 2) labels and predictions
        self.written = 0  # examples; example number e is in row e % size

    def address(self, keys):
        """What `read` and `write` take for keys (m, d)."""
        return functional.normalize(keys)

    def write(self, address, labels, predictions):
        """Add m examples, the latest last; the oldest leave."""
        address, labels, predictions = (
            part[-self.size :] for part in (address, labels, predictions)
        )
        known = torch.stack([labels, predictions], dim=1)  # (m, 2)
        room = min(self.size - len(self.keys), len(address))
        self.keys = torch.cat([self.keys, address[:room]])
        self.known = torch.cat([self.known, known[:room]])
        place = (
            self.written + torch.arange(room, len(address), device=self.keys.device)
        ) % self.size
        self.keys[place], self.known[place] = address[room:], known[room:]
        self.written = (
            (self.written + len(address)) % self.size
            if len(self.keys) == self.size
            else len(self.keys)
        )

    def read(self, address):
        """The Similar examples of m queries."""
        count = min(self.count, len(self.keys))
        if not count:
            nothing = address.new_zeros(len(address), 1)
            return Similar(nothing - torch.inf, nothing, nothing)
        width = topk_group_width(len(self.keys), count)
        padded = -(-len(self.keys) // width) * width
        buffer = address.new_empty(max(1, BLOCK_SIMILARITIES // padded), padded)
        found = []
        for block in address.split(len(buffer)):
            cosine = buffer[: len(block)]
            torch.mm(
                block, self.keys.T, out=cosine[:, : len(self.keys)]
            )  # (b, d) (d, stored) -> (b, stored)
            cosine[:, len(self.keys) :] = -torch.inf
            similarity, place = grouped_topk(cosine, count, width)  # (b, k) each
            found.append(Similar(similarity, *self.known[place].unbind(2)))
        return Similar(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def state_dict(self):
        """All that is remembered. The tensors are live ones, no copies."""
        return {"keys": self.keys, "known": self.known, "written": self.written}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        device = self.keys.device
        self.keys, self.known = (state[name].to(device, copy=True) for name in ("keys", "known"))
        self.written = state["written"]


class HashMemory:
    """--memory lsh: sums over the examples that fall into the same bucket, in `count` arrays of 2^bits buckets.

    A key's bucket in an array is the signs of its products with `bits` random directions (SimHash: one sign is equal
    for two keys with probability 1 - angle / pi; Charikar, STOC 2002). An array gives as one similar example its
    bucket's mean label and prediction; how similar it is, is the share of all examples that are in the bucket (RACE:
    Coleman & Shrivastava, WWW 2020). Memory and time of a read or a write do not depend on how many were written.
    """

    def __init__(self, width, args, device):
        """width: d. Of args: memory_k, memory_bits, seed."""
        self.count, self.bits = args.memory_k, args.memory_bits
        generator = make_generator(args.seed, device)
        # By arrays, so that fewer of them are the first of these.
        directions = torch.randn(self.count * self.bits, width, generator=generator, device=device)
        self.directions = directions.T.contiguous()  # (d, k * bits)
        # Of count, labels, predictions; a float32 would stop counting at 2^24.
        self.sums = torch.zeros(self.count << self.bits, 3, dtype=torch.float64, device=device)
        self.total = 0

    def address(self, keys):
        """Buckets (m, k) of keys (m, d), numbered through over the arrays."""
        signs = (
            (keys @ self.directions).gt_(0).view(-1, self.bits)
        )  # (m, k * bits) -> (m * k, bits), 0 or 1
        powers = 2.0 ** torch.arange(self.bits, device=keys.device)
        buckets = (
            (signs @ powers).long().view(len(keys), self.count)
        )  # whole numbers below 2^24 are exact
        return buckets + (torch.arange(self.count, device=keys.device) << self.bits)

    def write(self, address, labels, predictions):
        """Add m examples."""
        example = torch.stack(
            [torch.ones_like(labels), labels, predictions], dim=1
        ).double()  # (m, 3)
        self.sums.index_add_(
            0, address.flatten(), example.repeat_interleave(self.count, 0)
        )  # (m, k) -> (m * k,)
        self.total += len(labels)

    def read(self, address):
        """The Similar examples of m queries, one from each array."""
        sums = (
            self.sums.index_select(0, address.flatten()).float().view(*address.shape, 3)
        )  # (m * k, 3) -> (m, k, 3)
        count, labels, predictions = sums.unbind(2)
        share = (count / max(self.total, 1)).masked_fill(count == 0, -torch.inf)
        count = count.clamp(min=1)
        return Similar(share, labels / count, predictions / count)

    def state_dict(self):
        """All that is remembered. The tensors are live ones, no copies."""
        return {"directions": self.directions, "sums": self.sums, "total": self.total}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        device = self.sums.device
        self.directions, self.sums = (
            state[name].to(device, copy=True) for name in ("directions", "sums")
        )
        self.total = state["total"]
