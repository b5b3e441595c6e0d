"""Errors of predicted ratings.

Shapes: b ratings of a block.
"""

import math

import numpy as np
import torch

from evaluate import DotProduct

RATING_METRICS = ("RMSE", "MAE", "MSE")
BLOCK_RATINGS = 1 << 16  # ratings predicted at a time


class PredictedRatings(DotProduct):
    """Scores that are ratings; as a prediction, a score stays within the scale (lowest, highest)."""

    def __init__(self, user_encodings, item_encodings, scale):
        super().__init__(user_encodings, item_encodings)
        self.scale = scale

    def predict(self, users, items):
        """The ratings (b,) that users (b,) give to items (b,)."""
        return (self.users[users] * self.items[items]).sum(1).clamp(*self.scale)


class RatingErrors:
    """Evaluator of one part: how far predicted ratings are from those given."""

    metrics = RATING_METRICS
    monitor = "RMSE"
    headline = ("RMSE", "MAE")
    larger_is_better = False
    from_zero = False

    def __init__(self, part, seen, device):
        """part: csr_array (U, I) of ratings; seen: the parts that may be known, of no use here."""
        pairs = part.tocoo().coords  # (ratings,) each
        self.users, self.items = (
            torch.as_tensor(index.astype(np.int64), device=device) for index in pairs
        )
        self.ratings = torch.as_tensor(part.data.astype(np.float64), device=device)

    @property
    def protocol(self):
        """What is done, for summary.json."""
        return {
            "errors": "of predictions within the scale of the ratings",
            "ratings_evaluated": len(self.ratings),
        }

    def evaluate(self, scorer):
        """RATING_METRICS by name, as floats, of scorer, like PredictedRatings.

        With e a prediction less the rating: MSE = mean of e^2, RMSE = its root, MAE = mean of |e|; over all ratings of
        the part, so that users weigh as much as they rated.
        """
        square = absolute = 0.0
        blocks = (column.split(BLOCK_RATINGS) for column in (self.users, self.items, self.ratings))
        for users, items, ratings in zip(*blocks, strict=True):
            error = scorer.predict(users, items).double() - ratings  # (b,)
            square, absolute = square + error.square().sum(), absolute + error.abs().sum()
        mse = (square / len(self.ratings)).item()
        return {"RMSE": math.sqrt(mse), "MAE": (absolute / len(self.ratings)).item(), "MSE": mse}
