"""The trials of a search: Optuna suggests the values, each trial is a process of main.py.

A trial's evaluations are the rows of its metrics.csv. They are reported to the pruner one by one,
in order, and the first row at which it says stop ends the trial there. So the decision depends on
the values alone, not on how far the process ran meanwhile; what it wrote after that row is ignored.
"""

import csv
import logging
import math
import os
import shutil
import time

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cli.errors import FULL, UserError
from cli.signals import ENDING
from parse import flags_of
from reports.names import LOG, METRICS, SECONDS
from sweeps import trials
from sweeps.folder import OF_SEARCH
from sweeps.search_report import best_of, describe_end, write_trials
from sweeps.studies import as_words, check_identity, parse_run_flags
from utils import progress_bar

log = logging.getLogger("onebp")

STARTUP_TRIALS = 10  # drawn at random, before TPE has trials to learn from
UNPRUNED_TRIALS = 5  # complete trials, before the median of them stops others
CLOCK = 2.0  # seconds between two notes of the time used
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Candidate:
    """A trial under way.

    trial: optuna.Trial
    run: trials.Trial, its process and files
    reported: the last epoch whose metric Optuna has, or 0
    decided: the last epoch at which the pruner let it go on, or 0
    """

    def __init__(self, trial, run, reported):
        self.trial, self.run, self.reported, self.decided = trial, run, reported, 0

    def rows(self):
        """The whole rows of metrics.csv, a list of {column: text}, without damaged ones."""
        try:
            text = (self.run.files / METRICS).read_text(errors="replace")
        except FileNotFoundError:
            return []
        return [*filter(is_whole, csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))]

    def pruned(self, metric):
        """Report new rows. Returns whether the pruner stops the trial at one of them.

        After the last epoch there is nothing to stop. A kill may come between a report and the
        pruner's answer, so an interrupted trial asks again at the last epoch that was reported.
        """
        for row in self.rows():
            epoch = int(row["epoch"])
            if epoch > self.reported:
                self.trial.report(float(row[metric]), epoch)
                self.reported = epoch
            if epoch == self.reported > self.decided:
                if epoch < self.run.args.last_epoch and self.trial.should_prune():
                    return True
                self.decided = epoch
        return False

    def seconds(self):
        """Seconds of training and evaluation in the reported rows."""
        rows = [row for row in self.rows() if int(row["epoch"]) <= self.reported]
        seconds = [row[name] for row in rows for name in SECONDS]
        return sum(float(text) for text in seconds if text)  # some may be lost

    def remove_files(self, failed):
        """Remove all but metrics.csv: the other files hold weights, and metrics of the test split.

        A trial that failed keeps its log.txt, which has none.
        """
        shutil.rmtree(self.run.checkpoints, ignore_errors=True)
        for folder in (self.run.checkpoints, self.run.files):
            folder.with_name(f".{self.run.name}.lock").unlink(missing_ok=True)
        for path in self.run.files.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (METRICS, *([LOG] if failed else [])):
                path.unlink()


def is_whole(row):
    """Whether all fields of a row {column: text} are numbers; seconds may be lost."""
    try:
        numbers = [float(row[column]) for column in row.keys() - SECONDS]
        return bool(numbers) and float(row["epoch"]).is_integer()
    except (ValueError, TypeError, KeyError):
        return False


def interruption(status, reason):
    """What ended a trial's process that may not end it the next time, a text; None if it failed.

    status: its exit status; reason: its last line, or None
    """
    if {status - 128, -status} & {*ENDING}:
        return "was asked to end"
    full = [os.strerror(number) for number in FULL]
    if any(words in (reason or "") for words in full):
        return f"ended: {reason.split('; ')[0]}"  # without advice to the run
    return None


