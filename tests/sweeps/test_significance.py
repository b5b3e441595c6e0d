"""Intervals, tests and effects: closed forms, scipy's own words, R's p.adjust, chance."""

import numpy as np
import pytest
from scipy import stats

from sweeps import significance
from sweeps.significance import holm, mean_intervals, paired_tests


def test_the_interval_is_that_of_the_normal_distribution_for_many_users():
    values = np.random.default_rng(1).normal((0.1, -0.3, 0), (1, 2, 0), (2000, 3))
    low, high = mean_intervals(values, np.random.default_rng(2))
    half = 1.96 * values.std(0) / 2000**0.5
    means = values.mean(0)
    np.testing.assert_allclose(low, means - half, atol=0.1 * half.max())
    np.testing.assert_allclose(high, means + half, atol=0.1 * half.max())
    assert (low[2], high[2]) == (0, 0)


def test_the_interval_is_scipys_for_a_plain_mean():
    values = np.random.default_rng(1).exponential(size=(30, 2))
    low, high = mean_intervals(values, np.random.default_rng(3))
    plain = stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=significance.RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose((low, high), (plain.low, plain.high))


def test_an_interval_repeats_with_its_seed_and_in_pieces(monkeypatch):
    values = np.random.default_rng(1).random((50, 2))
    whole = mean_intervals(values, np.random.default_rng(3))
    monkeypatch.setattr(significance, "BATCH", 350)
    np.testing.assert_allclose(whole, mean_intervals(values, np.random.default_rng(3)))
    assert not np.allclose(whole, mean_intervals(values, np.random.default_rng(4)), rtol=1e-6)


def test_one_user_has_no_interval():
    assert np.isnan(mean_intervals([[1.0]], np.random.default_rng(0))).all()


def test_tests_are_those_of_pairs():
    first, second = np.random.default_rng(1).random((2, 60))
    second[:5] = first[:5]
    found = paired_tests(second - first)
    assert found["p_t"] == pytest.approx(stats.ttest_rel(second, first).pvalue)
    assert found["p_wilcoxon"] == pytest.approx(stats.wilcoxon(second, first).pvalue)
    # The statistic of the paired t test is d_z * sqrt(n).
    assert found["d_z"] * 60**0.5 == pytest.approx(stats.ttest_rel(second, first).statistic)
    assert (found["gain"], found["lose"]) == ((second > first).sum(), (second < first).sum())
    assert found["tie"] == 5


def test_no_difference_and_the_same_difference(recwarn):
    none = {"p_t": 1, "p_wilcoxon": 1, "d_z": 0, "gain": 0, "lose": 0, "tie": 9}
    assert paired_tests(np.zeros(9)) == none
    # Means of three seeds in another order differ by rounding.
    assert paired_tests(np.full(9, (0.1 + 0.2 + 0.3) / 3 - (0.3 + 0.2 + 0.1) / 3)) == none
    same = paired_tests(np.full(9, -0.25))
    assert (same["d_z"], same["lose"], same["p_wilcoxon"] < 0.01) == (-np.inf, 9, True)
    assert not recwarn


def test_holm_is_that_of_r():
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") in R."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    assert holm([]).shape == (0,)


def test_chance_is_found_in_5_percent(monkeypatch):
    """Two runs change places for a random half of the users: no label means a run.

    benchmarks/false_positives.py does it with trained runs.
    """
    monkeypatch.setattr(significance, "RESAMPLES", 500)
    random, found = np.random.default_rng(5), []
    hit = random.beta(0.4, 2.0, 200)
    first, second = random.binomial(20, hit, (2, 200)) / 20  # many zeros and ties
    for _ in range(200):
        sign = random.permutation(np.repeat([-1, 1], 100))
        differences = sign * (first - second)
        low, high = mean_intervals(differences[:, None], random)
        tests = paired_tests(differences)
        outside = not low[0] <= 0 <= high[0]
        found.append([outside, tests["p_t"] < 0.05, tests["p_wilcoxon"] < 0.05])
    rates = np.mean(found, axis=0)
    assert ((rates > 0.02) & (rates < 0.08)).all()
