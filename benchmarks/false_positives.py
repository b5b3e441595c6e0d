"""How often does `study.py compare` find a difference where there is none?

python benchmarks/false_positives.py [--runs 'runs/onebp-seed*'] [--metric NDCG@20] [--splits 200]

--runs: a pattern of finished runs of one model with several seeds; without it, the metrics of users
are drawn: many zeros, ties, and two runs of a user that are alike.

Rates of decisions at 5 %, two-sided: by the interval (0 is outside), the paired t test
and Wilcoxon's test.

- random splits: the users are split into two halves at random; in one of them the two runs change
  places. So no label stands for a run, and every difference is by chance: 5 % are expected. The
  pairs of runs take turns.
- pairs as they are: every pair of seeds, on all users. Each is one trained model beside another,
  and these may differ: what exceeds 5 % is due to the seeds, of which users say nothing. Pairs
  share runs, so their ± is too small.
"""

import itertools
import math

import numpy as np
from common import options, show

from sweeps.finished import Row, check_same_data, matching, read_run
from sweeps.significance import mean_intervals, paired_tests

ALPHA = 0.05


def drawn_users(random, users=943, runs=20):
    """Metrics (runs, users) like NDCG@20 of seeds of one model: hits of 20 places / 20.

    A user's probability of a hit is the same in all runs, and near 0 for many users.
    """
    hit = random.beta(0.4, 2.0, users)
    return random.binomial(20, hit, (runs, users)) / 20


def users_of(pattern, metric):
    """Metrics (runs, users) of the runs that a pattern matches."""
    runs = [read_run(folder) for folder in matching(pattern)]
    check_same_data(runs)
    tables = [Row(run.name, [run]).users([metric]) for run in runs]
    return np.stack([table[metric].to_numpy() for table in tables])


def decisions(differences, random):
    """[by interval, by t, by Wilcoxon]: whether differences (users,) count as more than chance."""
    low, high = mean_intervals(differences[:, None], random)
    tests = paired_tests(differences)
    outside = not low[0] <= 0 <= high[0]
    return [outside, tests["p_t"] < ALPHA, tests["p_wilcoxon"] < ALPHA]


def random_splits(values, count, random):
    """Decisions (count, 3) of the first procedure, see above. values (runs, users)"""
    pairs, users = list(itertools.combinations(range(len(values)), 2)), values.shape[1]
    found = []
    for number in range(count):
        first, second = pairs[number % len(pairs)]
        sign = np.ones(users)
        sign[random.permutation(users)[: users // 2]] = -1
        found.append(decisions(sign * (values[first] - values[second]), random))
    return np.array(found)


def pairs_as_they_are(values, random):
    """Decisions (pairs, 3) of the second procedure."""
    pairs = itertools.combinations(values, 2)
    return np.array([decisions(first - second, random) for first, second in pairs])


def main():
    given = options(__doc__, runs="", metric="NDCG@20", splits=200, seed=0)
    random = np.random.default_rng(given.seed)
    values = users_of(given.runs, given.metric) if given.runs else drawn_users(random)
    rows = {}
    for name, found in {
        "random splits": random_splits(values, given.splits, random),
        "pairs as they are": pairs_as_they_are(values, random),
    }.items():
        rates = found.mean(0)
        rows[name] = {"comparisons": len(found)}
        rows[name] |= {
            test: f"{rate:.1%} ± {math.sqrt(rate * (1 - rate) / len(found)):.1%}"
            for test, rate in zip(("interval", "t", "Wilcoxon"), rates, strict=True)
        }
    what = f"{given.metric} of {given.runs}" if given.runs else "drawn metrics"
    runs, users = values.shape
    show(f"False positives at 5 %: {what}, {runs} runs, {users} users, seed {given.seed}", rows)


if __name__ == "__main__":
    main()
