"""OneBP and TwoBP trained against all items: --loss ELSA. Batches are of users, with all they have.

Shapes: B users of a batch, n interactions of them, U users, I items, D dim.
"""

import torch
from torch.nn import functional

import model
from engine.all_items import cosine_error, sums_matrices
from engine.tables import SparseProduct, csr_tensor
from sampler import Histories


class TwoBP(model.TwoBP):
    """A user's encoding is the sum of the user's items, whose encodings have length 1.

    The loss compares the user's scores of all items with the user's items, see
    engine.all_items.cosine_error. Its gradient goes through the user's side, too: that is ELSA.
    """

    identifying = ("model", "encoder", "dim", "loss")
    towers = ("item",)  # a user's encoding is made of the items

    def make_encoder(self):
        encoder = super().make_encoder()
        encoder.by_row = False  # all items move in every step
        encoder.compiles = False  # torch.compile does not take sparse products
        return encoder

    def make_sampler(self):
        return Histories(self.data.train, self.args, self.generator)

    def make_loss(self):
        return cosine_error

    def rows_of(self, *batch):
        return {}

    def loss(self, trained, constant, place, users, row, items, kept):
        a = functional.normalize(trained["item"], dim=1)  # (I, D)
        matrices = sums_matrices(row, items, kept, (len(users), len(a)))
        total, some = SparseProduct.apply(a, *matrices).chunk(2)  # (B, D) each
        size, kept_size = (
            torch.bincount(rows, minlength=len(users)).to(a.dtype) for rows in (row, row[kept])
        )
        p = self.encode(some)
        return self.loss_of(p, total, some, a.T @ a, size, kept_size).mean()

    def encode(self, sums):
        """The users' encodings (B, D) from the sums of their items."""
        return sums

    def after_step(self, weights, place, *batch):
        """Nothing: users follow from the items."""

    def for_inner_product(self, *encodings):
        return encodings

    def encodings(self):
        """Encodings of users (U, D), the sums of their items', and of items (I, D)."""
        a = functional.normalize(self.weights["item"], dim=1)
        train = self.data.train
        ones = torch.ones(train.nnz, device=a.device)
        sums = csr_tensor(train.indptr, train.indices, ones, train.shape, a.device)
        return sums @ a, a

    def mean_user(self, trained):
        return self.encodings()[0][trained].mean(0)

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
        return encodings.index_add_(0, users, a[items])


class OneBP(TwoBP):
    """One backpropagation: no gradient goes through the users, whom their items move."""

    def encode(self, sums):
        return sums.detach()
