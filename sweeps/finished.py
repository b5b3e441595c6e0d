"""Finished runs: what they leave, which of them are seeds of one row, and whether rows compare."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

import families
from cli.errors import UserError
from parse import Flags, flags_of
from reports.names import SUMMARY, USERS
from sweeps.studies import describe
from sweeps.summary import read_summary

RUNS = "runs.csv"  # of a study
# Entries of a summary's protocol in which runs may differ: the users themselves are compared, and
# what chose the epoch is named.
NOT_COMPARED = {"select", "users_evaluated"}


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that has ended. folder (Path): its files; summary: content of summary.json"""

    folder: Path
    summary: dict

    @property
    def name(self):
        return self.folder.name

    @cached_property
    def flags(self):
        """The parse.Flags of the run; a flag that is new since then has its default.

        None if summary.json names no model of this program.
        """
        values = self.summary["flags"]
        if values.get("model") not in families.models():
            return None
        declared = flags_of(values["model"])
        known = {name: values.get(name, flag.default) for name, flag in declared.items()}
        return Flags(known, {}, values.get("refit_epochs"))

    @property
    def model(self):
        """The value of --model, or "lists" for those of another program."""
        flags = self.summary["flags"]
        return "lists" if flags.get("recommendations") else flags.get("model")

    @cached_property
    def deciding(self):
        """{flag: value} of the flags that decide the result and have an effect."""
        if self.flags is None or self.flags.recommendations:
            return {}
        ignored = self.flags.ignored()
        deciding = self.flags.deciding("training", "evaluation", "run", "stream")
        deciding = {flag: value for flag, value in deciding.items() if flag not in ignored}
        if self.flags.refit_epochs:  # evaluated once, after them
            deciding = {**deciding, "refit_epochs": self.flags.refit_epochs}
            del deciding["eval_every"]
        return deciding

    @property
    def evaluator(self):
        """The class that evaluated it, with the names of its metrics; None without a model."""
        return self.flags and families.model_class(self.flags).evaluator_class(self.flags)

    @property
    def monitor(self):
        """The metric that chose the best epoch; the first one of a run without a model."""
        return self.evaluator.monitor if self.evaluator else next(iter(self.metrics), None)

    @property
    def metrics(self):
        """{metric: value} at the best epoch, on the test split."""
        best = self.summary["best"]
        return {name: value for name, value in best.items() if name not in ("epoch", "valid")}

    def users(self):
        """users.parquet: a table with the column interactions and one per metric, by user.

        Raises UserError if it is absent, damaged, or not of the epoch of summary.json.
        """
        file = self.folder / USERS
        try:
            table = pd.read_parquet(file)
        except FileNotFoundError:
            raise UserError(f"{file} is absent: {self.how_to_make}") from None
        except (OSError, ValueError, TypeError, LookupError) as error:  # pyarrow's, pandas'
            raise UserError(f"{file} is damaged ({str(error)[:60]}): {self.how_to_make}") from None
        ids = infer_dtype(table["user"], skipna=False) if "user" in table else None
        numbers = table.drop(columns="user", errors="ignore")
        numeric = all(kind.kind in "if" for kind in numbers.dtypes)
        finite = numeric and np.isfinite(numbers.to_numpy()).all()
        if ids not in ("string", "integer") or not finite:
            raise UserError(f"{file} is no table of users and numbers: {self.how_to_make}")
        if table["user"].duplicated().any():
            raise UserError(f"{file} has a user twice: {self.how_to_make}")

        # A file of another epoch, or of other flags of evaluation, is not what it is taken for.
        for metric in table.columns.intersection(list(self.metrics)):
            mean, best = table[metric].mean(), self.metrics[metric]
            if not np.isclose(mean, best, rtol=1e-4, atol=1e-6):
                raise UserError(
                    f"{file} has {metric} {mean:.5f}, and {SUMMARY} {best:.5f}: {self.how_to_make}"
                )
        return table.set_index("user").sort_index()

    @property
    def how_to_make(self):
        """Advice if users.parquet is absent or wrong."""
        command = f"python main.py --mode evaluate --run_name {self.name}"
        for flag in ("log_root", "checkpoint_dir") if self.flags else ():
            value = getattr(self.flags, flag)
            command += f" --{flag} {value}" if value != self.flags.default(flag) else ""
        return f"{command} leaves the metrics of each user in {self.folder}-evaluate; compare that"


@dataclass(frozen=True, eq=False)
class Row:
    """Runs that differ in their seed alone, or one run. label: for tables"""

    label: str
    runs: list

    def users(self, metrics):
        """The metrics of every user, means over the seeds: a table by user.

        Raises UserError if a run lacks a metric, or if its users are not those of the others.
        """
        tables = [run.users() for run in self.runs]
        for run, table in zip(self.runs, tables, strict=True):
            columns = [name for name in table.columns if name != "interactions"]
            for metric in metrics:
                if metric not in columns:
                    raise UserError(
                        f"{run.folder / USERS} has no {metric}, only {', '.join(columns)}"
                    )
            check_same_users(self.runs[0].name, tables[0], run.name, table)
        return sum(table[list(metrics)] for table in tables) / len(tables)


