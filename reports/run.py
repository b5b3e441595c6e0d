"""The files of a run: flags.toml, log.txt, metrics.csv, summary.json, users.parquet, figures."""

import csv
import fcntl
import json
import logging
import os
from pathlib import Path

import pandas as pd

from cli import config
from cli.errors import UserError
from cli.text import escaped
from distributed import collectives
from reports import names
from reports.console import chosen_by, command_line
from reports.figures import Curves, save_figure
from reports.trackers import TRACKERS, numbers_of
from reports.users import write_users
from utils import EarlyLog, atomic_file, peak_memory_mb, versions

log = logging.getLogger("onebp")

# Columns of metrics.csv; those of the metrics follow.
COLUMNS = ("epoch", "loss", "lr", "train_seconds", "eval_seconds")


class Run:
    """The files of a run. As a context manager it keeps other processes away from them."""

    def __init__(self, args, metrics):
        """args: the flags; metrics: names of the metrics, in the order of the columns"""
        self.name, self.metrics = args.run_name, list(metrics)
        self.folder = Path(args.log_root) / self.name
        self.checkpoint_folder = Path(args.checkpoint_dir) / self.name
        self.metrics_file = self.folder / names.METRICS
        self.summary_file = self.folder / names.SUMMARY
        self.plot_file = self.folder / names.CURVES
        self.columns = [*COLUMNS, *self.metrics]
        self.log_file = self.tracker = None
        self.tracker_class = TRACKERS.get(args.log)

    def __enter__(self):
        """Keep other processes away.

        Raises UserError if another process has this run, or if --log needs a package that is not
        installed; OSError if it cannot make folders.
        """
        if self.tracker_class:
            self.tracker_class.check_installed()
        for folder in (self.folder, self.checkpoint_folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.checkpoint_folder.with_name(f".{self.name}.lock"), "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for it, end it, or give another --run_name"
            raise UserError(f"run {self.name} is under way in another process; {advice}") from None
        for stale in self.checkpoint_folder.glob(".*.tmp"):  # unfinished files after a kill
            stale.unlink()
        return self

    def __exit__(self, kind, error, traceback):
        if self.log_file:
            if error:
                text = escaped(error) or kind.__name__
                self.log_file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, text, (), None))
            log.removeHandler(self.log_file)
            self.log_file.close()
        Path(self.lock.name).unlink(missing_ok=True)
        self.lock.close()
        if self.tracker:
            self.tracker.end(failed=error is not None)

    def set_aside(self):
        """Before a new run: rename an earlier one to <name>.1, or the first free number."""
        folders = [folder for folder in (self.checkpoint_folder, self.folder) if folder.exists()]
        number = 1
        while any(folder.with_name(f"{self.name}.{number}").exists() for folder in folders):
            number += 1
        for folder in folders:
            if folder.exists():  # not if --checkpoint_dir and --log_root are one folder
                earlier = folder.rename(folder.with_name(f"{self.name}.{number}"))
                log.info("the earlier run of this name is now %s", earlier)

    def rewind(self, epoch):
        """Before a continuation: drop the results, and the rows of metrics.csv after `epoch`.

        Returns the number of rows that are left.
        """
        for file in (self.summary_file, self.folder / names.USERS):
            file.unlink(missing_ok=True)
        rows = self.rows()
        rows = rows[rows["epoch"].astype(float) <= epoch]
        with atomic_file(self.metrics_file, "w", newline="") as file:
            rows.to_csv(file, index=False)
        return len(rows)

    def open_log(self, epoch, asked):
        """Open metrics.csv and log.txt, and write flags.toml. Earlier log lines come first.

        epoch: epochs done
        asked: the flags of the run's command

        Raises UserError if the program of --log cannot be reached.
        """
        self.folder.mkdir(exist_ok=True)
        if not self.metrics_file.exists():
            self.add_row(self.columns)
        self.write_flags(asked)
        if self.tracker_class:
            flags = {f: v for flags in asked.repeating().values() for f, v in flags.items()}
            self.tracker = self.tracker_class(self.folder, self.name, flags, epoch)
        self.log_file = logging.FileHandler(self.folder / names.LOG, encoding="utf-8")
        self.log_file.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
        for early in EarlyLog.active():
            early.replay_into(self.log_file)
        log.addHandler(self.log_file)

    def write_flags(self, args):
        """Write flags.toml, which repeats the run. args: the flags of its command"""
        title = f"Flags of this run. To repeat it: python main.py --config {names.FLAGS}"
        how = {"encoding": "utf-8", "errors": "backslashreplace"}
        with atomic_file(self.folder / names.FLAGS, "w", **how) as file:
            file.write(config.as_toml(title, args.repeating()))

    def add_row(self, values):
        """Append a row to metrics.csv, on disk at once: a later checkpoint relies on it."""
        try:
            with open(self.metrics_file, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(values)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = f"cannot write {self.metrics_file} ({error.strerror})"
            raise UserError(
                f"{reason}; make room, then run again with --train_mode continue"
            ) from error
        if self.tracker:
            self.tracker.add_epoch(values[0], dict(zip(self.columns[1:], values[1:], strict=True)))

    def rows(self):
        """metrics.csv as a table of texts, which keep every digit, without damaged rows."""
        lines = []
        if self.metrics_file.exists():
            text = self.metrics_file.read_text(encoding="utf-8", errors="replace")
            lines = text.split("\n")[1:-1]  # without the header, and without a row that has no end
        fields = [line.split(",") for line in lines]
        whole = [row for row in fields if len(row) == len(self.columns)]
        rows = pd.DataFrame(whole, columns=self.columns, dtype=str)
        return rows[rows.apply(pd.to_numeric, errors="coerce").notna().all(axis=1)]

    def seconds(self):
        """Seconds of training and of evaluation in all rows so far."""
        rows = self.rows().astype(float)
        return float(rows["train_seconds"].sum()), float(rows["eval_seconds"].sum())

    def track_result(self, result, outputs):
        """Give the final metrics and the figures to the program of --log.

        result: from train.final_metrics
        outputs: {topic: paths} from Recommender.write_outputs
        """
        if self.tracker:
            files = [self.plot_file, *(path for paths in outputs.values() for path in paths)]
            figures = [path for path in files if path.suffix == ".png"]
            self.tracker.add_result(result["last"]["epoch"], numbers_of(result), figures)

    def write_summary(self, model, data, args, result, total_seconds):
        """Write summary.json: all that is needed to trust the numbers, or to get them again.

        result: from train.final_metrics
        total_seconds: of the run, with the time before a continuation
        """
        train_seconds, eval_seconds = self.seconds()
        seconds = {"train": train_seconds, "eval": eval_seconds, "total": total_seconds}
        write_summary(self.summary_file, model, data, args, {**result, "seconds": seconds})

    def write_users(self, users, groups):
        """Write users.parquet and groups.png, if there are `users`. Returns {topic: paths}.

        users, groups: from metrics.found.Found.tables
        """
        return {} if users is None else {"users": write_users(self.folder, users, groups)}

    def plot(self, model, split, best_epoch, baselines):
        """Write curves.png: the loss, and the headline metrics on `split`, by epoch.

        baselines: {name: test metrics}; the best of them is a level if `split` is test
        """
        rows = self.rows().astype(float)
        better = model.evaluator.better
        best = [
            name
            for name, values in baselines.items()
            if split == "test" and not any(better(other, values) for other in baselines.values())
        ]
        headline = model.evaluator.headline
        levels = [
            (f"{name}, {metric}", baselines[name][metric], number)
            for number, metric in enumerate(headline)
            for name in best
        ]
        losses = Curves([(None, rows["epoch"], rows["loss"])], "training loss")
        metrics = Curves(
            [(metric, rows["epoch"], rows[metric]) for metric in headline],
            f"metric on the {split} split",
            levels,
            best_epoch,
            model.evaluator.from_zero,
        )
        save_figure(self.plot_file, self.folder.name, [losses, metrics])


def write_summary(path, model, data, args, result):
    """Write a summary.json: what was evaluated, how, on which data. result: further entries"""
    summary = {
        "command": command_line(),
        "versions": versions(),
        "seed": args.seed,
        "device": str(model.device),
        "ranks": collectives.world_size(),
        "dataset": {"name": data.name, **data.counts(), "digest": data.digest},
        "protocol": {"select": chosen_by(args), **model.protocol},
        **result,
        "peak_memory_mb": peak_memory_mb(model.device),
        "flags": vars(args) | {"refit_epochs": args.refit_epochs},
    }
    with atomic_file(path, "w") as file:
        json.dump(summary, file, indent=2)


class SilentRun(Run):
    """The Run of all processes but the first: it writes nothing, and reads what the first wrote."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        """Nothing to close."""

    def _do_nothing(self, *arguments):
        """Only the first process does this."""

    def seconds(self):
        """Zeros: the first process may be replacing metrics.csv, and only it needs the seconds."""
        return 0.0, 0.0

    def write_users(self, users, groups):
        """Nothing: the first process has the rows of all users."""
        return {}

    set_aside = rewind = open_log = add_row = track_result = _do_nothing
    write_summary = plot = _do_nothing
