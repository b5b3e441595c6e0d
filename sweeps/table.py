"""What finished runs have, side by side: model, data set, flags that differ, metrics, seconds.

python study.py table runs/*
python study.py table studies/beta-100k/runs/* --metric NDCG@20
"""

import logging
from pathlib import Path

from cli.errors import UserError, status_of
from cli.flags import Flag, text
from cli.metrics import larger_is_better
from cli.signals import defer_interrupts
from cli.text import Multiline
from reports.names import LOG, METRICS, SUMMARY
from sweeps.command import CommandLine

log = logging.getLogger("onebp")

# fmt: off
FLAGS = [
    Flag("metric", None, text,
         help="metric to sort by (default: the one that chose the first run's epoch)"),
    Flag("log_root", "runs", str, help="folder of the runs that are given by name"),
    Flag("output", "comparison", str, help="folder to write table.csv to"),
]
# fmt: on

CSV = "table.csv"
OWN_COLUMNS = {"model", "dataset"}  # flags that always have a column


def main(words):
    """Run the command. words: of the command line, after `table`. Returns the exit status."""
    parser = CommandLine("table", "RUN RUN ... [flags]", __doc__, FLAGS)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its name")
    return status_of("study.py table", run, parser.parse(words))


def run(given):
    """Log the table of the runs, and write it.

    given: the command's arguments

    A folder without a run, and a damaged summary, are named and left out. Raises UserError if no
    finished run is left, or if none has the metric.
    """
    with defer_interrupts():
        from sweeps.finished import read_run
        from utils import log_to_console, write_csv

    log_to_console()
    runs, unfinished = [], []
    for word in dict.fromkeys(given.runs):
        folder = Path(word) if Path(word).exists() else Path(given.log_root) / word
        try:
            runs.append(read_run(folder))
        except UserError as error:
            started = any((folder / file).exists() for file in (METRICS, LOG))
            if started and not (folder / SUMMARY).exists():
                unfinished.append(folder.name)
            else:
                log.warning("left out: %s", error)
    if not runs:
        raise UserError("there is no finished run; give folders of runs, like runs/*")

    metric = given.metric or runs[0].monitor
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if metric not in known:
        raise UserError(f"no run has {metric}, only {', '.join(known)}")
    flags = flags_that_differ(runs)
    table = table_of(runs, unfinished, flags, known, metric)
    write_csv(Path(given.output) / CSV, table)
    log_table(table, flags, shown_metrics(runs, metric, known), metric)
    log.info("%s: all metrics", Path(given.output) / CSV)


def flags_that_differ(runs):
    """Names of the flags that decide the result, and have two values or more among the runs."""
    values = {}
    for run in runs:
        for flag, value in run.deciding.items():
            values.setdefault(flag, set()).add(str(value))
    return [flag for flag, found in values.items() if len(found) > 1 and flag not in OWN_COLUMNS]


def table_of(runs, unfinished, flags, metrics, metric):
    """The content of table.csv: a row per run, the best one first, unfinished ones at the end.

    runs: list of finished.FinishedRun
    unfinished: names of runs without a summary
    flags, metrics: names of columns
    metric: to sort by; runs without it come after the others
    """
    import pandas as pd

    rows = []
    for run in runs:
        row = {"run": run.name, "model": run.model}
        row["data set"] = run.summary["dataset"]["name"]
        row |= {flag: words_of(run.deciding[flag]) for flag in flags if flag in run.deciding}
        row["epoch"] = run.summary["best"].get("epoch")
        row |= run.metrics
        row["seconds"] = run.summary.get("seconds", {}).get("total")
        row["note"] = "" if metric in run.metrics else f"has no {metric}"
        rows.append(row)
    rows += [{"run": name, "note": "not finished"} for name in unfinished]
    columns = ["run", "model", "data set", *flags, "epoch", *metrics, "seconds", "note"]
    table = pd.DataFrame(rows, columns=columns).astype({"epoch": "Int64"})
    # The unfinished ones are last already, and a stable sort keeps them there.
    ascending = not larger_is_better(metric)
    return table.sort_values(metric, ascending=ascending, kind="stable", ignore_index=True)


def words_of(value):
    """The value of a flag as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def shown_metrics(runs, metric, known):
    """Names of the metrics to print: the one to sort by, and the headlines of the runs' models.

    known: names of those that some run has
    """
    headlines = [name for run in runs if run.evaluator for name in run.evaluator.headline]
    return [name for name in dict.fromkeys([metric, *headlines]) if name in known]


def log_table(table, flags, metrics, metric):
    """Log the table; a run without a value has a blank. See `table_of` for the arguments."""
    from reports.description import aligned

    shown = table[["run", "model", "data set", *flags, "epoch", *metrics, "seconds", "note"]].copy()
    for name in metrics:
        shown[name] = shown[name].map("{:.4f}".format, na_action="ignore")
    shown["seconds"] = shown["seconds"].map("{:.1f}".format, na_action="ignore")
    shown["epoch"] = shown["epoch"].astype("string")
    shown = shown.astype(object).where(shown.notna(), "").map(str)
    if not shown["note"].any():
        shown = shown.drop(columns="note")
    title = f"{len(table)} runs, by {metric} on the test split at the best epoch"
    left = [0, 1, 2, shown.columns.get_loc("note")] if "note" in shown else [0, 1, 2]
    text = aligned([[*shown.columns], *shown.to_numpy().tolist()], left)
    log.info("\n%s:\n\n%s\n", title, Multiline(text))
