"""Losses of a batch. All of them are means over its interactions, so they do not grow with the batch.

Shapes: B batch, N negatives, D dim. A loss is a function of a Batch and of args, the flags; its scores are
similarities divided by --temperature. A negative with the score -inf is none: the sampler has masked it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Batch(NamedTuple):
    """What a loss can look at."""

    users: Tensor  # (B,) indices
    p: Tensor  # (B, D) encodings of the users
    q: Tensor  # (B, D) encodings of the positives
    positive: Tensor  # (B,) scores s(u, i)
    negative: Tensor  # (N, B) scores s(u, j)


def info_nce(batch, args):
    """InfoNCE: -log( e^s(u,i) / (e^s(u,i) + sum_j e^s(u,j)) ). Source: van den Oord et al., arXiv 1807.03748."""
    scores = torch.cat([batch.positive[None], batch.negative])  # (1 + N, B)
    return -scores.log_softmax(0)[0].mean()


def bpr(batch, args):
    """BPR: -log sigmoid(s(u,i) - s(u,j)), mean over the negatives. Source: Rendle et al., arXiv 1205.2618."""
    return functional.softplus(batch.negative - batch.positive).mean()


def bce(batch, args):
    """Binary cross-entropy: -log sigmoid(s(u,i)) - mean_j log(1 - sigmoid(s(u,j))): the two classes weigh the same."""
    return functional.softplus(-batch.positive).mean() + functional.softplus(batch.negative).mean()


def bsl(batch, args):
    """Bilateral softmax: -log mean_i' e^s(u,i') + gamma * log mean_j e^s(u,j), i' being u's positives in the batch.

    gamma (--gamma) is the ratio of the paper's temperatures for negatives and positives. Source: Wu et al., arXiv
    2312.12882, with the means as in the authors' code.
    """
    same = batch.users == batch.users[:, None]  # (B, B)
    positive = batch.positive.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1) - same.sum(1).log()
    count = (batch.negative > -torch.inf).sum(0)  # (B,)
    # Where all are masked, zeros in their place: the mean of e^0, without a gradient.
    masked = batch.negative.masked_fill(count == 0, 0.0)
    negative = masked.logsumexp(0) - count.where(count > 0, len(masked)).log()
    return (args.gamma * negative - positive).mean()


def direct_au(batch, args):
    """Alignment and uniformity: |p - q|^2 + gamma * (l(users) + l(positives)) / 2, all encodings at length 1.

    l(x) = log mean e^(-2 |x - x'|^2) over the pairs of different places in the batch. Source: Wang et al., arXiv
    2206.12811. It needs no negatives.
    """
    p, q = functional.normalize(batch.p, dim=1), functional.normalize(batch.q, dim=1)
    uniformity = sum(_uniformity(x) for x in (p, q)) / 2
    return (p - q).square().sum(1).mean() + args.gamma * uniformity


def _uniformity(x):
    """log mean e^(-2 |x_a - x_b|^2) over a < b. x (B, D), of length 1: |x_a - x_b|^2 = 2 - 2 <x_a, x_b>."""
    if len(x) < 2:
        return x.new_zeros(())
    exponent = 4 * (x @ x.T) - 4  # (B, B)
    others = torch.ones_like(exponent, dtype=torch.bool).triu(1)
    return exponent.masked_fill(~others, -torch.inf).flatten().logsumexp(0) - others.sum().log()
