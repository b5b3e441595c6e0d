"""ALS: weighted matrix factorisation by alternating least squares, from the library implicit."""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from cli.errors import UserError
from recommender import Recommender


class ALS(Recommender):
    """Weighted matrix factorisation by alternating least squares, from the library implicit; an epoch is one iteration.

    Source: Hu, Koren & Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    """

    identifying = ("model", "dim")
    steps_per_epoch = 1

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        # (U, D) and (I, D), as implicit draws them; it works on the CPU
        draws = (
            torch.rand(rows, args.dim, generator=self.generator, device=device).cpu()
            for rows in data.shape
        )
        self.factors = [draw * 0.01 for draw in draws]

    def start_training(self, state=None):
        """Raises UserError where implicit is not installed."""
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from implicit.recommender_base import ModelFitError
        except ImportError as error:
            raise UserError(
                f"--model ALS needs the package implicit ({error}): pip install implicit"
            ) from None
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
        self.solver.user_factors, self.solver.item_factors = (
            part.numpy() for part in self.factors
        )  # changed in place
        try:
            self.solver.fit(
                self.train,
                show_progress=False,
                callback=lambda number, seconds, loss: losses.append(loss),
            )
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
