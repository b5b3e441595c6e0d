"""Metrics of predicted clicks: AUC over all impressions, AUC by user (gAUC), and logloss.

Shapes: n impressions, m impressions of a block, G groups.
"""

import math

import torch

from distributed import collectives
from evaluate import Evaluator
from families.clicks.reader import NO_USER

CLICK_METRICS = ("AUC", "logloss")
# In logloss, probabilities closer than this to 0 or 1 count as this far away: it stays finite.
NEAREST = 1e-7


def auc(labels, scores):
    """AUC: the probability that a click has a higher score than an impression without a click.

    labels (n,): 1 for a click, else 0
    scores (n,)

    AUC = (R - P (P + 1) / 2) / (P N) with P clicks, N other impressions, and R the sum of the
    clicks' ranks. The lowest score has rank 1; equal scores have their mean rank, so that a tie
    counts half. nan if there are no clicks, or only clicks. Source: Mann & Whitney, 1947.
    """
    return auc_by_group(labels, scores, torch.zeros_like(labels, dtype=torch.int64))[0].item()


def gauc(labels, scores, users):
    """gAUC: mean AUC of the users, weighted by the number of their impressions.

    labels, scores (n,): see `auc`
    users (n,): user of each impression, or NO_USER

    Impressions of unknown users are left out, and users with clicks only, or without clicks; nan if
    no user remains.
    Source: Zhu et al., Optimized cost per click in Taobao display advertising, KDD 2017, eq. 15.
    """
    is_known = users != NO_USER
    auc_values, size = auc_by_group(labels[is_known], scores[is_known], users[is_known])
    is_defined = ~auc_values.isnan()
    return ((auc_values * size)[is_defined].sum() / size[is_defined].sum()).item()


def auc_by_group(labels, scores, groups):
    """Compute the AUC of each group of impressions.

    labels, scores (n,): see `auc`
    groups (n,): int64, group of each impression

    Returns AUC (G,) float64 and number of impressions (G,), in ascending order of the groups.
    """
    # Sort by group, then by score.
    order = scores.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    labels, scores, groups = labels[order].double(), scores[order], groups[order]
    _, group, size = torch.unique_consecutive(groups, return_inverse=True, return_counts=True)

    # Find the ties: equal scores in the same group. starts: whether a tie begins here.
    starts = torch.ones_like(group, dtype=torch.bool)
    starts[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    _, tie, tied = torch.unique_consecutive(
        starts.cumsum(0), return_inverse=True, return_counts=True
    )

    # Rank of a score within its group: the mean over its tie, less the ranks of the groups before.
    mean_rank = (tied.cumsum(0) - (tied - 1) / 2)[tie]
    rank = mean_rank - (size.cumsum(0) - size)[group]

    def sum_by_group(values):
        total = torch.zeros(len(size), dtype=torch.float64, device=values.device)
        return total.index_add_(0, group, values)

    clicks, rank_sum = sum_by_group(labels), sum_by_group(labels * rank)
    return (rank_sum - clicks * (clicks + 1) / 2) / (clicks * (size - clicks)), size


def logloss(labels, probabilities):
    """Logloss: the mean of -log(p) for a click, -log(1 - p) for an impression without a click.

    labels (n,): 1 for a click, else 0
    probabilities (n,): predicted p, taken to be within 1e-7 and 1 - 1e-7
    """
    probabilities = probabilities.double().clamp(NEAREST, 1 - NEAREST)
    return -torch.where(labels > 0, probabilities, 1 - probabilities).log().mean().item()


def click_metrics(labels, probabilities, users=None):
    """Return {metric: float} of predictions: AUC, logloss, and gAUC if the users are known.

    labels, probabilities (n,): see `logloss`
    users (n,): user of each impression, or None
    """
    by_user = {} if users is None else {"gAUC": gauc(labels, probabilities, users)}
    auc_value, loss = auc(labels, probabilities), logloss(labels, probabilities)
    return {"AUC": auc_value, **by_user, "logloss": loss}


def gauc_is_defined(rows):
    """Whether gAUC is defined for a dataset.RowRange.

    It is if the users are known, and one of them has both clicks and impressions without a click.
    """
    labels, users = rows.labels(), rows.users()
    return users is not None and not math.isnan(gauc(labels, labels, users))


class ClickMetrics(Evaluator):
    """Metrics of the predicted clicks of one split.

    The AUC of all rows is not a sum over subsets of them. So the ranks gather their predictions,
    and `sums` are the metrics themselves on the first rank, zeros on the others.
    """

    metrics = CLICK_METRICS
    monitor = "AUC"
    headline = ("AUC",)
    from_zero = False

    def __init__(self, rows):
        """rows: dataset.RowRange to evaluate"""
        self.rows, self.computes = rows, collectives.rank() == 0
        self.labels = rows.labels() if self.computes else None
        self.users = rows.users() if self.computes and "gAUC" in self.metrics else None
        self.sizes = {"rows_evaluated": len(rows) if self.computes else 0}

    @property
    def protocol(self):
        return {
            "split": "by position in the file: the split follows what was trained on",
            "ties": "equal predictions count half in AUC and gAUC",
        }

    def sums(self, predict):
        """The metrics, float64. predict: function of ids (m, W) that returns probabilities (m,)."""
        blocks = [collectives.all_gather_rows(predict(ids)) for ids, _ in self.rows.own_blocks()]
        if not self.computes:
            return [torch.zeros(len(self.metrics), dtype=torch.float64)]
        found = click_metrics(self.labels, torch.cat(blocks), self.users)
        return [torch.tensor([found[name] for name in self.metrics], dtype=torch.float64)]

    def metrics_from(self, sums):
        return dict(zip(self.metrics, sums.tolist(), strict=True))


class UserClickMetrics(ClickMetrics):
    """ClickMetrics with gAUC, for data whose users are known."""

    metrics = ("AUC", "gAUC", "logloss")
    headline = ("AUC", "gAUC")

    @property
    def protocol(self):
        unknown = int((self.users == NO_USER).sum())
        said = f"gAUC leaves out {unknown} of {len(self.users)} rows, whose user is missing"
        return super().protocol | ({"users": said} if unknown else {})
