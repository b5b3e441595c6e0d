"""An epoch's batches: the training interactions in a new order, and the negatives, all drawn on the device.

Shapes: B batch, N negatives, b batches drawn at a time.
"""

import logging
import math
from functools import cached_property

import numpy as np
import torch

from cli.errors import RaisedByAllRanks
from distributed import collectives
from engine.negatives import UniformNegatives, WeightedNegatives
from engine.tables import UserItems, item_counts

log = logging.getLogger("onebp")


CHUNK = (
    1 << 16
)  # numbers drawn at a time, so that they stay in the cache, but at least those of one batch


class Batches:
    """An epoch's batches. A subclass has `size`, the examples per epoch, `batch_size`, and `epoch`, their generator."""

    common = False  # whether the same items are read on all ranks

    def complete(self, batch, sizes=()):
        """What a step gets of a batch of `epoch`. sizes: of the ranks' batches, where there are several ranks.

        All of them call it together.
        """
        return batch


class Sampler(Batches):
    """Batches of an epoch: every training interaction is in one of them. What the negatives are, subclasses say."""

    drawn = 0  # items drawn per interaction

    def __init__(self, known, args, generator, part=None):
        """known: csr_array (U, I) of all interactions that are no negatives; part: those of them that are positives.

        part is None for all. generator: on the device where the batches are wanted; all randomness is its.
        """
        part = known if part is None else part
        self.device, self.generator, self.batch_size = generator.device, generator, args.batch_size
        self.n_users = part.shape[0]
        users = np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(part.indptr))
        columns = (
            users,
            part.indices.astype(np.int32),
        )  # half the bytes of a batch's, of which there are few
        self.users, self.items = (
            torch.as_tensor(column, device=self.device) for column in columns
        )  # (interactions,)

    @property
    def size(self):
        """Interactions per epoch."""
        return len(self.users)

    @property
    def columns(self):
        """What is known of the interactions, one tensor (interactions,) each."""
        return self.users, self.items

    def epoch(self):
        """Yield (users (B,), items (B,), what `draw` says) until every interaction was in one batch."""
        order = torch.randperm(len(self.users), device=self.device, generator=self.generator)
        whole = len(order) - len(order) % self.batch_size
        at_once = max(1, CHUNK // (self.batch_size * max(1, self.drawn)))
        # (batches, B) in chunks, and what remains, (1, rest)
        for numbers in (
            *order[:whole].view(-1, self.batch_size).split(at_once),
            order[whole:][None],
        ):
            if numbers.numel():
                yield from self.at(numbers)

    def at(self, numbers):
        """The batches of the interactions with these numbers (b, B), before they are complete."""
        flat = numbers.flatten()
        users, items, *others = (
            column.index_select(0, flat).view(numbers.shape) for column in self.columns
        )
        users, items = users.long(), items.long()
        return zip(users, items, self.draw(users, items, *others), strict=True)

    @cached_property
    def spans(self):
        """Of each user, where its positives begin, and how many they are: (U,) each; all there are for who has none."""
        degree = torch.bincount(self.users, minlength=self.n_users)
        begin = degree.cumsum(0) - degree  # a user's are side by side
        return begin.where(degree > 0, 0), degree.where(degree > 0, len(self.users))

    def of(self, users):
        """A batch with a random positive of each of the users (B,), or of anybody where the user has none."""
        begin, degree = (table[users] for table in self.spans)  # (B,)
        uniform = torch.rand(
            users.shape, dtype=torch.float64, device=self.device, generator=self.generator
        )
        return self.complete(next(self.at((begin + (uniform * degree).long())[None])))

    @property
    def reads(self):
        """How many rows of items a step reads."""
        return self.batch_size * (1 + self.drawn)

    def draw(self, users, items):
        """What the steps of b batches need besides their users (b, B) and items (b, B): b tensors, or None b times.

        `columns` after the first two come as further arguments.
        """
        raise NotImplementedError

    def candidates(self, items, drawn):
        """The items whose encodings a step needs: (any number, B or more), first of all the positives (B,).

        From here on a batch's third and further parts are arguments.
        """
        return items[None]

    def scores(self, p, q, drawn):
        """Scores of the positives (B,) and of the negatives (N, B), -inf for what shall not be one.

        p (B, D): the users' encodings; q (*, D): those of `candidates`.
        """
        scores = (q * p).sum(-1)  # (candidates, B)
        return scores[0], scores[1:]


class NoNegatives(Sampler):
    """Positives alone, for losses that need nothing else."""

    def draw(self, users, items):
        return [None] * len(users)


class Uniform(Sampler):
    """--N negatives, all items that the user never interacted with equally likely."""

    def __init__(self, known, args, generator, part=None):
        """Raises UserError where no user has an item that could be a negative."""
        super().__init__(known, args, generator, part)
        self.drawn = args.N
        self.negatives = self.distribution(known, args)
        # Who has interacted with every item has no negative, and nothing to learn from.
        usable = self.negatives.unseen[self.users] > 0
        left_out = collectives.all_reduce_int(int((~usable).sum()))
        if left_out:
            log.info(
                "%d interactions of users who have every item are left out: they have no negative",
                left_out,
            )
            self.users, self.items = self.users[usable], self.items[usable]
        if not collectives.all_reduce_int(len(self.users)):
            raise RaisedByAllRanks(
                "every user in training has every item, so there is nothing to learn from; add items"
            )

    def distribution(self, known, args):
        """What draws the negatives."""
        return UniformNegatives(known, self.device)

    def draw(self, users, items):
        return self.negatives.draw(users, self.drawn, self.generator)

    def candidates(self, items, drawn):
        return torch.cat([items[None], drawn])  # (1 + N, B)


class ByPopularity(Uniform):
    """--N negatives, in proportion to (an item's known interactions)^--alpha; without any, as with one."""

    def distribution(self, known, args):
        counts = np.maximum(item_counts(known), 1)
        return WeightedNegatives(known, counts**args.alpha, self.device)


class DynamicNegatives(Uniform):
    """Dynamic negative sampling: of --candidates uniform ones, the --N with the highest scores.

    As they are drawn with replacement, an item can be among them twice. Source: Zhang et al., Optimizing top-n
    collaborative filtering via dynamic negative item sampling, SIGIR 2013.
    """

    def __init__(self, known, args, generator, part=None):
        super().__init__(known, args, generator, part)
        self.drawn, self.kept = args.candidates, args.N

    def scores(self, p, q, drawn):
        positive, negative = super().scores(p, q, drawn)
        return positive, negative.topk(self.kept, dim=0).values


class InBatch(NoNegatives):
    """The batch's other positives, on all ranks, but those that the user interacted with in training.

    As popular items come up more often, log Q is subtracted from a negative's score, Q being how often it is expected
    in a batch of this size: the sum over the negatives then stands for the sum over all items. The positive, which is
    always there, is not corrected. Source: Yi et al., Sampling-bias-corrected neural modeling, RecSys 2019.
    """

    common = True

    def __init__(self, known, args, generator, part=None):
        super().__init__(known, args, generator, part)
        self.seen, self.whole_size = (
            UserItems(known, self.device),
            collectives.all_reduce_int(self.batch_size),
        )
        counts = collectives.all_reduce_(torch.bincount(self.items, minlength=known.shape[1]))
        self.log_share = (counts.clamp(min=1) / counts.sum()).log()  # (I,)
        self.place = torch.full((known.shape[1],), -1, device=self.device)  # (I,) scratch

    @property
    def reads(self):
        return self.whole_size

    def complete(self, batch, sizes=()):
        """(users (B,), items (B,), what to add to the scores of all ranks' items (A, B), the other ranks' (A - B,)).

        The other ranks' are those of the next rank, of the one after it, and so on, round to the one before this one.
        """
        users, items, _ = batch
        others = items[:0]
        if len(sizes) > 1:
            parts = collectives.start_all_gather_padded(items, max(sizes))().view(
                len(sizes), -1
            )  # (W, the largest)
            parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
            others = torch.cat(parts[collectives.rank() + 1 :] + parts[: collectives.rank()])
        return users, items, self.offsets(users, torch.cat([items, others])), others

    def offsets(self, users, items):
        """users (B,), items (A,) -> (A, B), what to add to the score of the n-th item for the b-th user."""
        self.place[items] = torch.arange(len(items), device=self.device)
        row, item = self.seen.of(users)
        place = self.place[item]
        here = place >= 0
        own = torch.zeros(len(items), len(users), dtype=torch.bool, device=self.device)
        own[place[here], row[here]] = True
        own = own.index_select(
            0, self.place[items]
        )  # an item may be in the batch several times, but has one place
        self.place[items] = -1
        log_q = self.log_share[items] + math.log(len(items))
        return -log_q[:, None].masked_fill(own, torch.inf)

    def candidates(self, items, offsets, others):
        return torch.cat([items, others])[None]  # (1, A)

    def scores(self, p, q, offsets, others):
        return (q[0, : len(p)] * p).sum(-1), q[0] @ p.T + offsets  # (B,), (A, B)
