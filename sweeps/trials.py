"""Run main.py for a study, each run once and in its own process, and tabulate the results."""

import ctypes
import hashlib
import json
import logging
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.contrib.logging import logging_redirect_tqdm

import families
from checkpointing.files import load_checkpoint
from cli.checks import numbers
from cli.errors import UserError
from cli.flags import LONGEST_NAME
from cli.signals import Ended
from parse import Flags
from reports.names import METRICS, SUMMARY
from sweeps.studies import as_words, describe
from sweeps.summary import read_summary
from utils import on_terminal, progress_bar

log = logging.getLogger("onebp")


PR_SET_PDEATHSIG = 1  # from sys/prctl.h
MAIN = Path(__file__).parent.parent / "main.py"


@dataclass(frozen=True, eq=False)
class Trial:
    """One run of a study.

    swept: {swept flag: its value}
    args: all flags, with the seed
    words: command-line words, without those for seed, run name and folders
    name: run name
    folder: of the study
    """

    swept: dict
    args: Flags
    words: list
    name: str
    folder: Path

    @property
    def files(self):
        """Folder of the run's metrics and summary."""
        return self.folder / "runs" / self.name

    @property
    def checkpoints(self):
        """Folder of the run's checkpoints."""
        return self.folder / "checkpoints" / self.name

    def summary(self):
        """Content of summary.json, or None if the run is not finished, or the file is damaged."""
        try:
            summary = read_summary(self.files / SUMMARY)
            numbers(summary.get("last"), "last")
            train, memory = summary.get("seconds", {}).get("train"), summary.get("peak_memory_mb")
            numbers({"seconds.train": train, "peak_memory_mb": memory}, "it")
            return summary
        except (UserError, ValueError):
            return None

    def command(self):
        """Command-line words that start the run, or continue it from its checkpoint.

        A run that has a summary.json starts anew: finished runs are not started, so that file is
        damaged.
        """
        words = [sys.executable, MAIN, *self.words, "--seed", self.args.seed]
        words += ["--run_name", self.name, "--log_root", self.files.parent]
        words += ["--checkpoint_dir", self.checkpoints.parent]
        if not (self.files / SUMMARY).exists():
            try:
                load_checkpoint(self.checkpoints / "last.pt")
                words += ["--train_mode", "continue"]
            except UserError:  # absent or damaged
                pass
        return list(map(str, words))


class Refit(Trial):
    """A run with --refit. It is finished when the run that trains on both splits is."""

    @property
    def files(self):
        return self.folder / "runs" / f"{self.name}-refit"


def load_once(flags):
    """Load each data set that the runs use, once. Returns flags with name and digest of the data.

    flags: list of parse.Flags, one for each combination

    Raises UserError if a data set cannot be loaded.
    """
    loaded, result = {}, []
    for args in flags:
        title = families.family_of(args.model).title
        source = json.dumps([title, args.loading_flags()])  # all that decides what is loaded
        if source not in loaded:
            loaded[source] = families.load_data(args)
        data = loaded[source]
        result.append(args.replace(dataset=data.name, data_digest=data.digest))
    return result


def plan(fixed, combinations, seeds, folder, kind=Trial):
    """List the trials of a study, one for each combination and seed.

    fixed: command-line words that all runs have
    combinations: list of ({swept flag: value}, parse.Flags with the digest of the data)
    seeds: number of seeds, from 1
    folder: of the study
    kind: class of the trials

    A trial's name ends with a hash of all that decides its result, data included. So the same name
    means the same result. Raises UserError if two trials are the same.
    """
    trials = {}
    for swept, args in combinations:
        for seed in range(1, seeds + 1):
            args = args.replace(seed=seed)

            # Hash the flags and the data that decide the result.
            ignored = args.ignored()
            deciding = args.deciding("training", "evaluation", "run") | {"digest": args.data_digest}
            deciding = {
                flag: value
                for flag, value in deciding.items()
                if flag not in ignored and value is not None
            }
            key = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
            if key in trials:
                raise UserError(
                    f"{describe(swept)} makes the same run as {describe(trials[key].swept)}"
                )

            # Name the trial by the parsed values of its flags: 1e-3 and 0.001 are one value.
            values = {flag: getattr(args, flag) for flag in swept}
            values = {
                flag: " ".join(map(str, value)) if isinstance(value, list) else value
                for flag, value in values.items()
            }
            name = describe(values | {"seed": seed}, ",")
            name = shortened(re.sub(r"[^\w.,=+-]", "_", name))
            words = [*fixed, *as_words(swept)]
            trials[key] = kind(values, args, words, f"{name},{key}", folder)
    return list(trials.values())


def shortened(name):
    """The readable part of a run's name, cut so that --run_name takes it with its digest."""
    return name.encode()[: LONGEST_NAME - len(",12345678")].decode(errors="ignore")


