"""The intervals over users in a study's table, from what its runs leave of each user."""

import logging

import numpy as np

from cli.errors import UserError
from reports.names import USERS
from sweeps.finished import FinishedRun, Row
from sweeps.significance import mean_intervals

log = logging.getLogger("onebp")

SEED = 0  # of the bootstrap


def add_intervals(table, trials):
    """Add columns best_<metric>_low and best_<metric>_high to study.csv, if there are such.

    table: from trials.summarise
    trials: list of trials.Trial

    They are the ends of the 95 % interval over users of the mean over the seeds, see
    significance.mean_intervals. A combination with a run that left no metrics of each user has
    none. Models of ratings and clicks leave none.
    """
    runs = {}
    for trial in trials:
        if summary := trial.summary():
            run = FinishedRun(trial.files, summary)
            runs.setdefault(tuple(trial.swept.values()), []).append(run)
    for place, (values, of_seeds) in enumerate(runs.items()):
        if not all((run.folder / USERS).exists() for run in of_seeds):
            continue
        try:
            row = Row(" ".join(map(str, values)), of_seeds)
            metrics = [name for name in of_seeds[0].users() if f"best_{name}_mean" in table]
            users = row.users(metrics)
        except UserError as error:
            log.warning("warning: no interval: %s", error)
            continue
        lows, highs = mean_intervals(users, np.random.default_rng(SEED))
        for metric, low, high in zip(metrics, lows, highs, strict=True):
            table.loc[place, [f"best_{metric}_low", f"best_{metric}_high"]] = low, high
