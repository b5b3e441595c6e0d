"""Metrics of single (user, item) pairs, for --ranking pairs. Shapes: m pairs of a block."""

import torch

from cli.metrics import PAIR_CUTOFFS


def pair_metrics(rank, candidates):
    """PAIR_METRICS of ranked items -> (m, metrics).

    rank (m,): place of an item, from 1
    candidates (m,): the items that it is ranked among, itself included

    AUC = (candidates - rank) / (candidates - 1), the share of the others that come later, or 1 if
    there are no others. HR@k = 1 if rank <= k, else 0. NDCG@k = HR@k / log2(rank + 1).
    """
    others = (candidates - 1).double()
    auc = torch.where(others > 0, (candidates - rank) / others, 1.0)
    hit = [(rank <= k).double() for k in PAIR_CUTOFFS]
    discount = 1 / (rank + 1).double().log2()
    return torch.stack([auc, *hit, *(h * discount for h in hit)], dim=1)
