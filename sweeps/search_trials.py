"""The trials of a search: Optuna suggests the values, each trial is a process of main.py.

A trial's evaluations are the rows of its metrics.csv. They are reported to the pruner one by one,
in order, and the first row at which it says stop ends the trial there. So the decision depends on
the values alone, not on how far the process ran meanwhile; what it wrote after that row is ignored.

Optuna keeps its study in an SQLite file: every change is a transaction, and the system frees its
locks when a process is killed.
"""

import csv
import logging
import math
import shutil
import sqlite3
import time

import numpy as np
import optuna
from optuna.trial import TrialState

from cli.errors import UserError
from reports.names import LOG, METRICS
from sweeps import trials
from sweeps.studies import as_words, describe, parse_run_flags
from utils import progress_bar

log = logging.getLogger("onebp")

STARTUP_TRIALS = 10  # drawn at random, before TPE has trials to learn from
UNPRUNED_TRIALS = 5  # complete trials, before the median of them stops others
WARMUP_SHARE = 5  # no trial is stopped in the first 1/5 of its epochs
CLOCK = 2.0  # seconds between two notes of the time used


class Candidate:
    """A trial under way.

    trial: optuna.Trial
    run: trials.Trial, its process and files
    decided: the epoch up to which the pruner let it go on
    reported: the epoch up to which Optuna has its values
    """

    def __init__(self, trial, run, reported):
        self.trial, self.run, self.decided, self.reported = trial, run, 0, reported

    def rows(self):
        """The whole rows of metrics.csv, a list of {column: text}."""
        try:
            text = (self.run.files / METRICS).read_text()
        except FileNotFoundError:
            return []
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def pruned(self, metric):
        """Report new evaluations. Returns whether the pruner stops the trial at one of them.

        After the last epoch there is nothing left to stop.
        """
        for row in self.rows():
            epoch = int(row["epoch"])
            if epoch > self.reported:
                self.trial.report(float(row[metric]), epoch)
                self.reported = epoch
            if epoch > self.decided:
                self.decided = epoch
                # After a kill, `reported` may be ahead of a row that comes again.
                if epoch == self.reported < self.run.args.last_epoch and self.trial.should_prune():
                    return True
        return False

    def seconds(self):
        """Seconds of training and evaluation in the reported rows."""
        rows = [row for row in self.rows() if int(row["epoch"]) <= self.reported]
        return sum(float(row["train_seconds"]) + float(row["eval_seconds"]) for row in rows)


class Search:
    """The search in one folder.

    folder: its folder
    fixed: command-line words that all trials have
    space: {flag: space.Choice or space.Range}
    evaluator: the evaluate.Evaluator class of the trials; its `monitor` on the validation split is
        what is searched for
    seed: of the suggested values, and of the training
    """

    def __init__(self, folder, fixed, space, evaluator, seed):
        self.folder, self.fixed, self.space, self.seed = folder, fixed, space, seed
        self.evaluator, self.metric = evaluator, evaluator.monitor
        self.study = None

    def open(self, identity, corners):
        """Open Optuna's study, or make it.

        identity: {what: value} of all that decides the trials
        corners: parse.Flags of the space's corners

        A new study first tries the values that the flags have without a search, if they are in the
        space. Raises UserError if the folder holds a search of another identity.
        """
        file = self.folder / "optuna.db"
        storage = optuna.storages.RDBStorage(
            "sqlite://",
            engine_kwargs={"creator": lambda: sqlite3.connect(file, timeout=60)},
        )
        epochs = min(args.last_epoch for args in corners)
        self.study = optuna.create_study(
            storage=storage,
            study_name="search",
            direction="maximize" if self.evaluator.larger_is_better else "minimize",
            # Hyperband would divide the trials among brackets, each too few for TPE to learn from.
            pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, epochs // WARMUP_SHARE),
            load_if_exists=True,
        )
        before = self.study.user_attrs.get("identity")
        if before is None:
            if known := self.known_values():
                self.study.enqueue_trial(known)
            self.study.set_user_attr("identity", identity)
        elif before != identity:
            what = next(w for w in before | identity if before.get(w) != identity.get(w))
            values = [str(found.get(what, "absent"))[:60] for found in (before, identity)]
            raise UserError(
                f"{self.folder} is a search with {what} {values[0]}, not {values[1]}; "
                "give what it had, or another --name"
            )

    def known_values(self):
        """{flag: value} of the flags whose value without a search is in the space."""
        try:
            args = parse_run_flags(self.fixed, {})
        except UserError:  # the fixed words need the space's
            return {}
        found = {
            flag: values.find(getattr(args, flag), self.converter(flag, args))
            for flag, values in self.space.items()
        }
        return {flag: value for flag, value in found.items() if value is not None}

    def run(self, count, minutes, jobs):
        """Run trials until there are `count`, or the minutes are over; `jobs` at a time.

        On Ctrl-C or SIGTERM, stops the running ones and raises KeyboardInterrupt.
        """
        for trial in self.finished():  # a kill may have come before this
            self.remove_files(trial.number)
        begin = time.perf_counter() - self.study.user_attrs.get("seconds", 0.0)
        limit = math.inf if minutes is None else minutes * 60
        noted = 0.0
        interrupted = [trial for trial in self.all_trials() if trial.state == TrialState.RUNNING]
        candidates = {}
        try:
            with (
                trials.running_processes() as running,
                progress_bar("search", count, "trial", len(self.finished())) as bar,
            ):
                while True:
                    used = time.perf_counter() - begin
                    while len(candidates) < jobs:
                        if interrupted:
                            candidate = self.resume(interrupted.pop(0))
                        elif used < limit and self.asked() < count:
                            candidate = self.next()
                        else:
                            break
                        candidates[candidate.run] = candidate
                        if candidate.run.summary() is None:
                            trials.start(candidate.run, running)
                    if used > noted + CLOCK or not candidates:
                        self.study.set_user_attr("seconds", used)
                        noted = used
                    if not candidates:
                        break
                    time.sleep(0.05)
                    for candidate in list(candidates.values()):
                        if self.follow(candidate, running):
                            del candidates[candidate.run]
                            bar.update()
        except KeyboardInterrupt:
            done = len(self.finished())
            text = f"interrupted after {done} of {count} trials; the same command goes on from there"
            raise KeyboardInterrupt(text) from None
        if self.asked() < count:
            log.info("the time is over after %d of %d trials", self.asked(), count)
