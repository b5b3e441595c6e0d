"""ALS: weighted matrix factorisation by alternating least squares, from the library implicit.

Shapes: U users, I items, D dim.
"""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from cli.errors import UserError
from engine.tables import overwrite
from recommender import Recommender


class ALS(Recommender):
    """Weighted matrix factorisation by alternating least squares. An epoch is one iteration.

    It runs on the CPU, in the library implicit. Source: Hu, Koren & Volinsky, Collaborative
    filtering for implicit feedback datasets, ICDM 2008.
    """

    identifying = ("model", "dim")
    steps_per_epoch = 1

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        # Draw (U, D) and (I, D) from the distribution that implicit uses.
        uniform = (
            torch.rand(rows, args.dim, generator=self.generator, device=device).cpu()
            for rows in data.shape
        )
        self.factors = [numbers * 0.01 for numbers in uniform]

    def start_training(self, state=None):
        """See Recommender. Raises UserError if implicit is not installed."""
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
        """Run one iteration. Returns implicit's loss."""
        losses = []

        def note_loss(iteration, seconds, loss):
            losses.append(loss)

        # The arrays share their memory with the factors, and `fit` changes them in place.
        user_factors, item_factors = (factors.numpy() for factors in self.factors)
        self.solver.user_factors, self.solver.item_factors = user_factors, item_factors
        try:
            self.solver.fit(self.train, show_progress=False, callback=note_loss)
        except self.failure as error:
            raise UserError(f"ALS failed ({error}); raise --reg or lower --confidence") from None
        on_step()
        return float(losses[0])

    def encodings(self):
        """Encodings of users (U, D) and items (I, D)."""
        return [factors.to(self.device) for factors in self.factors]

    def state_dict(self):
        """The factors, not copies."""
        return {"user": self.factors[0], "item": self.factors[1]}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        for factors, saved in zip(self.factors, (state["user"], state["item"]), strict=True):
            overwrite(factors, saved)
