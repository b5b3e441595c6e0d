"""The files of a run: log.txt, metrics.csv, summary.json and curves.png."""

import csv
import fcntl
import json
import logging
import os
from pathlib import Path

import pandas as pd

from cli.errors import UserError
from distributed import collectives
from reports import names
from reports.console import chosen_by, command_line
from reports.figures import Curves, save_figure
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
        self.log_file = self.board = None
        self.with_board = args.log == "tensorboard"

    def __enter__(self):
        """Raises UserError if another process has this run, OSError if it cannot make folders."""
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
                text = str(error) or kind.__name__
                self.log_file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, text, (), None))
            log.removeHandler(self.log_file)
            self.log_file.close()
        if self.board:
            self.board.close()
        Path(self.lock.name).unlink(missing_ok=True)
        self.lock.close()

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
        """Before a continuation: drop the summary, and the rows of metrics.csv after `epoch`.

        Returns the number of rows that are left.
        """
        self.summary_file.unlink(missing_ok=True)
        rows = self.rows()
        rows = rows[rows["epoch"].astype(float) <= epoch]
        with atomic_file(self.metrics_file, "w", newline="") as file:
            rows.to_csv(file, index=False)
        return len(rows)

    def open_log(self, epoch):
        """Open metrics.csv and log.txt. Earlier log lines, about the data say, come first.

        epoch: epochs done. Raises UserError if --log needs a package that is not installed.
        """
        self.folder.mkdir(exist_ok=True)
        if not self.metrics_file.exists():
            self.add_row(self.columns)
        if self.with_board:
            self.board = open_board(self.folder / names.TENSORBOARD, epoch)
        self.log_file = logging.FileHandler(self.folder / names.LOG, encoding="utf-8")
        self.log_file.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
        for early in EarlyLog.active():
            early.replay_into(self.log_file)
        log.addHandler(self.log_file)

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
        if self.board:
            for name, value in zip(self.columns[1:], values[1:], strict=True):
                self.board.add_scalar(name, value, values[0])

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

    def write_summary(self, model, data, args, result, total_seconds):
        """Write summary.json: all that is needed to trust the numbers, or to get them again.

        result: from train.final_metrics
        total_seconds: of the run, with the time before a continuation
        """
        train_seconds, eval_seconds = self.seconds()
        device = model.device
        summary = {
            "command": command_line(),
            "versions": versions(),
            "seed": args.seed,
            "device": str(device),
            "ranks": collectives.world_size(),
            "dataset": {"name": data.name, **data.counts(), "digest": data.digest},
            "protocol": {"select": chosen_by(args), **model.protocol},
            **({"parent": data.update.parent} if getattr(data, "update", None) else {}),
            **result,
            "seconds": {"train": train_seconds, "eval": eval_seconds, "total": total_seconds},
            "peak_memory_mb": peak_memory_mb(device),
            "flags": vars(args) | {"refit_epochs": args.refit_epochs},
        }
        with atomic_file(self.summary_file, "w") as file:
            json.dump(summary, file, indent=2)

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

    set_aside = rewind = open_log = add_row = write_summary = plot = _do_nothing


def open_board(folder, epoch):
    """A writer of TensorBoard's files. It hides what an interrupted run wrote after `epoch`.

    Raises UserError if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"--log tensorboard needs a package ({error}): pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder), purge_step=epoch + 1)