def open_journal(file):
    """Optuna's storage in a file to which each change is appended as a line, on disk at once.

    SQLite would wait for the disk several times for each report. A kill may leave a lock (a link,
    also under a name for its removal), or half a line: all are removed, as no other process has the
    folder.
    """
    for lock in file.parent.glob(f"{file.name}.lock*"):
        lock.unlink()
    if file.exists():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(file)))


class Search:
    """The search in one folder.

    folder: its folder
    fixed: command-line words that all trials have
    space: {flag: space.Choice or space.Range}
    evaluator: the evaluate.Evaluator class of the trials; they are compared by its `monitor` on the
        validation split
    seed: of the suggested values, and of the training
    """

    def __init__(self, folder, fixed, space, evaluator, seed):
        self.folder, self.fixed, self.space, self.seed = folder, fixed, space, seed
        self.evaluator, self.metric = evaluator, evaluator.monitor
        self.study = None

    def open(self, identity, warmup):
        """Open Optuna's study, or make it.

        identity: {what: value} of all that decides the trials
        warmup: epochs in which no trial is stopped

        A new study first tries the values that the flags have without a search, if the space has
        them. Raises UserError if the folder holds another search, or a damaged one.
        """
        file = self.folder / OF_SEARCH
        try:
            self.study = optuna.create_study(
                storage=open_journal(file),
                study_name="search",
                direction="maximize" if self.evaluator.larger_is_better else "minimize",
                # Hyperband would divide the trials among brackets, each too few for TPE.
                pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, warmup),
                load_if_exists=True,
            )
        except (ValueError, LookupError, TypeError, AssertionError) as error:
            reason = str(error)[:60]
            what = f"{file} is damaged ({reason}); put back a whole one, or give another --name"
            raise UserError(what) from None
        before = self.study.user_attrs.get("identity")
        if before is None:
            if left := next(self.folder.glob("*/trial-*"), None):
                raise UserError(
                    f"{self.folder} has {left.name} of a search, and {file.name} knows of none; "
                    "put that file back, or give another --name"
                )
            if (known := self.known_values()) and not self.trials():
                self.study.enqueue_trial(known)
            self.study.set_user_attr("identity", identity)
        else:
            check_identity(self.folder, "a search", before, identity)

    def known_values(self):
        """{flag: value} of the flags whose value without a search is in the space."""
        try:
            args = parse_run_flags(self.fixed, {})
        except UserError:  # the fixed words need those of the space
            return {}
        found = {
            flag: values.find(getattr(args, flag), flags_of(args.model)[flag].convert)
            for flag, values in self.space.items()
        }
        return {flag: value for flag, value in found.items() if value is not None}

    def trials(self, *states):
        """The optuna.trial.FrozenTrials so far, by number. states: none for all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def best(self):
        """The best complete trial, the first of equal ones; None without any."""
        sign = 1 if self.evaluator.larger_is_better else -1
        complete = self.trials(TrialState.COMPLETE)
        return max(complete, key=lambda trial: sign * trial.value, default=None)

    def run(self, count, minutes, jobs):
        """Run trials until there are `count`, or the minutes are over; `jobs` at a time.

        On a signal of cli.signals, stops the running ones and raises KeyboardInterrupt.
        """
        for trial in self.trials(*ENDED):  # a kill may have come before their files were removed
            candidate = self.candidate(trial, trial.user_attrs["words"], trial.last_step or 0)
            candidate.remove_files(trial.state == TrialState.FAIL)
        done = len(self.trials(*ENDED))
        bar = progress_bar("search", count, "trial", done)
        try:
            with trials.running_processes() as running, bar:
                for number in self.ended(running, count, minutes, jobs):
                    done += 1
                    bar.update()
                    write_trials(self)
                    log.info("%d/%d  %s", done, count, describe_end(self, self.trials()[number]))
        except KeyboardInterrupt:
            how = "the same command goes on from there"
            raise KeyboardInterrupt(f"interrupted after {done} of {count} trials; {how}") from None
        if done < count:
            log.info("the time is over after %d of %d trials", done, count)

    def ended(self, running, count, minutes, jobs):
        """Run the trials, and yield the number of each one that has ended.

        running: of trials.running_processes
        count, minutes, jobs: see `run`
        """
        limit = math.inf if minutes is None else 60 * minutes
        used = noted = self.study.user_attrs.get("seconds", 0.0)
        begin = time.perf_counter() - used
        interrupted = self.trials(TrialState.RUNNING)
        candidates = []
        while True:
            # Begin trials, those first that a kill interrupted.
            while len(candidates) < jobs and (
                interrupted or (used < limit and self.asked() < count)
            ):
                candidates.append(self.start(interrupted.pop(0) if interrupted else None, running))
            if not candidates:
                return

            # See which have ended.
            time.sleep(0.05)
            for candidate in list(candidates):
                if self.follow(candidate, running):
                    candidates.remove(candidate)
                    yield candidate.trial.number

            # Note the time used: a search that goes on has the rest.
            used = time.perf_counter() - begin
            if used > noted + CLOCK or not candidates:
                self.study.set_user_attr("seconds", used)
                noted = used

    def asked(self):
        """Number of the trials so far, without the first one if it waits."""
        return len(self.trials(TrialState.RUNNING, *ENDED))

    def start(self, interrupted, running):
        """Begin a new trial, or an interrupted one again. Returns its Candidate.

        interrupted: its optuna.trial.FrozenTrial, or None
        running: of trials.running_processes

        Each trial has random numbers of its own, so a kill does not change those of later ones.
        """
        number = interrupted.number if interrupted else self.asked()
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True, seed=int(seed)
        )
        if interrupted:  # Optuna has no public way to take up a trial again
            trial = optuna.trial.Trial(self.study, interrupted._trial_id)
            reported = interrupted.last_step or 0
        else:
            trial, reported = self.study.ask(), 0
        words = {flag: values.suggest(trial, flag) for flag, values in self.space.items()}
        trial.set_user_attr("words", words)

        candidate = self.candidate(trial, words, reported)
        if candidate.run.summary() is None:  # otherwise the kill came after its end
            if "continue" not in candidate.run.command():  # a kill came before a checkpoint
                for folder in (candidate.run.files, candidate.run.checkpoints):
                    shutil.rmtree(folder, ignore_errors=True)
            trials.start(candidate.run, running)
        return candidate

    def candidate(self, trial, words, reported):
        """The Candidate of a trial with these words."""
        args = parse_run_flags(self.fixed, words).replace(seed=self.seed)
        all_words = [*self.fixed, *as_words(words)]
        run = trials.Trial(words, args, all_words, f"trial-{trial.number}", self.folder)
        return Candidate(trial, run, reported)

    def follow(self, candidate, running):
        """Report what is new of a trial. Returns whether it has ended; Optuna has its end then.

        Nothing of a process that failed is lost: rows before the failure count for the pruner.
        """
        process, errors, _ = running.get(candidate.run, (None, None, None))
        over = process is None or process.poll() is not None  # asked before the rows are read
        pruned, reason = candidate.pruned(self.metric), None
        if not over and not pruned:
            return False
        if process:
            if not over:
                process.terminate()
                process.wait()
            reason = trials.failure(candidate.run, process, errors)
            del running[candidate.run]
            if not pruned and (why := interruption(process.returncode, reason)):
                number = candidate.trial.number
                raise UserError(f"trial {number} {why}; the same command goes on from there")

        trial, value = candidate.trial, None
        if pruned:
            state = TrialState.PRUNED
        elif reason:
            state = TrialState.FAIL
            trial.set_user_attr("error", reason)
        else:
            state = TrialState.COMPLETE
            _, value = best_of(self, self.trials()[trial.number])
        trial.set_user_attr("seconds", candidate.seconds())
        self.study.tell(trial, value, state)
        candidate.remove_files(failed=state == TrialState.FAIL)
        return True
