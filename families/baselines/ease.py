"""EASE: a linear model of items in closed form."""

import os

import numpy as np
import torch

from cli.errors import UserError
from engine.tables import UserItems, csr_tensor
from families.baselines.closed_form import SolvedAtOnce


class EASE(SolvedAtOnce):
    """Scores X B with the B of zero diagonal that is least in |X - X B|^2 + reg |B|^2, X being the training part.

    With P = (X^T X + reg I)^-1, B = I - P / diag(P) by columns, and the sum of squares is sum_i 1 / P_ii - reg. Source:
    Steck, arXiv 1905.03375.
    """

    COPIES = 3  # of an I x I matrix, at the peak

    def __init__(self, data, args, device):
        """Raises UserError where the matrices do not fit into memory."""
        super().__init__(data, args, device)
        items = data.shape[1]
        needed, there = self.COPIES * 4 * items**2, memory(device)
        if needed > there:
            raise UserError(
                f"EASE needs {needed / 1e9:.0f} GB for its {items:,} x {items:,} matrices, {device} has "
                f"{there / 1e9:.0f} GB; take another --model or a data set with fewer items"
            )
        self.seen = UserItems(data.train, device)
        self.weights = torch.zeros(items, items, device=device)  # B (I, I)

    def solve(self):
        """Invert; returns the least sum of squares per interaction."""
        train = self.data.train.astype(np.float32)
        gram = torch.as_tensor((train.T @ train).toarray(), device=self.device)  # (I, I)
        gram.diagonal().add_(self.args.reg)
        try:
            gram = torch.linalg.cholesky(gram)  # not both at a time
        except torch.linalg.LinAlgError:
            raise UserError(
                f"--reg {self.args.reg:g} leaves EASE no solution in single precision; change it"
            ) from None
        inverse = torch.cholesky_inverse(gram)  # P
        del gram
        if (
            not inverse.is_contiguous()
        ):  # by columns; P is symmetric, and by rows no product has to copy it first
            inverse = inverse.T
        scale = 1 / inverse.diagonal()
        self.weights = inverse.mul_(-scale).fill_diagonal_(0)
        return ((scale - self.args.reg).sum() / train.nnz).item()

    def scorer(self):
        return self

    def encodings(self):
        """EASE has none: raises UserError."""
        raise UserError(
            "EASE scores by a matrix of items and has no encodings; take another --model"
        )

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I); see evaluate.DotProduct."""
        row, item = self.seen.pairs_of(users)  # the pairs of X's rows
        begin = torch.searchsorted(row, torch.arange(len(users) + 1, device=self.device))
        ones = torch.ones(len(item), device=self.device)
        x = csr_tensor(begin, item, ones, (len(users), len(self.weights)), self.device)  # (b, I)
        out.copy_(x @ self.weights)

    def state_dict(self):
        """B, live."""
        return {"weights": self.weights}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        self.weights.copy_(state["weights"])


def memory(device):
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
