"""The files of a run: flags.toml, log.txt, metrics.csv, summary.json, users.parquet, figures."""

import csv
import json
import logging
import os
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import torch

from cli import checks, config
from cli.errors import LogFile, UserError
from cli.text import escaped
from distributed import collectives
from reports import names
from reports.console import chosen_by, command_line
from reports.figures import Curves, save_figure
from reports.lock import locked
from reports.names import SECONDS
from reports.trackers import TRACKERS, numbers_of
from reports.users import write_users
from utils import EarlyLog, atomic_file, peak_memory_mb, remove_unfinished, versions

log = logging.getLogger("onebp")

# Columns of metrics.csv; those of the metrics follow.
COLUMNS = ("epoch", "loss", "lr", *SECONDS)


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
        folders = self.folder, self.checkpoint_folder
        for folder in folders:
            folder.parent.mkdir(parents=True, exist_ok=True)
        # One lock if both lie in one folder.
        places = {folder.parent.resolve(): folder.parent for folder in folders}.values()
        with ExitStack() as locks:
            files = [place / f".{self.name}.lock" for place in places]
            self.held = [locks.enter_context(locked(file)) for file in files]
            for folder in folders:
                remove_unfinished(folder, locked=True)
            self.locks = locks.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        """Raises UserError if log.txt lacks lines; not beside another error."""
        if self.log_file:
            if error:
                text = escaped(error) or kind.__name__
                self.log_file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, text, (), None))
            log.removeHandler(self.log_file)
            self.log_file.close()
        self.locks.close()
        if self.tracker:
            self.tracker.end(failed=error is not None)
        if self.log_file and self.log_file.failed and not error:
            raise UserError(
                f"cannot write {self.folder / names.LOG} ({self.log_file.failed.strerror}): it "
                "lacks lines, all other files are written; make room there"
            )

    def check_locks(self):
        """Raise UserError if a process of another machine has taken the run over."""
        for lock in self.held:
            lock.check()

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

    def check_places(self):
        """Before a continuation: raise UserError if a folder is where a file is to be written."""
        paths = [*self.folder.glob("*.*"), *self.checkpoint_folder.glob("*.*")]
        for path in paths:
            if path.suffix in names.SUFFIXES and path.is_dir():
                raise UserError(f"{path} is a folder, in the place of a file; rename or remove it")

    def mend_metrics(self, progress):
        """Before a continuation: bring metrics.csv to the rows of the checkpoint.

        Later rows are dropped. Those that are absent or not as the run wrote them are written anew,
        without their seconds, which are lost, and this is said.

        progress: train.Progress; an old checkpoint has no rows, and gets those of the file
        """
        found = self.rows()
        found = found[found["epoch"].astype(float) <= progress.epoch]
        if not len(progress.rows):
            numbers = found.drop(columns=SECONDS).astype(float)
            progress.rows = torch.tensor(numbers.to_numpy())
        by_epoch = {float(row["epoch"]): row for row in found.to_dict("records")}
        names, rows, lost = [c for c in self.columns if c not in SECONDS], [], 0
        for epoch, *others in progress.rows.tolist():
            row = by_epoch.get(epoch, dict.fromkeys(self.columns, "nan"))
            if [float(row[name]) for name in names] != [epoch, *others]:
                own = dict(zip(names, [int(epoch), *others], strict=True))
                row, lost = dict.fromkeys(SECONDS, "") | own, lost + 1
            rows.append(row)
        table = pd.DataFrame(rows, columns=self.columns).to_csv(index=False, lineterminator="\n")
        if self.metrics_file.exists() and self.metrics_file.read_bytes() == table.encode():
            return
        with atomic_file(self.metrics_file, "w", newline="") as file:
            file.write(table)
        if lost:
            log.warning(
                "warning: %s: %d of %d rows were absent, damaged or edited; they are written anew "
                "from the checkpoint, without seconds",
                self.metrics_file,
                lost,
                len(rows),
            )

    def has_summary(self, progress):
        """Whether summary.json is whole, and of this train.Progress. Says if one is not."""
        try:
            summary = json.loads(self.summary_file.read_text())
            best, last = summary["best"], summary["last"]
            same = (best["epoch"], last["epoch"]) == (progress.best_epoch, progress.epoch)
            checks.numbers({name: best[name] for name in self.metrics}, "best")
            seconds = {name: summary["seconds"][name] for name in ("train", "total")}
            checks.numbers(seconds, "seconds")
            chosen = best.get("valid", best)
            if same and all(repr(chosen[name]) == repr(x) for name, x in progress.best.items()):
                return True
        except FileNotFoundError:
            return False
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # cut off, or edited
        log.warning("warning: %s is damaged or of another run: written anew", self.summary_file)
        return False

    def rewind(self):
        """Before a continuation: drop the results. Returns the number of rows of metrics.csv."""
        for file in (self.summary_file, self.folder / names.USERS):
            file.unlink(missing_ok=True)
        return len(self.rows())

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
        self.log_file = LogFile(self.folder / names.LOG, encoding="utf-8")
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
                f"{reason}; make room or put its folder back, then run again with "
                "--train_mode continue"
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
        known = rows.assign(**rows[SECONDS].replace("", "0"))  # lost ones, see mend_metrics
        return rows[known.apply(pd.to_numeric, errors="coerce").notna().all(axis=1)]

    def numbers(self):
        """metrics.csv as a table of numbers; seconds that were lost are nan."""
        return self.rows().replace("", "nan").astype(float)

    def seconds(self):
        """Seconds of training and of evaluation in all rows so far."""
        rows = self.numbers()
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

        users, groups: from engine.metrics.found.Found.tables
        """
        return {} if users is None else {"users": write_users(self.folder, users, groups)}

    def plot(self, model, split, best_epoch, baselines):
        """Write curves.png: the loss, and the headline metrics on `split`, by epoch.

        baselines: {name: test metrics}; the best of them is a level if `split` is test
        """
        rows = self.numbers()
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
        **({"parent": data.update.parent} if getattr(data, "update", None) else {}),
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

    check_locks = check_places = set_aside = mend_metrics = rewind = open_log = _do_nothing
    add_row = track_result = write_summary = plot = _do_nothing