def read_run(folder):
    """The FinishedRun of a folder. Raises UserError if it has no summary.json, or a wrong one."""
    return FinishedRun(Path(folder), read_summary(Path(folder) / SUMMARY))


def rows_of(word, root):
    """The Rows that a word of the command line names, a list.

    word: a run's name, or its folder; a study's folder: each of its combinations; one of these,
        as studies/beta-100k/beta=0.9; LABEL=PATTERN: all runs that the pattern matches, as one
    root: folder of the runs that are given by name

    Raises UserError if there is no such run, or if runs of one row differ in more than the seed.
    """
    for folder in (Path(word), Path(root) / word):
        if (folder / RUNS).is_file():
            return list(rows_of_study(folder).values())
        if folder.is_dir():
            return [Row(folder.name, [read_run(folder)])]
    study, combination = Path(word).parent, Path(word).name
    if (study / RUNS).is_file():
        rows = rows_of_study(study)
        if combination not in rows:
            raise UserError(f"{study} has no combination {combination}, only {' and '.join(rows)}")
        return [rows[combination]]

    label, _, pattern = word.partition("=")
    folders = pattern and (matching(pattern) or matching(str(Path(root) / pattern)))
    if not folders:
        raise UserError(
            f"there is no run {word}, also not in {root}; give a run's name or folder, a study's "
            "folder, or LABEL=PATTERN, like onebp=runs/onebp-seed*"
        )
    return [checked(Row(label, [read_run(folder) for folder in folders]))]


def matching(pattern):
    """The paths that a pattern of the shell matches, sorted."""
    anchor = Path(pattern).anchor
    try:
        return sorted(Path(anchor).glob(pattern.removeprefix(anchor)))
    except ValueError:  # it is no pattern
        return []


def rows_of_study(folder):
    """{combination: Row of its seeds} of a study. folder (Path): has runs.csv"""
    file = folder / RUNS
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        swept = list(table.columns[: list(table.columns).index("seed")])
        names = table["run_name"].groupby(table[swept].apply(describe_row, axis=1), sort=False)
    except (ValueError, KeyError):
        raise UserError(f"{file} is not that of a study; run the study again") from None
    if not len(table):
        raise UserError(f"{file} has no run; run the study again")
    rows = {}
    for combination, run_names in names:
        runs = [read_run(folder / "runs" / name) for name in run_names]
        rows[combination] = checked(Row(f"{folder.name}/{combination}", runs))
    return rows


def describe_row(values):
    """A combination as text: "N=5,beta=0.9". values: Series by flag"""
    return describe(values.to_dict(), ",")


def checked(row):
    """The row. Raises UserError if its runs differ in more than the seed, or have the same one."""
    first, seeds = row.runs[0], {}
    for run in row.runs:
        for flag, value in run.deciding.items():
            before = first.deciding.get(flag)
            if flag not in ("seed", "refit_epochs") and value != before:
                raise UserError(
                    f"{row.label}: {first.name} and {run.name} are no seeds of one row: "
                    f"--{flag} is {before} and {value}"
                )
        seed = run.summary.get("seed")
        if seed in seeds:
            raise UserError(f"{row.label}: {seeds[seed]} and {run.name} have the same seed {seed}")
        seeds[seed] = run.name
    return row


def check_same_data(runs):
    """Raise UserError if runs are of other data or splits, or were evaluated in another way."""
    first = runs[0].summary
    for run in runs:
        names = f"{runs[0].name} and {run.name}"
        data, others = first["dataset"], run.summary["dataset"]
        if data["digest"] != others["digest"]:
            what = " and ".join(f"{part['name']} {part['digest'][:12]}" for part in (data, others))
            raise UserError(
                f"{names} have other data or splits (digests: {what}); compare runs of one data "
                "set, with the same --select and flags of the split"
            )
        for topic in first["protocol"].keys() & run.summary["protocol"].keys() - NOT_COMPARED:
            how = first["protocol"][topic], run.summary["protocol"][topic]
            if how[0] != how[1]:
                raise UserError(f"{names} were evaluated differently: {topic}: {how[0]}; {how[1]}")


def check_same_users(name, table, other_name, other):
    """Raise UserError if two tables by user, of runs of these names, have other users."""
    if table.index.equals(other.index):
        return
    lacking = table.index.difference(other.index), other.index.difference(table.index)
    parts = [
        f"{who} lacks {len(users):,} of {of}'s users (the first: {users[0]})"
        for who, of, users in ((other_name, name, lacking[0]), (name, other_name, lacking[1]))
        if len(users)
    ]
    raise UserError(f"{'; '.join(parts)}; compare runs that were evaluated on the same users")
