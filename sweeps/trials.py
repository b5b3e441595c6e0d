"""Runs of main.py for a study: each once, each in its own process, and the table of what they found."""

import ctypes
import hashlib
import json
import logging
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import families
from checkpointing.files import load_checkpoint
from cli.errors import UserError
from parse import Flags
from sweeps.studies import as_words, describe
from utils import on_terminal

log = logging.getLogger("onebp")


PR_SET_PDEATHSIG = 1  # from sys/prctl.h
MAIN = Path(__file__).parent.parent / "main.py"


@dataclass(frozen=True, eq=False)
class Trial:
    """One run of a study."""

    swept: dict  # flag -> value
    args: Flags  # all flags, the seed included
    words: list  # of the command line, less those about the run's name and place
    name: str
    folder: Path  # of the study

    @property
    def files(self):
        return self.folder / "runs" / self.name

    @property
    def checkpoints(self):
        return self.folder / "checkpoints" / self.name

    def summary(self):
        """What summary.json holds, or None where the run is not finished."""
        try:
            return json.loads((self.files / "summary.json").read_text())
        except (FileNotFoundError, ValueError):  # ValueError: damaged
            return None

    def command(self):
        """The command that makes the run, or goes on with it where it has a checkpoint but no summary yet."""
        where = ["--log_root", self.files.parent, "--checkpoint_dir", self.checkpoints.parent]
        words = [
            sys.executable,
            MAIN,
            *self.words,
            "--seed",
            self.args.seed,
            "--run_name",
            self.name,
            *where,
        ]
        if not (self.files / "summary.json").exists():
            try:
                load_checkpoint(self.checkpoints / "last.pt")
                words += ["--train_mode", "continue"]
            except UserError:  # absent or damaged
                pass
        return list(map(str, words))


def load_once(checked):
    """Load every data set that the `checked` flags name, once. Returns the flags with its digest.

    Raises UserError if one of them is wrong.
    """
    loaded, result = {}, []
    for args in checked:
        family = families.family_of(args.model)
        source = json.dumps(
            [family.title, args.loading_flags() | {"regularizer": args.regularizer}]
        )
        if source not in loaded:
            loaded[source] = families.load_data(args)
        data = loaded[source]
        result.append(args.replace(dataset=data.name, data_digest=data.digest))
    return result


def plan(fixed, combinations, seeds, folder):
    """The trials of a study in `folder`, in order; fixed: words for all; combinations: [({swept flag: value}, args)].

    A trial's name ends with a digest of all that decides its result, the data included: other flags or data make other
    trials, and the same name means the same run. Raises UserError where two trials are the same.
    """
    trials = {}
    for swept, args in combinations:
        for seed in range(1, seeds + 1):
            own = args.replace(seed=seed)
            ignored = own.ignored()
            deciding = own.deciding("training", "run") | {"digest": own.data_digest}
            deciding = {
                flag: value
                for flag, value in deciding.items()
                if flag not in ignored and value is not None
            }
            digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
            if digest in trials:
                raise UserError(
                    f"{describe(swept)} makes the same run as {describe(trials[digest].swept)}"
                )
            values = {flag: getattr(args, flag) for flag in swept}
            values = {
                flag: " ".join(map(str, v)) if isinstance(v, list) else v
                for flag, v in values.items()
            }
            name = re.sub(r"[^\w.,=+-]", "_", f"{describe(values | {'seed': seed}, ',')},{digest}")
            trials[digest] = Trial(values, own, [*fixed, *as_words(swept)], name, folder)
    return list(trials.values())


