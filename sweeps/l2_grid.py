"""A training for each strength of --l2, of which the validation part chooses one: MF-Fix, the baseline of lambdaOpt.

Source: Chen et al., KDD 2019, arXiv 1905.11596.
"""

import gc
import json
import logging
from pathlib import Path

import pandas as pd
import torch

from checkpointing.files import load_checkpoint
from checkpointing.resume import changed_flags
from cli.errors import Diverged, UserError
from reports.console import command_to_continue
from reports.figures import Lines, save_figure
from reports.run import Run
from train import fit
from utils import EarlyLog, write_csv

log = logging.getLogger("onebp")


def fit_grid(model_class, device, data, args):
    """Fit a model for each strength of --l2_grid, as a run of its own; log and write what they found.

    A strength with which the loss does not stay finite cannot be chosen. Raises UserError where that is so with all, or
    where a run to continue had other flags; KeyboardInterrupt, with a line on how to continue, on Ctrl-C.
    """
    evaluator = model_class.evaluator_class(args)
    with Run(args, evaluator.metrics) as run:
        members = [member(args, strength) for strength in args.l2_grid]
        table_file, plot_file = (run.folder / f"grid.{kind}" for kind in ("csv", "png"))
        if args.train_mode == "new":
            run.set_aside()
        for file in (table_file, plot_file):  # they are not about the runs to come
            file.unlink(missing_ok=True)
        try:
            summaries, chosen = fit_all(model_class, device, data, members)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                str(interrupt) or f"interrupted; go on with: {command_to_continue()}"
            ) from None
        table = results(members, summaries, run.metrics)
        write_csv(table_file, table)
        plot(plot_file, run.name, table, evaluator.monitor)
        log_end(table, chosen, evaluator, args)
        log.info("grid         %s, %s", table_file, plot_file)


def member(args, strength):
    """The flags of the run with this strength. A continuation starts it anew where it has no checkpoint yet.

    Raises UserError where its checkpoint was trained with other flags, which are not to be mixed in one grid.
    """
    own = {"l2": strength, "l2_grid": None, "run_name": f"{args.run_name}-l2={strength:g}"}
    args = args.replace(origin="l2_grid", **own)
    if args.train_mode == "continue":
        last_file = Path(args.checkpoint_dir) / args.run_name / "last.pt"
        try:
            state = load_checkpoint(last_file)
            changed = {flag: values for flag, *values in changed_flags(state, args)}
        except UserError:  # absent or damaged
            changed = None
        # With another l2 it is an earlier run, set aside: what is g-l2=0.1 may have been g-l2=0.
        if changed is None or "l2" in changed:
            args = args.replace(train_mode="new")
        elif changed:
            flag, (before, now) = next(iter(changed.items()))
            raise UserError(
                f"{last_file} was trained with --{flag} {before}, and with {now} would not be of one grid with the "
                "others; give that grid's flags, another --run_name, or --train_mode new"
            )
        elif state["epoch"] > args.epochs:
            raise UserError(
                f"{last_file} is of epoch {state['epoch']}, beyond --epochs {args.epochs}, and would not be of one "
                "grid with shorter ones; give more --epochs, another --run_name, or --train_mode new"
            )
    return args


def fit_all(model_class, device, data, members):
    """Fit a model for each member's flags. Returns (their summaries, None for one that diverged; index of the chosen).

    Of equals the first is chosen. Raises UserError where all diverged.
    """
    early = [(handler, handler.records) for handler in EarlyLog.active()]
    summaries, chosen = [], None
    for number, args in enumerate(members):
        for handler, loading in early:  # with these records the log.txt of each run begins
            handler.keep(loading)
        log.info("%d of %d strengths of l2: %s", number + 1, len(members), args.run_name)
        model = model_class(data, args, device)
        try:
            fit(model, data, args)
        except Diverged as error:
            log.warning("warning: %s cannot be chosen: %s", args.run_name, str(error))
            summaries.append(None)
        else:
            summaries.append(
                json.loads((Path(args.log_root) / args.run_name / "summary.json").read_text())
            )
            valid = summaries[number]["best"]["valid"]
            if chosen is None or model.better(valid, summaries[chosen]["best"]["valid"]):
                chosen = number
        del model  # room for the next one; it and its training step refer to each other
        torch.compiler.reset()  # PyTorch keeps eight compiled steps, and refuses a ninth
        gc.collect()
    if chosen is None:
        raise UserError(
            f"the loss stays finite with no strength of --l2_grid; lower --lr ({members[0].lr:g})"
        )
    return summaries, chosen


def results(members, summaries, metrics):
    """grid.csv: a row per member; metrics of the best epoch on the validation part, valid_<metric>, and on test."""
    rows = []
    for args, summary in zip(members, summaries, strict=True):
        rows.append({"l2": args.l2, "run_name": args.run_name})
        if summary:
            best, seconds = summary["best"], summary["seconds"]
            rows[-1] |= {
                "epoch": best["epoch"],
                **{f"valid_{name}": best["valid"][name] for name in metrics},
            }
            rows[-1] |= {name: best[name] for name in metrics}
            rows[-1] |= {"train_seconds": seconds["train"], "total_seconds": seconds["total"]}
    return pd.DataFrame(rows).astype({"epoch": "Int64"})


def plot(path, name, table, metric):
    """grid.png: the metric that chose, on the validation and on the test part, by strength, 0 beside the smallest."""
    columns = {"valid_mean": table[f"valid_{metric}"], "test_mean": table[metric]}
    rows = table[["l2"]].assign(**columns, valid_std=0.0, test_std=0.0).dropna()
    save_figure(
        path, name, [Lines("l2", [(part, rows, part) for part in ("valid", "test")], metric)]
    )


def log_end(table, chosen, evaluator, args):
    """The closing table, a row per strength, and the line about the chosen one."""
    columns = {
        "l2": "l2",
        "epoch": "epoch",
        f"valid_{evaluator.monitor}": f"{evaluator.monitor}, valid",
    }
    columns |= {name: f"{name}, test" for name in evaluator.headline} | {
        "train_seconds": "train seconds"
    }
    shown = table[list(columns)].rename(columns=columns)
    shown["l2"] = [f"{strength:g}" for strength in table["l2"]]
    shown["epoch"] = table["epoch"].astype("string").fillna("")
    shown[""] = ["chosen" if number == chosen else "" for number in range(len(table))]
    text = shown.to_string(index=False, float_format="%.4f", na_rep="")
    log.info(
        "\nAt the best epochs, which the validation part chose, as it chose the strength:\n\n%s\n",
        text,
    )
    best, seconds = table.iloc[chosen], table[["train_seconds", "total_seconds"]].sum()
    numbers = "  ".join(f"{name} {best[name]:.4f}" for name in evaluator.headline)
    trainings = f"{table['epoch'].count()} finished trainings took {seconds['train_seconds']:.1f} s"
    whole = f"{seconds['total_seconds']:.1f} s with evaluation and files"
    folder = Path(args.log_root) / best["run_name"]
    log.info("chosen: --l2 %g, test %s; %s, %s; %s", best["l2"], numbers, trainings, whole, folder)
