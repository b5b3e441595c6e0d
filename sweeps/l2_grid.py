"""--l2_grid: one training run for each strength of --l2; the validation split chooses the best.

This is MF-Fix, the baseline of lambdaOpt. Source: Chen et al., KDD 2019, arXiv 1905.11596.
"""

import gc
import json
import logging
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import torch

from checkpointing.files import load_checkpoint
from checkpointing.resume import changed_flags, explain_mismatch
from cli.errors import Diverged, UserError
from cli.text import Multiline
from reports.console import command_to_continue
from reports.figures import Lines, save_figure
from reports.names import SUMMARY
from reports.run import Run
from train import fit
from utils import EarlyLog, write_csv

log = logging.getLogger("onebp")


def fit_grid(model_class, device, data, args):
    """Train one run for each strength of --l2_grid, then log and write a table of all runs.

    model_class, device, data: what each run's model is made of
    args: flags; uses l2_grid, run_name and train_mode

    A strength whose loss does not stay finite cannot be chosen. Raises UserError if that is so for
    all strengths, or if a run to continue had other flags. On Ctrl-C, raises KeyboardInterrupt with
    a line on how to continue.
    """
    evaluator = model_class.evaluator_class(args)
    with Run(args, evaluator.metrics) as run:
        runs = [flags_of_run(args, strength) for strength in args.l2_grid]
        table_file, plot_file = run.folder / "grid.csv", run.folder / "grid.png"

        # Put an earlier grid aside. A continued grid has no table until all its runs are finished.
        if args.train_mode == "new":
            with ExitStack() as locks:  # all of them now: a continuation takes only its own runs
                earlier = [locks.enter_context(Run(own, evaluator.metrics)) for own in runs]
                for one in (run, *earlier):
                    one.set_aside()
        for file in (table_file, plot_file):
            file.unlink(missing_ok=True)

        run.write_flags(args)
        try:
            summaries, chosen = fit_all(model_class, device, data, runs)
        except KeyboardInterrupt as interrupt:
            how = str(interrupt) or f"interrupted; go on with: {command_to_continue(args)}"
            raise KeyboardInterrupt(how) from None

        table = table_of_runs(runs, summaries, run.metrics)
        write_csv(table_file, table)
        plot(plot_file, run.name, table, evaluator.monitor)
        log_end(table, chosen, evaluator, args)
        log.info("grid         %s, %s", table_file, plot_file)


def flags_of_run(args, strength):
    """Flags of the grid's run with one strength.

    args: flags of the grid
    strength: value of --l2

    If the grid is continued, a run without a checkpoint of its own starts anew. Raises UserError if
    its checkpoint was trained with other flags: all runs of a grid need the same.
    """
    run_name = f"{args.run_name}-l2={strength:g}"
    args = args.replace(origin="l2_grid", l2=strength, l2_grid=None, run_name=run_name)
    if args.train_mode == "new":
        return args

    last_file = Path(args.checkpoint_dir) / run_name / "last.pt"
    try:
        state = load_checkpoint(last_file)
        with explain_mismatch(last_file):
            changed = {flag: values for flag, *values in changed_flags(state, args)}
    except UserError:  # absent or damaged
        return args.replace(train_mode="new")
    # A checkpoint with another l2 is of another run, which was set aside under this name: for
    # example, an earlier run of g-l2=0 is renamed to g-l2=0.1, the name of the run with l2 0.1.
    if "l2" in changed:
        return args.replace(train_mode="new")
    if changed:
        flag, (before, now) = next(iter(changed.items()))
        raise UserError(
            f"{last_file} was trained with --{flag} {before}, not {now}, and all runs of a grid "
            "need the same flags; give the flags of that grid, another --run_name, or "
            "--train_mode new"
        )
    if state["epoch"] > args.epochs:
        raise UserError(
            f"{last_file} is of epoch {state['epoch']}, beyond --epochs {args.epochs}, and no run "
            "of a grid may be longer than the others; give more --epochs, another --run_name, or "
            "--train_mode new"
        )
    return args


