"""OneBP and TwoBP trained against all items: --loss ELSA. Batches are of users, with all they have.

Shapes: B users of a batch, A users of the batches of all ranks, n interactions, U users, I items, J
items of this rank's piece, D dim.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import model
from distributed import collectives
from distributed.gram import SumsAndGram
from engine.all_items import cosine_error, sums_matrices
from engine.tables import UserItems, Weights, csr_tensor
from sampler import Shuffled


class Histories(Shuffled):
    """Every user with training interactions is in one batch of an epoch, with all of them.

    There are no negatives: a loss over all items needs none.
    """

    own_piece_of_items = True

    def __init__(self, train, args, generator):
        """train: csr_array (U, I)
        args: the flags; uses batch_size, in users, and dropout
        generator: draws all random numbers, on the device where the batches are wanted
        """
        self.device, self.generator = generator.device, generator
        self.batch_size, self.dropout = args.batch_size, args.dropout
        self.users = torch.as_tensor(np.flatnonzero(np.diff(train.indptr)), device=self.device)
        self.items = UserItems(train, self.device)
        self.item_rows_per_step = self.n_items = train.shape[1]

    def are_new(self, new):
        return torch.as_tensor(np.diff(new.indptr) > 0, device=self.device)[self.users]

    def epoch(self):
        """Yield (users (B,), row (n,), items (n,), kept (n,)).

        The n interactions are those of the users; `row` is the place of their user in the batch.
        kept: whether an interaction is in the history that the user is encoded from; it is left
        out with the probability --dropout
        """
        for users in self.users[self.order()].split(self.batch_size):
            yield self.batch_of(users)

    def batch_of(self, users):
        """The batch of some users (B,)."""
        row, items = self.items.pairs_of(users)
        drawn = torch.rand(len(items), device=self.device, generator=self.generator)
        return users, row, items, drawn >= self.dropout

    def empty_batch(self):
        return self.batch_of(self.users[:0])

    def exchange(self, batch, sizes):
        """(users (B,), matrix (2 A, J), its transpose, number of items of each sum (2 A,)).

        The matrix adds up the items of this rank's piece, J of them, for the users of all ranks in
        the order of the ranks, see engine.all_items.sums_matrices. The numbers are of all pieces.

        sizes: B of each rank
        """
        users, row, items, kept = batch
        count, own = sum(sizes), collectives.own_piece(self.n_items)
        # Get the interactions of the other ranks' users.
        if len(sizes) > 1:
            begin = sum(sizes[: collectives.rank()])
            columns = torch.stack([begin + row, items, kept], 1)  # (n, 3)
            row, items, kept = collectives.all_gather_rows(columns.int()).long().unbind(1)
            kept = kept == 1
        numbers = torch.bincount(row + count * ~kept, minlength=2 * count)
        # Keep those with an item of this rank's piece.
        if len(sizes) > 1:
            mine = (items >= own.start) & (items < own.stop)
            row, items, kept = row[mine], items[mine] - own.start, kept[mine]
        return users, *sums_matrices(row, items, kept, (count, own.stop - own.start)), numbers


class Items(Weights):
    """A table of items (I, D), Xavier-normal at the start, and with --beta one of users (U, D)."""

    by_row = False  # all items move in every step
    compiles = False  # torch.compile does not take sparse products

    def __init__(self, data, args, generator):
        super().__init__()
        items = torch.empty(data.shape[1], args.dim, device=generator.device)
        nn.init.normal_(items, std=math.sqrt(2 / sum(items.shape)), generator=generator)
        self.register("item", items, of="item", per="item")
        if args.beta:
            users = torch.zeros(data.shape[0], args.dim, device=generator.device)
            self.register("user", users, of="user", per="user")


class TwoBP(model.TwoBP):
    """A user's encoding is the sum of the user's items, whose encodings have length 1.

    The loss compares the user's scores of all items with the user's items, see
    engine.all_items.cosine_error. Its gradient goes through the user's side, too: that is ELSA.
    """

    identifying = ("model", "encoder", "dim", "loss")
    towers = ("item",)  # a user's encoding is made of the items
    beta2 = 0.99  # a run has a few hundred steps, and each moves all items

    def make_encoder(self):
        return Items(self.data, self.args, self.generator)

    def make_sampler(self):
        sampler = Histories(self.data.train, self.args, self.generator)
        if self.data.update:
            sampler.learn(self.data.update.new, self.args.replay)
        return sampler

    def make_loss(self):
        return cosine_error

    def rows_of(self, *batch):
        return {"item": None}  # all

    def loss(self, trained, constant, place, users, matrix, transposed, numbers):
        """The mean loss of all ranks' users; its gradient is that of this rank's piece of items.

        users, matrix, transposed, numbers: from Histories.exchange
        """
        table = trained["item"]
        sums, gram = SumsAndGram.apply(table, matrix, transposed, self.args.matmul_precision)
        some, others = sums.chunk(2)  # (A, D) each
        size_of_some, size_of_others = numbers.to(table.dtype).chunk(2)  # (A,) each
        p, total = self.encode(some), some + others
        # Of these users, keep the sums of this rank's for after_step.
        begin = self.optimizer.begin
        self.sums = total.detach()[begin : begin + len(users)]  # (B, D) of this rank's users
        size = size_of_some + size_of_others
        return self.loss_of(p, total, some, gram, size, size_of_some).mean()

    def weighted_loss(self, *arguments):
        """This rank's share of the loss, with the whole gradient: the ranks' are not summed."""
        loss = self.loss(*arguments)
        return loss - (1 - self.optimizer.share) * loss.detach()

    def encode(self, sums):
        """The users' encodings (A, D) from the sums of their items (A, D)."""
        return sums

    def for_inner_product(self, users):
        """Encodings (..., D) of users, of length 1 where something is added to their scores.

        Sums differ in length, so what is added would not count the same for each user.
        """
        return functional.normalize(users, dim=-1) if self.args.popularity_weight else users

    def encodings(self):
        """Encodings of users (U, D), the sums of their items', and of items (I, D)."""
        users, items = self.sums_and_items()
        return self.for_inner_product(users), items

    def sums_and_items(self):
        """The sums (U, D) of the users' items, and the items' encodings (I, D)."""
        a = functional.normalize(self.weights["item"], dim=1)
        train = self.data.train
        ones = torch.ones(train.nnz, device=a.device)
        sums = csr_tensor(train.indptr, train.indices, ones, train.shape, a.device)
        return sums @ a, a

    def mean_user(self, trained):
        return self.for_inner_product(self.sums_and_items()[0][trained].mean(0))

    def encode_history(self, users, items, count, trained):
        """Encodings (count, D) of new users: the sums of their items', as for trained users.

        users (H,): numbers from 0 to count - 1
        items (H,): each once for a user
        trained (U,): bool, whether a user of the data set has training interactions

        A user without items gets the mean of the trained users.
        """
        a = functional.normalize(self.weights["item"], dim=1)
        encodings = self.mean_user(trained).repeat(count, 1)  # (count, D)
        known = users.unique()
        encodings[known] = 0
        return self.for_inner_product(encodings.index_add_(0, users, a[items]))

    def rows_of_new_users(self, users, items, count, trained):
        """Rows (count, D) of the table of users, see encode_history."""
        a = functional.normalize(self.weights["item"], dim=1)
        return torch.zeros_like(a[:1]).repeat(count, 1).index_add_(0, users, a[items])


class OneBP(TwoBP):
    """One backpropagation: no gradient goes through the users, whom their items move.

    With --beta 0 a user's encoding is the sum of the user's items as they are now. Else it is a
    moving average of these sums as the steps saw them.
    """

    def encode(self, sums):
        return sums.detach()

    def after_step(self, weights, place, users, *batch):
        """Move the users (B,) of the batch towards the sums of their items."""
        if self.args.beta:
            weights["user"][users] = weights["user"][users].lerp(self.sums, 1 - self.args.beta)

    def sums_and_items(self):
        users, items = super().sums_and_items()
        return self.weights.get("user", users), items
