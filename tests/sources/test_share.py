"""Users are divided by interactions."""

import numpy as np
import pytest

from sources.share import balanced_cuts


@pytest.mark.parametrize("seed", range(5))
def test_users_are_divided_by_interactions(seed):
    """Each section is at most one user's interactions away from its share."""
    random = np.random.default_rng(seed)
    degree = (random.pareto(1, 500) * 3).astype(np.int64) + 1
    indptr = np.append(0, degree.cumsum())
    for count in (1, 2, 3, 7):
        cuts = balanced_cuts(indptr, count)
        assert cuts[0] == 0
        assert cuts[-1] == 500
        assert (np.diff(indptr[cuts]) > 0).all()
        assert np.abs(np.diff(indptr[cuts]) - indptr[-1] / count).max() <= degree.max()


@pytest.mark.parametrize(
    "degrees",
    [
        (97, 1, 1, 1),
        (1, 1, 1, 97),
        (0, 1, 0, 50, 1, 0, 1, 0),
        (1, 1, 90, 1),
        (1, 97, 1),
        (0, 0, 5),
        (5, 0, 0),
    ],
)
def test_no_part_is_empty_where_that_can_be(degrees):
    indptr = np.append(0, np.cumsum(degrees))
    assert (np.diff(indptr[balanced_cuts(indptr, 4)]) > 0).all() == (np.count_nonzero(degrees) >= 4)
