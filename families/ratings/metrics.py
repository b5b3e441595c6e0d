"""Predicted ratings and their errors.

Shapes: U users, I items, D dim, b ratings of a block.
"""

import math

import numpy as np
import torch

from evaluate import DotProduct, Evaluator

RATING_METRICS = ("RMSE", "MAE", "MSE")
BLOCK_RATINGS = 1 << 16  # ratings predicted at a time


class PredictedRatings(DotProduct):
    """Scores that are ratings: <p_u, q_i>, limited to the scale when used as a prediction."""

    def __init__(self, user_encodings, item_encodings, scale):
        """Score by encodings.

        user_encodings (U, D)
        item_encodings (I, D)
        scale: (lowest rating, highest rating)
        """
        super().__init__(user_encodings, item_encodings)
        self.scale = scale

    def predict(self, users, items):
        """Predict the ratings (b,) of items (b,) by users (b,)."""
        return (self.users[users] * self.items[items]).sum(1).clamp(*self.scale)


class RatingErrors(Evaluator):
    """Errors of the predicted ratings of one split.

    With e = prediction - rating: MSE = mean of e^2, RMSE = sqrt(MSE), MAE = mean of |e|. The means
    are over all ratings of the split, so a user with many ratings counts more.
    """

    metrics = RATING_METRICS
    monitor = "RMSE"
    headline = ("RMSE", "MAE")
    larger_is_better = False
    from_zero = False

    def __init__(self, split, seen, device):
        """Take the ratings to predict.

        split: csr_array (U, I) of ratings
        seen: not used; a ranking evaluator takes the splits that may be known
        device: where to compute
        """
        users, items = split.tocoo().coords  # (ratings,) each
        self.users, self.items = (
            torch.as_tensor(index.astype(np.int64), device=device) for index in (users, items)
        )
        self.ratings = torch.as_tensor(split.data.astype(np.float64), device=device)
        self.sizes = {"ratings_evaluated": len(self.ratings)}

    @property
    def protocol(self):
        return {"errors": "of predictions within the scale of the ratings"}

    def sums(self, scorer):
        """Sum of e^2, sum of |e|, and their number. scorer: like PredictedRatings."""
        square = absolute = 0.0
        blocks = (column.split(BLOCK_RATINGS) for column in (self.users, self.items, self.ratings))
        for users, items, ratings in zip(*blocks, strict=True):
            error = scorer.predict(users, items).double() - ratings  # (b,)
            square, absolute = square + error.square().sum(), absolute + error.abs().sum()
        return [torch.stack([square, absolute]), square.new_tensor([len(self.ratings)])]

    def metrics_from(self, sums, count):
        mse, mae = (sums / count).tolist()
        return {"RMSE": math.sqrt(mse), "MAE": mae, "MSE": mse}