def run_all(trials, jobs):
    """Run the unfinished trials, `jobs` at a time. Returns {name: error line} of those that failed.

    On a signal of cli.signals, stops the running ones and raises KeyboardInterrupt.
    """
    waiting = [trial for trial in trials if trial.summary() is None]
    done, failed = len(trials) - len(waiting), {}
    if done:
        log.info("%d of %d runs are finished already", done, len(trials))
    try:
        with (
            running_processes() as running,
            progress_bar("training", len(trials), "run", done) as bar,
        ):
            while waiting or running:
                while waiting and len(running) < jobs:
                    start(waiting.pop(0), running)
                time.sleep(0.05)
                processes = [(trial, process) for trial, (process, _, _) in running.items()]
                for trial in [trial for trial, process in processes if process.poll() is not None]:
                    done += 1
                    bar.update()
                    progress = f"{done}/{len(trials)}"
                    if reason := log_result(trial, progress, *running.pop(trial)):
                        failed[trial.name] = reason
    except KeyboardInterrupt:
        how = "the same command goes on from there"
        text = f"interrupted after {done} of {len(trials)} runs; {how}"
        raise KeyboardInterrupt(text) from None
    return failed


@contextmanager
def running_processes():
    """Yield a dictionary for `start`. At the end, stop the processes that are still in it.

    A signal that ends the block is passed on to them, so that each ends as it would alone.
    """
    running, number = {}, signal.SIGTERM
    try:
        with logging_redirect_tqdm([log]):
            yield running
    except Ended as ended:
        number = ended.number
        raise
    finally:
        for process, _, _ in running.values():
            process.send_signal(number)
        for process, _, _ in running.values():
            process.wait()


def start(trial, running):
    """Start the trial's process, and add it to `running`.

    running: {Trial: (process, file of its stderr, time.perf_counter() at its start)}
    """
    # log_result closes the file. Its name is one of those that `study_folder` clears after a kill.
    where = {"dir": trial.folder, "prefix": ".errors.run.", "suffix": ".tmp"}
    text = {"encoding": "utf-8", "errors": "replace"}
    errors = tempfile.TemporaryFile("w+", **text, **where)  # noqa: SIM115
    outputs = {"stdout": subprocess.DEVNULL, "stderr": errors}
    process = subprocess.Popen(trial.command(), preexec_fn=end_with_parent, **outputs)
    running[trial] = process, errors, time.perf_counter()


def end_with_parent():
    """In a new process: ask Linux to kill it if the study is killed. Otherwise it would go on.

    A signal that lets it save would be worse: the study that is started again might find it there.
    """
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def log_result(trial, progress, process, errors, start_time):
    """Log how a trial ended. Returns the last line of its stderr if it failed, else None.

    trial: Trial
    progress: text in front of the line
    process, errors, start_time: see `start`; closes `errors`
    """
    if reason := failure(trial, process, errors):
        log.error("%s  %s failed: %s", progress, trial.name, reason)
        return reason
    if not on_terminal():
        seconds, best = time.perf_counter() - start_time, trial.summary()["best"]
        monitor = families.model_class(trial.args).evaluator_class(trial.args).monitor
        quality = f"{monitor} {best[monitor]:.4f} in epoch {best['epoch']}"
        log.info("%s  %s  %s, %.1f s", progress, trial.name, quality, seconds)
    return None


def failure(trial, process, errors):
    """The last line of the stderr of a trial that failed, else None.

    trial: Trial, whose process has ended
    process, errors: see `start`; closes `errors`
    """
    with errors:
        errors.seek(0)
        lines = errors.read().split("\n")
    if process.returncode or trial.summary() is None:
        status = f"exit status {process.returncode}"
        if process.returncode == -signal.SIGKILL:
            status = "killed by the system, or by somebody; was there too little memory?"
        return next((line for line in reversed(lines) if line.strip()), status)
    return None


def collect(trials):
    """Table of the finished trials, in order: the content of runs.csv."""
    rows = []
    for trial in trials:
        if summary := trial.summary():
            row = {**trial.swept, "seed": trial.args.seed, "run_name": trial.files.name}
            for moment in ("best", "last"):
                numbers = {name: v for name, v in summary[moment].items() if name != "valid"}
                row |= {f"{moment}_{name}": value for name, value in numbers.items()}
            row["train_seconds"] = summary["seconds"]["train"]
            row["epoch_seconds"] = epoch_seconds(trial)
            row["peak_memory_mb"] = summary["peak_memory_mb"]
            rows.append(row)
    return pd.DataFrame(rows)


def epoch_seconds(trial):
    """Median seconds of a training epoch of a finished trial.

    The first row of metrics.csv is left out if there are others: the machine warms up in it. Of a
    file that is absent or damaged: nan.
    """
    try:
        rows = pd.read_csv(trial.files / METRICS)[["epoch", "train_seconds"]].astype(float)
    except (OSError, ValueError, KeyError):
        return math.nan
    seconds = rows["train_seconds"] / rows["epoch"].diff().fillna(rows["epoch"])
    return (seconds.iloc[1:] if len(rows) > 1 else seconds).median()


def summarise(runs, swept):
    """Table with a row per combination of swept flags: the content of study.csv.

    runs: from `collect`
    swept: names of the swept flags

    Columns: the flags, n_seeds, and <measure>_mean and <measure>_std over the seeds. The standard
    deviation is that of a sample (divided by n - 1); it is empty for one seed.
    """
    measures = list(runs.columns[len(swept) + 2 :])  # after the flags, seed and run_name
    groups = runs.groupby(list(swept), sort=False)
    table = groups[measures].agg(["mean", "std"])
    table.columns = [f"{measure}_{statistic}" for measure, statistic in table.columns]
    table.insert(0, "n_seeds", groups.size())
    return table.reset_index()