def fit_all(model_class, device, data, runs):
    """Train the runs one after the other. Returns (their summaries, index of the chosen run).

    model_class, device, data: what each run's model is made of
    runs: flags of each run

    A summary is the content of summary.json, or None for a run that diverged. The chosen run has
    the best metric on the validation split; ties go to the earlier run. Raises UserError if all
    runs diverged.
    """
    # What was logged while the data were loaded goes into the log.txt of every run.
    early = [(handler, handler.records) for handler in EarlyLog.active()]
    summaries, chosen = [], None
    for number, args in enumerate(runs):
        for handler, records in early:
            handler.keep(records)
        log.info("%d of %d strengths of l2: %s", number + 1, len(runs), args.run_name)
        model = model_class(data, args, device)
        try:
            fit(model, data, args)
        except Diverged as error:
            log.warning("warning: %s cannot be chosen: %s", args.run_name, str(error))
            summaries.append(None)
        else:
            summary_file = Path(args.log_root) / args.run_name / SUMMARY
            summaries.append(json.loads(summary_file.read_text()))
            valid = summaries[number]["best"]["valid"]
            if chosen is None or model.evaluator.better(valid, summaries[chosen]["best"]["valid"]):
                chosen = number

        # Free the memory for the next model. A model and its training step refer to each other, so
        # only the garbage collector frees them. PyTorch keeps a limited number of compiled steps.
        del model
        torch.compiler.reset()
        gc.collect()
    if chosen is None:
        raise UserError(
            f"the loss stays finite with no strength of --l2_grid; lower --lr ({runs[0].lr:g})"
        )
    return summaries, chosen


def table_of_runs(runs, summaries, metrics):
    """grid.csv: a row per run, with the metrics of its best epoch and its seconds.

    runs: flags of each run
    summaries: summary.json of each run, or None; then its row has only l2 and run_name
    metrics: names; a column valid_<metric> is of the validation split, <metric> of the test split
    """
    rows = []
    for args, summary in zip(runs, summaries, strict=True):
        row = {"l2": args.l2, "run_name": args.run_name}
        if summary:
            best, seconds = summary["best"], summary["seconds"]
            row["epoch"] = best["epoch"]
            row |= {f"valid_{name}": best["valid"][name] for name in metrics}
            row |= {name: best[name] for name in metrics}
            row |= {"train_seconds": seconds["train"], "total_seconds": seconds["total"]}
        rows.append(row)
    return pd.DataFrame(rows).astype({"epoch": "Int64"})


def plot(path, name, table, metric):
    """Draw grid.png: a metric on the validation and on the test split against the strength.

    path: file to write
    name: title
    table: from table_of_runs
    metric: name of the metric that chose the run
    """
    columns = {"valid_mean": table[f"valid_{metric}"], "test_mean": table[metric]}
    rows = table[["l2"]].assign(**columns, valid_std=0.0, test_std=0.0).dropna()
    lines = [(split, rows, split) for split in ("valid", "test")]
    save_figure(path, name, [Lines("l2", lines, metric)])


def log_end(table, chosen, evaluator, args):
    """Log a row per strength, then a line on the chosen one.

    table: from table_of_runs
    chosen: index of the chosen row
    evaluator: class of the evaluator, with the metrics to show
    args: flags; uses log_root
    """
    # A row per strength.
    names = {"l2": "l2", "epoch": "epoch"}
    names[f"valid_{evaluator.monitor}"] = f"{evaluator.monitor}, valid"
    names |= {name: f"{name}, test" for name in evaluator.headline}
    names["train_seconds"] = "train seconds"
    shown = table[list(names)].rename(columns=names)
    shown["l2"] = [f"{strength:g}" for strength in table["l2"]]
    shown["epoch"] = table["epoch"].astype("string").fillna("")
    shown[""] = ["chosen" if number == chosen else "" for number in range(len(table))]
    text = shown.to_string(index=False, float_format="%.4f", na_rep="")
    title = "Metrics at the best epochs; the validation split chose the epochs and the strength"
    log.info("\n%s:\n\n%s\n", title, Multiline(text))

    # The chosen strength, and what the whole grid took.
    best, seconds = table.iloc[chosen], table[["train_seconds", "total_seconds"]].sum()
    numbers = "  ".join(f"{name} {best[name]:.4f}" for name in evaluator.headline)
    trainings = f"{table['epoch'].count()} finished trainings took {seconds['train_seconds']:.1f} s"
    whole = f"{seconds['total_seconds']:.1f} s with evaluation and files"
    folder = Path(args.log_root) / best["run_name"]
    log.info("chosen: --l2 %g, test %s; %s, %s; %s", best["l2"], numbers, trainings, whole, folder)
