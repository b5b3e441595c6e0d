"""OneBP and TwoBP trained against all items: --loss ELSA. Batches are of users, with all they have.

Shapes: B users of a batch, n interactions of them, U users, I items, D dim.
"""

import math

import torch
from torch import nn
from torch.nn import functional

import model
from distributed.gram import SumsAndGram
from engine.all_items import cosine_error, sums_matrices
from engine.tables import Weights, csr_tensor
from sampler import Histories


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

    def loss(self, trained, constant, place, users, row, items, kept):
        table = trained["item"]  # (I, D)
        matrices = sums_matrices(row, items, kept, (len(users), len(table)))
        sums, gram = SumsAndGram.apply(table, *matrices, self.args.matmul_precision)
        some, others = sums.chunk(2)  # (B, D) each
        sizes = matrices[0].crow_indices().diff().to(table.dtype)  # (2 B,)
        size_of_some, size_of_others = sizes.chunk(2)
        p, total = self.encode(some), some + others
        self.sums = total.detach()
        size = size_of_some + size_of_others
        errors = self.loss_of(p, total, some, gram, size, size_of_some)
        return errors.sum() / max(len(users), 1)  # a process may be left without users

    def encode(self, sums):
        """The users' encodings (B, D) from the sums of their items."""
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
