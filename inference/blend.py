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
EVEN = 1e-6  # a deviation below this share of the largest score is rounding


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
        variants = [partial(weighted_sum, weight=weight) for weight in WEIGHTS]
        users = some_of(evaluator.users, CHOOSING)
        best = best_variant(evaluator, self.both(), variants, users, width=2 * evaluator.items)
        return WEIGHTS[best]

    def both(self):
        """The scorers of both models, side by side."""
        return Both(self.model.scorer(), self.other.scorer())

    def scorer(self):
        return Sum(self.both(), self.weight)

    def evaluate(self, split):
        """{metric: float} on a split, see recommender.Recommender."""
        return self.model.metrics_of(self.scorer(), split)

    def mean_user(self, trained):
        """What both models have of users without training, see recommender.Recommender."""
        return self.model.mean_user(trained), self.other.mean_user(trained)


class Both:
    """The scores of two scorers side by side, each of mean 0 and deviation 1 for each user."""

    def __init__(self, scorer, other):
        """scorer, other: see evaluate.DotProduct"""
        self.scorers, self.device = (scorer, other), scorer.device

    def scores_of(self, users):
        """Scores (2 I,) of a user. users: what it is for either scorer"""
        pairs = zip(self.scorers, users, strict=True)
        return torch.cat([to_one_scale_(scorer.scores_of(user)) for scorer, user in pairs])

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, 2 I)."""
        for scorer, half in zip(self.scorers, out.chunk(2, dim=1), strict=True):
            scorer.score(users, half)
            to_one_scale_(half)


class Sum:
    """The weighted sum of scores that stand side by side. A scorer, see evaluate.DotProduct."""

    def __init__(self, both, weight):
        self.both, self.weight, self.device = both, weight, both.device

    def scores_of(self, users):
        """Scores (I,) of a user, see Both."""
        return weighted_sum(self.both.scores_of(users), self.weight)

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        scores = out.new_empty(len(users), 2 * out.shape[1])
        self.both.score(users, scores)
        out.copy_(weighted_sum(scores, self.weight))


def weighted_sum(scores, weight):
    """Scores (..., I) from those of Both (..., 2 I), which are changed."""
    first, second = scores.chunk(2, dim=-1)
    return first.add_(second, alpha=weight)


def to_one_scale_(scores):
    """Bring the scores (..., I) of each user to mean 0 and deviation 1, in place. Returns them.

    Scores that are all the same become 0.
    """
    largest = scores.abs().amax(-1, keepdim=True)
    scores -= scores.mean(-1, keepdim=True)
    deviation = scores.std(-1, correction=0, keepdim=True)
    return scores.div_(deviation.where(deviation > EVEN * largest, torch.inf))
