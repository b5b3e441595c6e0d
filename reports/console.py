"""The lines that a run prints and logs."""

import logging
import shlex
import sys
import textwrap

import pandas as pd
import torch

from cli import launch
from cli.text import Multiline
from reports.users import describe_groups

log = logging.getLogger("onebp")


def chosen_by(args):
    """What chose the epoch that is reported, for summary.json."""
    return f"valid, then refit for {args.refit_epochs} epochs" if args.refit_epochs else args.select


def command_line(words=None):
    """The command as it was typed, without torchrun's own flags; or one of other words."""
    count, here = launch.world_size(), launch.local_world_size()
    program = "python"
    if count > 1:
        where = f"--standalone --nproc_per_node={count}" if count == here else "..."
        program = f"torchrun {where} --"  # else torchrun would take --log and --mode for its own
    return f"{program} {shlex.join(sys.argv if words is None else words)}"


def command_to_continue(args):
    """The command that continues this run."""
    words = sys.argv
    if {"update", "--train_mode=update"} & set(words):  # of a run that has another name
        words = [*without(words, ("train_mode", "update_from", "run_name"))]
        words += ["--run_name", args.run_name]
    return command_line(words).removesuffix(" --train_mode continue") + " --train_mode continue"


def without(words, flags):
    """Words of a command line without some flags and their values."""
    kept, taken = [], True
    for word in words:
        if word.startswith("--"):
            taken = word[2:].split("=")[0] not in flags
        kept += [word] if taken else []
    return kept


def how_to_continue(epoch, saved_epoch, args):
    """The line for Ctrl-C after `epoch`: how to resume. saved_epoch: epoch in last.pt, or 0."""
    again = command_to_continue(args)
    if saved_epoch or args.train_mode == "continue":
        return f"interrupted after epoch {epoch}; go on from epoch {saved_epoch} with: {again}"
    # A refit, or a member of a grid, is a later part of its command: the earlier ones are saved.
    later = "the refit" if args.refit_epochs else None
    later = args.run_name if args.origin["l2"] == "l2_grid" else later
    if later:
        return f"interrupted before the first checkpoint of {later}; start that again with: {again}"
    return f"interrupted before the first checkpoint; start again with: {command_line()}"


def log_start(model, data, args, epoch, changes):
    """Log the data, the flags by origin, and the device; for a continuation what changed.

    epoch: epochs done; changes: see checkpointing.resume.changed_flags
    """
    log.info("%s", data.describe())
    ignored, values = args.ignored(), vars(args)
    shown = [flag for flag in args.origin if values[flag] is not None and flag not in ignored]
    for origin in dict.fromkeys(args.origin[flag] for flag in shown):
        flags = [f"{flag}={values[flag]}" for flag in shown if args.origin[flag] == origin]
        text = f"flags, {origin}: {' '.join(flags)}"
        log.info("%s", Multiline(textwrap.fill(text, width=100, subsequent_indent="    ")))
    threads = f"{args.threads} of {torch.get_num_threads()} threads"
    log.info("%s on %s, %s", args.model, model.device, threads)
    if epoch:
        log.info("continuing after epoch %d", epoch)
    for flag, before, now in changes:
        log.warning("warning: --%s was %s up to epoch %d, now it is %s", flag, before, epoch, now)


def log_epoch(epoch, loss, metrics, seconds, improved, model, args):
    """Log the line of an evaluated epoch."""
    numbers = "  ".join(f"{name} {metrics[name]:.4f}" for name in model.evaluator.headline)
    end = args.last_epoch
    text = f"epoch {epoch:{len(str(end))}}/{end}  loss {loss:.4f}  {args.select} {numbers}"
    log.info("%s  %.2f s%s", text, seconds, "  best" * improved)


def log_end(run, checkpoints, args, result, outputs, groups):
    """Log the closing table, a row per metric, those of groups, and where the files are.

    result: from train.final_metrics; outputs: {topic: paths} of further files
    groups: see reports.users.write_users
    """
    best, last = result["best"], result["last"]
    columns = {
        f"{args.model} best (epoch {best['epoch']})": best,
        f"{args.model} last (epoch {last['epoch']})": last,
        **result["baselines"],
    }
    table = pd.DataFrame(columns).loc[run.metrics].astype(float).to_string(float_format="%.4f")
    how = f"the best epoch was chosen on the {args.select} split"
    if args.refit_epochs:
        how = f"refit for {args.refit_epochs} epochs, which the validation split chose"
    log.info("Metrics on the test split; %s:\n\n%s\n", how, Multiline(table))
    if groups:
        log.info("%s\n", Multiline(describe_groups(groups)))
    log_chosen_flags(result["chosen_flags"])
    log.info("checkpoints  %s (best), %s", checkpoints.best_file, checkpoints.last_file)
    log.info("metrics      %s, %s", run.metrics_file, run.summary_file)
    log.info("plot         %s", run.plot_file)
    for topic, files in outputs.items():
        log.info("%-12s %s", topic, ", ".join(map(str, files)))


def log_chosen_flags(chosen):
    """Log the values, {flag: value}, that were chosen for flags `auto`, if there are any."""
    if chosen:
        values = " ".join(f"{flag}={value}" for flag, value in chosen.items())
        log.info("flags, chosen on the validation split: %s", values)
