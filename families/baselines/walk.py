"""Walk: from the user's items to their users, and on to the items of these.

Shapes: U users, I items, b users of a block.
"""

from functools import partial

import numpy as np
import torch

from engine.tables import csr_tensor
from evaluate import BLOCK_SCORES, best_variant
from families.baselines.linear import Linear
from sources.share import item_counts

# What --walk_beta auto chooses from: 0 to 1, in steps of 0.05.
BETAS = [step / 20 for step in range(21)]


class Walk(Linear):
    """A walk of three steps: from the user to an item j, to a user v of j, to an item i of v.

    score_i = n_i^-beta * sum over the user's items j of n_j^-alpha
                        * sum over the users v of j of r_vi / d_v

    n_i: users of item i; d_v: items of user v; r_vi: 1 if v has i, else 0. With alpha = 1 and
    beta = 0 it is the chance that a random walk ends in i, times the number of the user's items.
    No product of matrices is stored. Source: Paudel et al., Updatable, accurate, diverse and
    scalable recommendations for interactive applications, TiiS 2017 (RP3beta).
    """

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.alpha, self.beta = args.walk_alpha, args.walk_beta
        # The matrices of the second and of the third step: X (U, I), and r_vi / d_v (I, U).
        to_users = data.train.astype(np.float32)
        to_users.data[:] = 1
        degree = np.diff(to_users.indptr)
        to_items = to_users.copy()
        to_items.data /= np.repeat(degree, degree)
        self.to_users, self.to_items = (
            csr_tensor(matrix.indptr, matrix.indices, matrix.data, matrix.shape, device)
            for matrix in (to_users, to_items.T.tocsr())
        )
        # No walk ends in an item without users.
        counts = np.maximum(item_counts(data.train), 1)
        self.counts = torch.as_tensor(counts, device=device).float()  # n (I,)

    def solve(self):
        """Choose --walk_beta auto. Returns 0: a walk has no loss."""
        if self.args.walk_beta == "auto":
            self.beta = self.best_beta()
        return 0.0

    def best_beta(self):
        """The exponent of BETAS with the best metrics on the validation split."""
        self.beta, evaluator = 0.0, self.evaluators["valid"]
        variants = [partial(self.damp, beta) for beta in BETAS]
        return BETAS[best_variant(evaluator, self, variants, evaluator.users)]

    def chosen_flags(self):
        return {"walk_beta": self.beta} if self.args.walk_beta == "auto" else {}

    def damp(self, beta, scores):
        """Divide scores (..., I) by n_i^beta, in place. Returns them."""
        return scores.mul_(self.counts**-beta)

    def scores_of_rows(self, x):
        # By so few users at a time that an array with all users and them has no more numbers than
        # a block of scores.
        width = max(BLOCK_SCORES // self.data.shape[0], 1)
        begin = (x.to_dense() * self.counts**-self.alpha).T  # (I, b)
        ends = [self.to_items @ (self.to_users @ part) for part in begin.split(width, dim=1)]
        return self.damp(self.beta, torch.cat(ends, dim=1).T)

    def state_dict(self):
        """The exponents; the data decide everything else."""
        return {"alpha": self.alpha, "beta": self.beta}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        self.alpha, self.beta = state["alpha"], state["beta"]
