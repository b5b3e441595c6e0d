"""Metrics of predicted clicks: AUC, over all impressions and by user, and logloss.

Shapes: n impressions.
"""

import math

import torch

CLICK_METRICS = ("AUC", "logloss")
NEAREST = 1e-7  # to 0 and 1 that a probability counts as in logloss, which would be infinite there


def auc(labels, scores):
    """Probability that a click has a higher score than an impression without; ties count half. labels, scores: (n,).

    It is (R - P (P + 1) / 2) / (P N) with P clicks, N others and R the sum of the clicks' ranks, from 1 for the lowest
    score, equal scores having their mean rank (Mann & Whitney, 1947). nan where there are no clicks, or only clicks.
    """
    return auc_by_group(labels, scores, torch.zeros_like(labels, dtype=torch.int64))[0].item()


def gauc(labels, scores, users):
    """Mean of the users' AUC, weighted by their impressions, over users with both clicks and others. (n,) each.

    nan where there is no such user.
    Source: Zhu et al., Optimized cost per click in Taobao display advertising, KDD 2017, equation 15.
    """
    area, size = auc_by_group(labels, scores, users)
    both = ~area.isnan()
    return ((area * size)[both].sum() / size[both].sum()).item()


def auc_by_group(labels, scores, groups):
    """(AUC, impressions) of each group, float64, in the order of the groups' numbers. labels, scores, groups: (n,)."""
    order = scores.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]  # by group, then by score
    labels, scores, groups = labels[order].double(), scores[order], groups[order]
    group, size = torch.unique_consecutive(groups, return_inverse=True, return_counts=True)[1:]
    starts = torch.ones_like(group, dtype=torch.bool)  # of equal scores in a group
    starts[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    tie, tied = torch.unique_consecutive(starts.cumsum(0), return_inverse=True, return_counts=True)[
        1:
    ]
    rank = (tied.cumsum(0) - (tied - 1) / 2)[tie] - (size.cumsum(0) - size)[
        group
    ]  # mean over the tie, in the group

    def total(values):
        return torch.zeros(len(size), dtype=torch.float64, device=values.device).index_add_(
            0, group, values
        )

    clicks, ranks = total(labels), total(labels * rank)
    return (ranks - clicks * (clicks + 1) / 2) / (clicks * (size - clicks)), size


def logloss(labels, chances):
    """Mean of -log of the predicted chance of what happened, each at least 1e-7 away from 0 and 1. (n,) each."""
    chances = chances.double().clamp(NEAREST, 1 - NEAREST)
    return -torch.where(labels > 0, chances, 1 - chances).log().mean().item()


def click_metrics(labels, chances, users=None):
    """The metrics by name, as floats; gAUC where the users are known. labels, chances, users: (n,)."""
    grouped = {} if users is None else {"gAUC": gauc(labels, chances, users)}
    return {"AUC": auc(labels, chances), **grouped, "logloss": logloss(labels, chances)}


def judges_users(rows):
    """Whether gAUC is defined for a clicks.Rows: users are known, and one of them has both clicks and others."""
    labels, users = rows.labels(), rows.users()
    return users is not None and not math.isnan(gauc(labels, labels, users))


class ClickMetrics:
    """Evaluator of one part: how well clicks are predicted."""

    metrics = CLICK_METRICS
    monitor = "AUC"
    headline = ("AUC",)
    larger_is_better = True
    from_zero = False

    def __init__(self, rows):
        """rows: a clicks.Rows."""
        self.rows, self.labels = rows, rows.labels()
        self.users = rows.users() if "gAUC" in self.metrics else None

    @property
    def protocol(self):
        """What is done, for summary.json."""
        return {
            "split": "by position, which is time: the part follows what was trained on",
            "ties": "equal predictions count half in AUC and gAUC",
            "rows_evaluated": len(self.labels),
        }

    def evaluate(self, predict):
        """The metrics by name. predict: from ids (m, F) to chances (m,)."""
        chances = torch.cat([predict(ids) for ids, _ in self.rows.blocks()])
        return click_metrics(self.labels, chances, self.users)


class UserClickMetrics(ClickMetrics):
    """ClickMetrics where it is known which user saw what."""

    metrics = ("AUC", "gAUC", "logloss")
    headline = ("AUC", "gAUC")
