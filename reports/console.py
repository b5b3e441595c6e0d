"""The lines that a run prints and logs."""

import logging
import shlex
import sys
import textwrap

import pandas as pd
import torch

from cli import launch

log = logging.getLogger("onebp")


def chosen_by(args):
    """What chose the epoch that is reported."""
    return f"valid, then refit for {args.refit_epochs} epochs" if args.refit_epochs else args.select


def command_line():
    """The command as it was typed, but for torchrun's own flags."""
    count, here = launch.world_size(), launch.local_world_size()
    where = f"--standalone --nproc_per_node={count}" if count == here else "..."
    program = (
        "python" if count == 1 else f"torchrun {where} --"
    )  # or --log and --mode would be short for its own
    return f"{program} {shlex.join(sys.argv)}"


def command_to_continue():
    """That command, but to go on."""
    return command_line().removesuffix(" --train_mode continue") + " --train_mode continue"


def how_to_continue(epoch, saved_epoch, args):
    """The line that Ctrl-C after `epoch` ends with; saved_epoch: the one in last.pt, 0 where there is none."""
    again = command_to_continue()
    if saved_epoch:
        return f"interrupted after epoch {epoch}; go on from epoch {saved_epoch} with: {again}"
    part = (
        "the refit"
        if args.refit_epochs
        else args.run_name
        if args.origin["l2"] == "l2_grid"
        else None
    )
    if part:  # of what the command does; what is before it is not to be done again
        return f"interrupted before the first checkpoint of {part}; start that again with: {again}"
    return f"interrupted before the first checkpoint; start again with: {command_line()}"


def log_start(model, data, args, epoch, changes):
    """What is trained on what, which flag came from where; for a continuation the epoch done and the changed flags."""
    log.info("%s", data.describe())
    ignored = args.ignored()
    shown = [flag for flag in args.origin if vars(args)[flag] is not None and flag not in ignored]
    for origin in dict.fromkeys(args.origin[flag] for flag in shown):
        flags = " ".join(
            f"{flag}={vars(args)[flag]}" for flag in shown if args.origin[flag] == origin
        )
        log.info(
            "%s", textwrap.fill(f"flags, {origin}: {flags}", width=100, subsequent_indent="    ")
        )
    log.info(
        "%s on %s, %d of %d threads",
        args.model,
        model.device,
        args.threads,
        torch.get_num_threads(),
    )
    if epoch:
        log.info("continuing after epoch %d", epoch)
    for flag, before, now in changes:
        log.warning("warning: --%s was %s up to epoch %d, now it is %s", flag, before, epoch, now)


def log_epoch(epoch, loss, metrics, seconds, improved, model, args):
    """The line of an evaluated epoch."""
    numbers = "  ".join(f"{name} {metrics[name]:.4f}" for name in model.evaluator.headline)
    end = args.last_epoch
    place = f"epoch {epoch:{len(str(end))}}/{end}"
    log.info(
        "%s  loss %.4f  %s %s  %.2f s%s",
        place,
        loss,
        args.select,
        numbers,
        seconds,
        "  best" * improved,
    )


def log_end(run, checkpoints, args, result, left):
    """The closing table, a row per metric, and where things lie. left: what the model's `leave` returned."""
    best, last = result["best"], result["last"]
    columns = {
        f"{args.model} best (epoch {best['epoch']})": best,
        f"{args.model} last (epoch {last['epoch']})": last,
        **result["baselines"],
    }
    table = pd.DataFrame(columns).loc[run.metrics].astype(float).to_string(float_format="%.4f")
    how = f"the best epoch was chosen on the {args.select} part"
    if args.refit_epochs:
        how = f"refit for {args.refit_epochs} epochs, which the validation part chose"
    log.info("Metrics on the test part; %s:\n\n%s\n", how, table)
    log.info("checkpoints  %s (best), %s", checkpoints.best_file, checkpoints.last_file)
    log.info("metrics      %s, %s", run.metrics_file, run.summary_file)
    log.info("plot         %s", run.plot_file)
    for name, files in left.items():
        log.info("%-12s %s", name, ", ".join(map(str, files)))
