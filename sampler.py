"""Negative sampling: an epoch's batches of training interactions, with negatives.

All is drawn on the device. Shapes: B batch, N negatives, b batches drawn at a time, A items of all
ranks' batches.
"""

import logging
import math
from functools import cached_property

import numpy as np
import torch

from cli.errors import UserError
from distributed import collectives
from distributed.agreement import raise_on_all_ranks
from engine.negatives import UniformNegatives, WeightedNegatives
from engine.replay import Replay
from engine.tables import UserItems
from sources.share import item_counts

log = logging.getLogger("onebp")

# Interactions and negatives drawn at a time, so that they stay in the cache; at least one batch.
CHUNK = 1 << 16


class Batches:
    """An epoch's batches. A subclass has these attributes and implements `epoch`.

    size: examples per epoch
    batch_size: examples per batch
    """

    same_items_on_all_ranks = False  # whether the batches of all ranks read the same items
    own_piece_of_items = False  # whether each rank reads its piece of the items, for all ranks

    def epoch(self):
        """Yield the batches of an epoch, tuples whose first element has one entry per example."""
        raise NotImplementedError

    def exchange(self, batch, sizes=()):
        """Add to a batch of `epoch` what its step needs of other ranks' batches. All ranks call it.

        sizes: of the ranks' batches; empty in one process
        """
        return batch


class Shuffled(Batches):
    """Batches in random order: of all examples or, in an update, of the new and some old ones.

    A subclass has `users`, the user of each example.
    """

    replay = None  # engine.replay.Replay of an update

    def learn(self, new, share):
        """From now on, learn new interactions (U, I), and replay old ones. share: see Replay"""
        self.replay = Replay(self.are_new(new), share)

    def are_new(self, new):
        """Whether each example has interactions of `new`, bool. new: csr_array (U, I)"""
        raise NotImplementedError

    @property
    def size(self):
        return self.replay.size if self.replay else len(self.users)

    def order(self):
        """Places (size,) of an epoch's examples, in its order."""
        if self.replay:
            return self.replay.order(self.generator)
        return torch.randperm(len(self.users), device=self.device, generator=self.generator)


