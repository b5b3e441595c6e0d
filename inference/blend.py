"""--blend: the scores of a trained model plus those of another, each brought to one scale.

Shapes: U users, I items, b users of a block.
"""

import logging
from functools import partial

import torch

from cli.errors import UserError
from evaluate import best_variant, some_of

log = logging.getLogger("onebp")

# What --blend_weight auto chooses from, on so many users of the validation split.
WEIGHTS = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
CHOOSING = 10_000
TINY = 1e-30  # instead of a deviation 0


class Blend:
    """A trained model whose scores have those of another one added. Else it is the first model.

    Of each user, the scores of either model have mean 0 and deviation 1 over all items before the
    weighted sum.
    """

    def __init__(self, model, other, weight):
        """model, other: recommender.Recommender, with trained weights, of the same data set
        weight: of the other model's scores, or "auto": the best on the validation split

        Raises UserError for auto without a validation split.
        """
        self.model, self.other, self.weight = model, other, weight
        if weight == "auto":
            self.weight = self.best_weight()
            log.info("flags, chosen on the validation split: blend_weight=%s", self.weight)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def best_weight(self):
        """The first of WEIGHTS with the best metrics on users of the validation split."""
        if "valid" not in self.model.evaluators:
            raise UserError("--blend_weight auto: the run has no validation split; give a number")
        evaluator = self.model.evaluators["valid"]
        pair = self.scorer_with(None)
        variants = [partial(pair.sum_of, weight=weight) for weight in WEIGHTS]
        users = some_of(evaluator.users, CHOOSING)
        best = best_variant(evaluator, Both(pair), variants, users, width=2 * evaluator.items)
        return WEIGHTS[best]

    def scorer(self):
        return self.scorer_with(self.weight)

    def scorer_with(self, weight):
        """Scores with that weight, see evaluate.DotProduct."""
        return Sum(self.model.scorer(), self.other.scorer(), weight)

    def evaluate(self, split):
        """{metric: float} on a split, see recommender.Recommender."""
        return self.model.metrics_of(self.scorer(), split)

    def mean_user(self, trained):
        """What both models have of users without training, see recommender.Recommender."""
        return self.model.mean_user(trained), self.other.mean_user(trained)


class Sum:
    """Weighted sum of two scorers' scores, which have mean 0 and deviation 1 for each user."""

    def __init__(self, scorer, other, weight):
        """scorer, other: see evaluate.DotProduct"""
        self.scorer, self.other, self.weight, self.device = scorer, other, weight, scorer.device

    def scores_of(self, users):
        """Scores (I,) of a user. users: what it is for either scorer"""
        first, second = users
        return self.sum_of(
            torch.cat([self.scorer.scores_of(first), self.other.scores_of(second)]), self.weight
        )

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        both = out.new_empty(len(users), 2 * out.shape[1])
        self.score_both(users, both)
        out.copy_(self.sum_of(both, self.weight))

    def score_both(self, users, out):
        """Write the scores of either scorer into out (b, 2 I)."""
        for scorer, half in zip((self.scorer, self.other), out.chunk(2, dim=1), strict=True):
            scorer.score(users, half)

    @staticmethod
    def sum_of(both, weight):
        """Scores (..., I) from those of either scorer (..., 2 I), which are changed."""
        first, second = (to_one_scale_(scores) for scores in both.chunk(2, dim=-1))
        return first.add_(second, alpha=weight)


class Both:
    """Writes the scores of the two scorers of a Sum side by side."""

    def __init__(self, pair):
        self.score, self.device = pair.score_both, pair.device


def to_one_scale_(scores):
    """Bring the scores (..., I) of each user to mean 0 and deviation 1, in place. Returns them."""
    scores -= scores.mean(-1, keepdim=True)
    return scores.div_(scores.std(-1, correction=0, keepdim=True).clamp(min=TINY))