def run_all(trials, jobs):
    """Run the trials that are not finished, `jobs` at a time. Returns {name of a failed one: its line on stderr}.

    Raises KeyboardInterrupt on Ctrl-C and on SIGTERM, with the running ones stopped.
    """
    waiting = [trial for trial in trials if trial.summary() is None]
    done, running, failed = len(trials) - len(waiting), {}, {}
    if done:
        log.info("%d of %d runs are finished already", done, len(trials))
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    bar = tqdm(initial=done, total=len(trials), unit="run", leave=False, disable=not on_terminal())
    try:
        with bar, logging_redirect_tqdm([log]):
            while waiting or running:
                while waiting and len(running) < jobs:
                    start(waiting.pop(0), running)
                time.sleep(0.05)
                for trial in [
                    trial
                    for trial, (process, _, _) in running.items()
                    if process.poll() is not None
                ]:
                    done += 1
                    bar.update()
                    if reason := ended(trial, f"{done}/{len(trials)}", *running.pop(trial)):
                        failed[trial.name] = reason
    except KeyboardInterrupt:
        text = (
            f"interrupted after {done} of {len(trials)} runs; the same command goes on from there"
        )
        raise KeyboardInterrupt(text) from None
    finally:
        for process, _, _ in running.values():
            process.terminate()
            process.wait()
        signal.signal(signal.SIGTERM, handler)
    return failed


def start(trial, running):
    """Start the trial's process and enter it in `running`: {trial: (process, its stderr, seconds on a clock)}."""
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by `ended`)
    outputs = {"stdout": subprocess.DEVNULL, "stderr": errors}
    process = subprocess.Popen(trial.command(), preexec_fn=end_with_parent, **outputs)
    running[trial] = process, errors, time.perf_counter()


def end_with_parent():
    """In a new process: ask Linux to end it when the study is killed, which would leave it training otherwise."""
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def ended(trial, place, process, errors, begin):
    """Log that the process has ended. Returns its last line on stderr where it failed."""
    with errors:
        errors.seek(0)
        lines = errors.read().split("\n")
    summary = trial.summary()
    if process.returncode or summary is None:
        reason = next(
            (line for line in reversed(lines) if line.strip()), f"exit status {process.returncode}"
        )
        log.error("%s  %s failed: %s", place, trial.name, reason)
        return reason
    if not on_terminal():
        seconds, best = time.perf_counter() - begin, summary["best"]
        monitor = families.model_class(trial.args.model).evaluator_class(trial.args).monitor
        found = f"{monitor} {best[monitor]:.4f} in epoch {best['epoch']}"
        log.info("%s  %s  %s, %.1f s", place, trial.name, found, seconds)
    return None


def collect(trials):
    """runs.csv: a row per finished trial, in order."""
    rows = []
    for trial in trials:
        if summary := trial.summary():
            row = {**trial.swept, "seed": trial.args.seed, "run_name": trial.name}
            for moment in ("best", "last"):
                row |= {
                    f"{moment}_{key}": value
                    for key, value in summary[moment].items()
                    if key != "valid"
                }
            row |= {
                "train_seconds": summary["seconds"]["train"],
                "epoch_seconds": epoch_seconds(trial),
            }
            rows.append({**row, "peak_memory_mb": summary["peak_memory_mb"]})
    return pd.DataFrame(rows)


def epoch_seconds(trial):
    """Median seconds of a training epoch, less the first row of metrics.csv, where the machine warms up."""
    rows = pd.read_csv(trial.files / "metrics.csv")
    seconds = rows["train_seconds"] / rows["epoch"].diff().fillna(rows["epoch"])
    return seconds.iloc[1:].median() if len(rows) > 1 else seconds.iloc[0]


def summarise(runs, swept):
    """study.csv: a row per combination of the `swept` flags: n_seeds, then mean and standard deviation over them.

    The standard deviation is that of a sample (n - 1); it is empty for one seed.
    """
    measures = list(runs.columns[len(swept) + 2 :])
    groups = runs.groupby(list(swept), sort=False)
    table = groups[measures].agg(["mean", "std"])
    table.columns = [f"{measure}_{part}" for measure, part in table.columns]
    table.insert(0, "n_seeds", groups.size())
    return table.reset_index()
