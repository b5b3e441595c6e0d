"""Models without gradients, under the same data, evaluation and output, to put a result in its place."""

import os

import numpy as np
import torch
from scipy.sparse import csr_matrix

from errors import UserError
from evaluate import SeenItems, popularity_encodings
from recommender import Recommender
from utils import csr_tensor


class SolvedAtOnce(Recommender):
    """A model that is the solution of an equation: its one epoch has one step."""

    steps_per_epoch = 1

    def train_epoch(self, lr, on_step):
        """Solve; returns the loss at the solution, per interaction."""
        loss = self.solve()
        on_step()
        return loss


class Popularity(SolvedAtOnce):
    """The same list for every user: items by their number of training interactions."""

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.counts = popularity_encodings(data.train, device)

    def solve(self):
        """The model is the data; its loss is the mean of -log(an item's share of the interactions)."""
        counts = np.bincount(self.data.train.indices)
        counts = counts[counts > 0]
        return float(-(counts / counts.sum() * np.log(counts / counts.sum())).sum())

    def encodings(self):
        """(U, 1) and (I, 1)"""
        return self.counts

    def state_dict(self):
        """Nothing that the data does not tell."""
        return {}

    def load_state_dict(self, state):
        """Nothing to take over."""


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
        self.seen = SeenItems(data.train, device)
        self.weights = torch.zeros(items, items, device=device)  # B (I, I)

    def solve(self):
        """Invert; returns the least sum of squares per interaction."""
        train = self.data.train.astype(np.float32)
        gram = torch.as_tensor((train.T @ train).toarray(), device=self.device)  # (I, I)
        gram.diagonal().add_(self.args.reg)
        try:
            gram = torch.linalg.cholesky(gram)  # not both at a time
        except torch.linalg.LinAlgError:
            raise UserError(f"--reg {self.args.reg:g} leaves EASE no solution in single precision; change it") from None
        inverse = torch.cholesky_inverse(gram)  # P
        del gram
        if not inverse.is_contiguous():  # by columns; P is symmetric, and by rows no product has to copy it first
            inverse = inverse.T
        scale = 1 / inverse.diagonal()
        self.weights = inverse.mul_(-scale).fill_diagonal_(0)
        return ((scale - self.args.reg).sum() / train.nnz).item()

    def scorer(self):
        return self

    def encodings(self):
        """EASE has none: raises UserError."""
        raise UserError("EASE scores by a matrix of items and has no encodings; take another --model")

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I); see evaluate.DotProduct."""
        row, item = self.seen.of(users)  # the pairs of X's rows
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


class ALS(Recommender):
    """Weighted matrix factorisation by alternating least squares, from the library implicit; an epoch is one iteration.

    Source: Hu, Koren & Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    """

    identifying = ("model", "dim")
    steps_per_epoch = 1

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        # (U, D) and (I, D), as implicit draws them; it works on the CPU
        draws = (torch.rand(rows, args.dim, generator=self.generator, device=device).cpu() for rows in data.shape)
        self.factors = [draw * 0.01 for draw in draws]

    def start_training(self, state=None):
        """Raises UserError where implicit is not installed."""
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from implicit.recommender_base import ModelFitError
        except ImportError as error:
            raise UserError(f"--model ALS needs the package implicit ({error}): pip install implicit") from None
        self.solver = AlternatingLeastSquares(
            factors=self.args.dim,
            regularization=self.args.reg,
            alpha=self.args.confidence,
            iterations=1,
            calculate_training_loss=True,
            num_threads=self.args.threads,
        )
        self.failure = ModelFitError
        self.train = csr_matrix(self.data.train, dtype=np.float32)
        super().start_training(state)

    def train_epoch(self, lr, on_step):
        """One iteration; returns implicit's loss."""
        losses = []
        self.solver.user_factors, self.solver.item_factors = (part.numpy() for part in self.factors)  # changed in place
        try:
            self.solver.fit(self.train, show_progress=False, callback=lambda number, seconds, loss: losses.append(loss))
        except self.failure as error:
            raise UserError(f"ALS failed ({error}); raise --reg or lower --confidence") from None
        on_step()
        return float(losses[0])

    def encodings(self):
        """(U, D) and (I, D)"""
        return [part.to(self.device) for part in self.factors]

    def state_dict(self):
        """The factors, live."""
        return {"user": self.factors[0], "item": self.factors[1]}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        for mine, saved in zip(self.factors, (state["user"], state["item"]), strict=True):
            mine.copy_(saved)


def memory(device):
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
