"""What a run leaves: log.txt, metrics.csv, summary.json and curves.png; and the lines that it prints."""

import csv
import fcntl
import itertools
import json
import logging
import os
import warnings
from pathlib import Path

import pandas as pd

from cli.errors import UserError
from distributed import collectives
from reports.console import chosen_by, command_line
from utils import EarlyLog, atomic_file, peak_memory_mb, versions

log = logging.getLogger("onebp")


COLUMNS = (
    "epoch",
    "loss",
    "lr",
    "train_seconds",
    "eval_seconds",
)  # of metrics.csv; the metrics follow


class Run:
    """The files of a run. As a context manager it keeps other processes away from them."""

    def __init__(self, args, metrics):
        """args: the flags; metrics: the names of the model's metrics, in the order of the columns."""
        self.name, self.metrics = args.run_name, list(metrics)
        self.folder = Path(args.log_root) / self.name
        self.checkpoint_folder = Path(args.checkpoint_dir) / self.name
        self.metrics_file, self.summary_file = (
            self.folder / "metrics.csv",
            self.folder / "summary.json",
        )
        self.plot_file = self.folder / "curves.png"
        self.columns = [*COLUMNS, *self.metrics]
        self.log_file = self.board = None
        self.with_board = args.log == "tensorboard"

    def __enter__(self):
        """Raises UserError when another process has this run, OSError when its folders cannot be made."""
        for folder in (self.folder, self.checkpoint_folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.checkpoint_folder.with_name(f".{self.name}.lock"), "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for it, end it, or give another --run_name"
            raise UserError(f"run {self.name} is under way in another process; {advice}") from None
        for stale in self.checkpoint_folder.glob(".*.tmp"):  # what kills left of unfinished files
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
        """Before a new run: an earlier one of the same name becomes `<name>.1`, or the first number that is free."""
        folders = [folder for folder in (self.checkpoint_folder, self.folder) if folder.exists()]
        numbers = (f"{self.name}.{number}" for number in itertools.count(1))
        free = next(
            name
            for name in numbers
            if not any(folder.with_name(name).exists() for folder in folders)
        )
        for folder in folders:
            if folder.exists():  # no longer, where --checkpoint_dir and --log_root are the same
                folder.rename(folder.with_name(free))
                log.info("the earlier run of this name is now %s", folder.with_name(free))

    def rewind(self, epoch):
        """Before a continuation: drop the summary, and the rows of metrics.csv after `epoch`, the checkpoint's."""
        self.summary_file.unlink(missing_ok=True)
        rows = self.rows()
        with atomic_file(self.metrics_file, "w", newline="") as file:
            rows = rows[rows["epoch"].astype(float) <= epoch]
            rows.to_csv(file, index=False)
        return len(rows)

    def open_log(self, epoch):
        """Start metrics.csv and log.txt after `epoch`; what was logged before, about the data say, comes first.

        Raises UserError where --log wants a package that is not installed.
        """
        self.folder.mkdir(exist_ok=True)
        if not self.metrics_file.exists():
            self.add_row(self.columns)
        if self.with_board:
            self.board = open_board(self.folder / "tensorboard", epoch)
        self.log_file = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        self.log_file.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
        for early in EarlyLog.active():
            early.replay_into(self.log_file)
        log.addHandler(self.log_file)

    def add_row(self, values):
        """Append one row to metrics.csv, onto the disk: a checkpoint written later relies on it."""
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
        """metrics.csv as a table of strings, which keep every digit, less rows damaged or cut off by a kill."""
        lines = []
        if self.metrics_file.exists():
            lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").split("\n")[
                1:-1
            ]  # \n ends a row
        fields = [line.split(",") for line in lines]
        rows = pd.DataFrame(
            [row for row in fields if len(row) == len(self.columns)],
            columns=self.columns,
            dtype=str,
        )
        return rows[rows.apply(pd.to_numeric, errors="coerce").notna().all(axis=1)]

    def seconds(self):
        """Seconds of training and of evaluation in all rows so far."""
        rows = self.rows().astype(float)
        return float(rows["train_seconds"].sum()), float(rows["eval_seconds"].sum())

    def write_summary(self, model, data, args, result, total_seconds):
        """summary.json: all that another person needs to trust the numbers, or to get them again.

        result: what train.final_metrics returned; total_seconds: of this run, the time before a continuation included.
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
            **result,
            "seconds": {"train": train_seconds, "eval": eval_seconds, "total": total_seconds},
            "peak_memory_mb": peak_memory_mb(device),
            "flags": vars(args) | {"refit_epochs": args.refit_epochs},
        }
        with atomic_file(self.summary_file, "w") as file:
            json.dump(summary, file, indent=2)

    def plot(self, model, part, best_epoch, baselines):
        """curves.png: the loss, and the `headline` metrics on `part`, by epoch; the best baseline as a level.

        baselines: {name: test metrics}, shown where `part` is the test part. Lines differ in dash as well as in colour.
        """
        from matplotlib.figure import Figure  # half a second, needed once, at the end
        from matplotlib.ticker import MaxNLocator

        rows = self.rows().astype(float)
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        marks = {"markevery": max(1, len(rows) // 10), "markersize": 5}
        left.plot(rows["epoch"], rows["loss"], "k-", marker="o", **marks)
        left.set(xlabel="epoch", ylabel="training loss")
        for metric, dash, marker in zip(
            model.evaluator.headline, ("-", "--", "-."), "os^", strict=False
        ):
            (line,) = right.plot(
                rows["epoch"], rows[metric], dash, marker=marker, label=metric, **marks
            )
            for name, values in baselines.items():
                if part != "test" or any(
                    model.better(other, values) for other in baselines.values()
                ):
                    continue
                label = f"{name}, {metric}"
                right.axhline(
                    values[metric], linestyle=dash, color=line.get_color(), alpha=0.5, label=label
                )
        right.axvline(best_epoch, color="gray", linestyle=":", label=f"best epoch ({best_epoch})")
        right.set(xlabel="epoch", ylabel=f"metric on the {part} part")
        if model.evaluator.from_zero:
            right.set_ylim(bottom=0)
        right.legend()
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.suptitle(self.folder.name, parse_math=False)
        with atomic_file(self.plot_file) as file, warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Glyph"
            )  # a name in letters that the font lacks
            figure.savefig(file, format="png", dpi=120)


class SilentRun(Run):
    """A run as it is for all ranks but the first: its files are there, and others write them."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        """Leave nothing behind."""

    def _leave_to_first(self, *arguments):
        """Do nothing."""

    def seconds(self):
        """None: metrics.csv may be on its way to another folder."""
        return 0.0, 0.0

    set_aside = rewind = open_log = add_row = write_summary = plot = _leave_to_first


def open_board(folder, epoch):
    """A writer of TensorBoard's files; what an interrupted run wrote after `epoch` is hidden. Raises UserError."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"--log tensorboard needs a package ({error}): pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder), purge_step=epoch + 1)
