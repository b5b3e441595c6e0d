"""A walk of three steps: from a user to the user's items, to their users, to the items of these.

Shapes: U users, I items, b users of a block.
"""

import numpy as np
import torch

from engine.tables import csr_tensor

BLOCK = 1 << 23  # numbers of an array with all users, or all items, that is held at a time
TINY = 1e-30  # instead of a length 0
HALF = 0.5  # the exponents of the walk that sharpens: with these it is symmetric in the items


class Walk:
    """Scores a user, or any row x (I,) of weights of items, by where walks end.

    walk(x)_i = n_i^-beta * sum over items j of x_j n_j^-alpha * sum over the users v of j of
                r_vi / d_v

    n_i: users of item i; d_v: items of user v; r_vi: 1 if v has i, else 0. With alpha = 1 and
    beta = 0 it is the chance that a random walk ends in i, times the number of the user's items.
    Source: Paudel et al., Updatable, accurate, diverse and scalable recommendations for interactive
    applications, TiiS 2017 (RP3beta).

    Sharpened, what a second walk from there reaches is taken off again:

    score = walk(x) - sharpen * |walk(x)| / |again| * again, where again is the walk from walk(x)
            with both exponents 1/2

    Source: after Choi et al., Blurring-sharpening process models, SIGIR 2023, who sharpen the
    output of such a filter with exponents 1/2.

    No product of matrices is stored.
    """

    def __init__(self, train, device, alpha, beta, sharpen):
        """train: csr_array (U, I)"""
        self.alpha, self.beta, self.sharpen = alpha, beta, sharpen
        # The matrices of the second and of the third step: X (U, I), and r_vi / d_v (I, U).
        to_users = train.astype(np.float32)
        to_users.data[:] = 1
        degree = np.diff(to_users.indptr)
        to_items = to_users.copy()
        to_items.data /= np.repeat(degree, degree)
        self.to_users, self.to_items = (
            csr_tensor(matrix.indptr, matrix.indices, matrix.data, matrix.shape, device)
            for matrix in (to_users, to_items.T.tocsr())
        )
        # No walk ends in an item without users.
        counts = np.maximum(np.bincount(train.indices, minlength=train.shape[1]), 1)
        self.counts = torch.as_tensor(counts, device=device).float()  # n (I,)

    def scores_of_rows(self, x):
        """Scores (b, I) of rows x (b, I)."""
        return self.sharpen_(self.walk(x, self.alpha, self.beta), self.sharpen)

    def walk(self, x, alpha, beta):
        """The ends (b, I) of walks from rows x (b, I)."""
        # By so few users at a time that no array has more numbers than a block of scores.
        width = max(BLOCK // max(self.to_users.shape), 1)
        begin = (x * self.counts**-alpha).T  # (I, b)
        ends = [self.to_items @ (self.to_users @ part) for part in begin.split(width, dim=1)]
        return self.damp_(torch.cat(ends, dim=1).T, beta)

    def damp_(self, scores, value):
        """Divide scores (b, I) by n_i^value, in place. Returns them."""
        return scores.mul_(self.counts**-value)

    def sharpen_(self, scores, value):
        """Sharpen the scores (b, I) of `walk` with the strength `value`, in place. Returns them."""
        if not value:
            return scores
        again = self.walk(scores, HALF, HALF)
        length, own = (x.norm(dim=1, keepdim=True) for x in (again, scores))
        return scores.sub_(again * (value * own / length.clamp(min=TINY)))