class Sampler(Shuffled):
    """Every training interaction is in one batch of an epoch. Subclasses draw the negatives."""

    n_drawn = 0  # items drawn per interaction

    def __init__(self, known, args, generator, positives=None):
        """known: csr_array (U, I) of the interactions that are never negatives
        args: the flags
        generator: draws all random numbers, on the device where the batches are wanted
        positives: csr_array (U, I), those of `known` to train on; None: all
        """
        positives = known if positives is None else positives
        self.device, self.generator, self.batch_size = generator.device, generator, args.batch_size
        self.n_users = positives.shape[0]
        users = np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(positives.indptr))
        # int32 takes half the memory of a batch's int64. (interactions,) each
        self.users = torch.as_tensor(users, device=self.device)
        self.items = torch.as_tensor(positives.indices.astype(np.int32), device=self.device)

    def are_new(self, new):
        width = new.shape[1]
        users, items = (torch.as_tensor(part, device=self.device) for part in new.nonzero())
        return torch.isin(self.users.long() * width + self.items, users.long() * width + items)

    @property
    def columns(self):
        """Tensors (interactions,) about the interactions: users, items, and perhaps more."""
        return self.users, self.items

    def epoch(self):
        """Yield (users (B,), items (B,), what `draw` returns for the batch)."""
        order = self.order()
        whole = len(order) - len(order) % self.batch_size
        at_once = max(1, CHUNK // (self.batch_size * max(1, self.n_drawn)))
        for chosen in order[:whole].view(-1, self.batch_size).split(at_once):  # (b, B)
            if chosen.numel():
                yield from self.batches_at(chosen)
        if whole < len(order):
            yield from self.batches_at(order[whole:][None])  # (1, rest)

    def batches_at(self, chosen):
        """The batches of the interactions at the places `chosen` (b, B), before `exchange`."""
        flat = chosen.flatten()
        users, items, *others = (column.index_select(0, flat) for column in self.columns)
        users, items = (column.view(chosen.shape).long() for column in (users, items))
        others = (column.view(chosen.shape) for column in others)
        return zip(users, items, self.draw(users, items, *others), strict=True)

    def empty_batch(self):
        return next(self.batches_at(self.users[None, :0]))

    @cached_property
    def user_spans(self):
        """Offset and number of each user's positives, (U,) each; if none, those of all users."""
        degree = torch.bincount(self.users, minlength=self.n_users)
        begin = degree.cumsum(0) - degree  # the interactions are sorted by user
        return begin.where(degree > 0, 0), degree.where(degree > 0, len(self.users))

    def positives_of(self, users):
        """A batch with a random positive of each user (B,), or of anybody if the user has none."""
        begin, degree = (table[users] for table in self.user_spans)  # (B,)
        uniform = torch.rand(
            users.shape, dtype=torch.float64, device=self.device, generator=self.generator
        )
        chosen = begin + (uniform * degree).long()
        return self.exchange(next(self.batches_at(chosen[None])))

    @property
    def item_rows_per_step(self):
        """Rows of items that a step reads."""
        return self.batch_size * (1 + self.n_drawn)

    def draw(self, users, items):
        """The negatives of b batches, or what else a loss needs: one element per batch.

        users (b, B), items (b, B): of the batches
        Further arguments: the `columns` after the first two, (b, B) each
        """
        raise NotImplementedError

    def candidates(self, items, drawn):
        """The items whose encodings a step needs, (C, B or more). The first B are the positives.

        items (B,); drawn: what is in the batch after users and items, from `draw` or `exchange`
        """
        return items[None]

    def scores(self, p, q, drawn):
        """Scores of the positives (B,) and of the negatives (N, B); a masked negative is -inf.

        p (B, D): encodings of the users
        q (C, B or more, D): encodings of `candidates`
        """
        scores = (q * p).sum(-1)  # (C, B)
        return scores[0], scores[1:]


class NoNegatives(Sampler):
    """Positives alone, for losses without negatives."""

    def draw(self, users, items):
        return [None] * len(users)


class Uniform(Sampler):
    """--N negatives: items without a training interaction of the user, all equally likely."""

    def __init__(self, known, args, generator, positives=None):
        """Raises UserError if no user has an item that could be a negative."""
        super().__init__(known, args, generator, positives)
        self.n_drawn = args.N
        self.negatives = self.distribution(known, args)
        # A user who has interacted with every item has no negative.
        usable = self.negatives.unseen[self.users] > 0
        left_out = collectives.all_reduce_int(int((~usable).sum()))
        if left_out:
            log.info(
                "%d interactions of users who have every item are left out: they have no negative",
                left_out,
            )
            self.users, self.items = self.users[usable], self.items[usable]
        left = collectives.all_reduce_int(len(self.users))
        with raise_on_all_ranks():
            if not left:
                raise UserError(
                    "every user in training has every item, so there is nothing to learn from; "
                    "add items"
                )

    def distribution(self, known, args):
        """What draws the negatives, like engine.negatives.UniformNegatives."""
        return UniformNegatives(known, self.device)

    def draw(self, users, items):
        return self.negatives.draw(users, self.n_drawn, self.generator)

    def candidates(self, items, drawn):
        return torch.cat([items[None], drawn])  # (1 + N, B)


class ByPopularity(Uniform):
    """--N negatives, in proportion to (an item's known interactions)^--alpha.

    Items without interactions count as having one.
    """

    def distribution(self, known, args):
        counts = np.maximum(item_counts(known), 1)
        return WeightedNegatives(known, counts**args.alpha, self.device)


class DynamicNegatives(Uniform):
    """Dynamic negative sampling: of --candidates uniform items the --N with the highest scores.

    Items are drawn with replacement, so one can occur twice. Source: Zhang et al., Optimizing top-n
    collaborative filtering via dynamic negative item sampling, SIGIR 2013.
    """

    def __init__(self, known, args, generator, positives=None):
        super().__init__(known, args, generator, positives)
        self.n_drawn, self.n_kept = args.candidates, args.N

    def scores(self, p, q, drawn):
        positive, negative = super().scores(p, q, drawn)
        return positive, negative.topk(self.n_kept, dim=0).values


class InBatch(NoNegatives):
    """The other positives of the batch, of all ranks, but for items of the user's own training.

    Popular items occur in batches more often. So log Q is subtracted from a negative's score, Q
    being how often the item is expected in a batch of this size: the sum over the negatives then
    estimates the sum over all items. The positive, which is always there, is not corrected.
    Source: Yi et al., Sampling-bias-corrected neural modeling, RecSys 2019.
    """

    same_items_on_all_ranks = True

    def __init__(self, known, args, generator, positives=None):
        super().__init__(known, args, generator, positives)
        self.seen = UserItems(known, self.device)
        self.whole_size = collectives.all_reduce_int(self.batch_size)  # of all ranks together
        self.place = torch.full((known.shape[1],), -1, device=self.device)  # (I,) scratch

    @cached_property
    def log_share(self):
        """The logarithm of each item's share of an epoch's positives (I,)."""
        often = self.replay.frequency(len(self.items)) if self.replay else None
        counts = torch.bincount(self.items, often, minlength=len(self.place))
        counts = collectives.all_reduce_(counts)
        return (counts.clamp(min=1) / counts.sum()).log()

    @property
    def item_rows_per_step(self):
        return self.whole_size

    def exchange(self, batch, sizes=()):
        """(users (B,), items (B,), score offsets (A, B), the A - B items of the other ranks).

        The offsets are for the items of this rank, then of the next rank, and so on, round to the
        one before this rank.
        """
        users, items, _ = batch
        others = items[:0]
        if len(sizes) > 1:
            padded = collectives.start_all_gather_padded(items, max(sizes))()  # (W * the largest,)
            by_rank = collectives.without_padding(padded, sizes)
            own = collectives.rank()
            others = torch.cat(by_rank[own + 1 :] + by_rank[:own])
        return users, items, self.offsets(users, torch.cat([items, others])), others

    def offsets(self, users, items):
        """What to add to the score of each item for each user: users (B,), items (A,) -> (A, B).

        -log Q of the item, or -inf if the user interacted with it in training.
        """
        # Find the users' own items among those of the batch: an item's last place in the batch.
        self.place[items] = torch.arange(len(items), device=self.device)
        row, item = self.seen.pairs_of(users)
        place = self.place[item]
        in_batch = place >= 0
        own = torch.zeros(len(items), len(users), dtype=torch.bool, device=self.device)
        own[place[in_batch], row[in_batch]] = True
        # An item that occurs several times has one place: copy its row to all of its places.
        own = own.index_select(0, self.place[items])
        self.place[items] = -1
        log_q = self.log_share[items] + math.log(len(items))
        return -log_q[:, None].masked_fill(own, torch.inf)

    def candidates(self, items, offsets, others):
        return torch.cat([items, others])[None]  # (1, A)

    def scores(self, p, q, offsets, others):
        return (q[0, : len(p)] * p).sum(-1), q[0] @ p.T + offsets  # (B,), (A, B)
