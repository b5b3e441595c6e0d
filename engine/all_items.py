"""The cosine error of a user's scores of all items, computed without a score per item.

Shapes: B users of a batch, I items, D dim.
"""

import torch

from engine.tables import csr_tensor


def cosine_error(p, total, kept, gram, size, kept_size):
    """|x / |x| - y / |y||^2 of each user (B,), for scores y = A p - x~ of all items.

    x is 1 at the user's items and 0 elsewhere, x~ is 1 at those of them that were kept. An item
    does not vote for itself: p is the sum of the rows of A at the kept items, so A p contains x~.

    p (B, D): encodings of the users; `kept`, with or without gradient
    total, kept (B, D): sums of the rows of A at all of the user's items, and at the kept ones
    gram (D, D): A^T A, where each row of A (I, D) has length 1
    size, kept_size (B,): the numbers of these items

    <x, y> = <p, total> - kept_size and |y|^2 = p^T gram p - 2 <p, kept> + kept_size, so no array
    has I numbers for each user. Without kept items y is 0, and the error is 2. Source: ELSA,
    Vancura et al., RecSys 2022, where all scores are computed.
    """
    product = (p * total).sum(1) - kept_size
    square = ((p @ gram) * p).sum(1) - 2 * (p * kept).sum(1) + kept_size
    length = (size * square.clamp(min=SMALLEST)).sqrt()
    return 2 - 2 * product / length


SMALLEST = 1e-6  # square of a length; |y|^2 is at least 1 / size where there is anything


def sums_matrices(row, items, kept, shape):
    """Sparse matrices that add up the rows of A at each user's items: those kept, and the others.

    row, items, kept (n,): place of the user, ascending, item, and whether it was kept, of each
        interaction
    shape: (B, I)

    Returns (matrix (2 B, I), its transpose): the first B rows are for the items that were kept.
    """
    users, width = shape
    by_kept = torch.cat([kept.nonzero(), kept.logical_not().nonzero()]).squeeze(1)  # (n,)
    rows, columns = (row + users * ~kept)[by_kept], items[by_kept]
    order = columns.int().argsort(stable=True)  # half the bytes, half the time
    ones = torch.ones(len(rows), device=rows.device)
    return (
        csr_tensor(_begins(rows, 2 * users), columns, ones, (2 * users, width), rows.device),
        csr_tensor(_begins(columns, width), rows[order], ones, (width, 2 * users), rows.device),
    )


def _begins(rows, count):
    """Where each of `count` rows of a sparse matrix begins, and the end, (count + 1,).

    rows (n,): of its entries
    """
    begins = torch.zeros(count + 1, dtype=torch.int64, device=rows.device)
    begins[1:] = torch.bincount(rows, minlength=count).cumsum(0)
    return begins
