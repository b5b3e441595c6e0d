"""EASE: a linear model of items in closed form.

Shapes: U users, I items.
"""

import numpy as np
import torch

from cli.errors import UserError
from engine.tables import overwrite
from families.baselines.linear import Linear


class EASE(Linear):
    """Scores X B. X (U, I) is the training split, B (I, I) a matrix of weights with zero diagonal.

    B minimises |X - X B|^2 + reg |B|^2. With P = (X^T X + reg I)^-1 it is B = I - P / diag(P),
    which divides each column by its diagonal element. The minimum is sum_i (1 / P_ii - reg).
    Source: Steck, arXiv 1905.03375.
    """

    weights = None  # B (I, I), once it is solved or loaded

    def solve(self):
        """Compute B. Returns the minimum, divided by the number of training interactions."""
        # Invert X^T X + reg I. Its Cholesky factor replaces it, which frees its memory.
        train = self.data.train.astype(np.float32)
        gram = torch.as_tensor((train.T @ train).toarray(), device=self.device)  # (I, I)
        gram.diagonal().add_(self.args.reg)
        no_solution = UserError(
            f"--reg {self.args.reg:g} leaves EASE no solution in single precision; change it"
        )
        try:
            gram = torch.linalg.cholesky(gram)
        except torch.linalg.LinAlgError:
            raise no_solution from None
        inverse = torch.cholesky_inverse(gram)  # P
        del gram
        # If P is stored column by column, so is B, and each product would copy B. P is symmetric,
        # so its transpose has the same values, stored row by row.
        if not inverse.is_contiguous():
            inverse = inverse.T

        # Divide the columns by the diagonal, in place. It is zero if --reg is infinite in single
        # precision: cholesky may take such a matrix, depending on its size and on the threads.
        scale = 1 / inverse.diagonal()
        if not scale.isfinite().all():
            raise no_solution
        self.weights = inverse.mul_(-scale).fill_diagonal_(0)
        return ((scale - self.args.reg).sum() / train.nnz).item()

    def scores_of_rows(self, x):
        return x @ self.weights

    def state_dict(self):
        """B, not a copy."""
        return {"weights": self.weights}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        items = self.data.shape[1]
        self.weights = torch.empty(items, items, device=self.device)
        overwrite(self.weights, state["weights"])
