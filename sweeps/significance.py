"""Is a difference between models more than chance? Intervals, tests and effect over users.

Users are the sample. All is conditional on the models as they are trained: what another seed would
give is not part of an interval or a p-value, so rows of several seeds say more.
Shapes: n users, k columns.
"""

import warnings

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# The ends of an interval then vary between seeds of the bootstrap by 3 % of its half width:
# sqrt(0.025 * 0.975 / 2000) / 0.058 = 0.06 standard errors, of 1.96.
RESAMPLES = 2000
BATCH = 1 << 22  # drawn users at a time, 32 MB


def mean_intervals(columns, random):
    """Bootstrap intervals of the means of columns (n, k): (low (k,), high (k,)).

    columns: a value for each user, e.g. the difference of two models
    random: numpy Generator

    Users are drawn with replacement, the same ones for all columns, and each row stays whole: for
    differences this is the paired bootstrap. The ends are the percentiles 2.5 and 97.5 of the
    resampled means. BCa would move them by about the skewness / (6 sqrt(n)), which is nothing for a
    mean over hundreds of users, and would need n more means of n users. Source: Efron & Tibshirani,
    An Introduction to the Bootstrap, 1993, chapters 13 and 14.
    """
    columns = np.asarray(columns, dtype=float)
    users, count = columns.shape
    if users < 2:
        return np.full(count, np.nan), np.full(count, np.nan)

    def means(drawn, axis):
        """Means (k, b) of users drawn (b, n), or (k,) of users (n,)."""
        if drawn.ndim == 1:
            return means(drawn[None], axis)[:, 0]
        places = drawn + users * np.arange(len(drawn))[:, None]  # a range of n for each resample
        times = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)  # (b, n)
        return columns.T @ times.T.astype(float) / users  # (k, n) (n, b) -> (k, b)

    found = stats.bootstrap(
        (np.arange(users),),
        means,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // users),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=random,  # `rng` since scipy 1.15
    ).confidence_interval
    return found.low, found.high


def paired_tests(differences):
    """Test the differences (n,) of the same users' metrics between two models.

    Returns a dict:
      p_t: of the paired t test, on the mean of the differences
      p_wilcoxon: of Wilcoxon's signed-rank test, on their symmetry around 0. Users who tie are left
        out, and equal sizes get their mean rank.
      d_z: effect size, mean / standard deviation (divided by n - 1) of the differences. Source:
        Cohen, Statistical Power Analysis, 1988, section 2.3.5; named d_z by Lakens, 2013.
      gain, lose, tie: users whose metric is larger, smaller, the same

    Differences are rounded to 12 decimals: means over seeds may differ by rounding alone. Without
    any difference both p are 1 and d_z is 0.
    """
    d = np.round(np.asarray(differences, dtype=float), 12)
    counts = {"gain": int((d > 0).sum()), "lose": int((d < 0).sum()), "tie": int((d == 0).sum())}
    if not d.any():
        return {"p_t": 1.0, "p_wilcoxon": 1.0, "d_z": 0.0, **counts}
    spread = d.std(ddof=1) if np.ptp(d) else 0.0
    with warnings.catch_warnings():
        # scipy's, if all users differ by the same.
        warnings.simplefilter("ignore", RuntimeWarning)
        p_t, p_wilcoxon = stats.ttest_1samp(d, 0).pvalue, stats.wilcoxon(d).pvalue
    d_z = d.mean() / spread if spread else np.copysign(np.inf, d.mean())
    return {"p_t": float(p_t), "p_wilcoxon": float(p_wilcoxon), "d_z": float(d_z), **counts}


def holm(p):
    """P-values (m,) of a family of tests, corrected by Holm: (m,), in their order.

    The i-th smallest becomes the largest of (m - j + 1) p_j over j <= i, at most 1. Rejecting what
    is below 5 % then makes one false rejection or more in 5 % of the families at most. Source:
    Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    result = np.empty_like(p)
    result[order] = corrected
    return result
