"""--mode evaluate, recommend and export: a model in the state of its checkpoint."""

import logging
from pathlib import Path

import pandas as pd

from checkpointing import shards
from checkpointing.resume import check_identity, explain_mismatch
from cli.errors import UserError
from ignored import ignored_flags
from inference.export import export
from inference.recommend import recommend
from parse import default_run_name
from regularizers.strengths import strengths_by_row

log = logging.getLogger("onebp")


def adopt_trained_flags(args):
    """Load the checkpoint that the flags name and set the flags that it was trained with. Returns its state.

    Raises UserError where it is absent or damaged, or a flag of the command line is not the checkpoint's, but for
    --ranking, which says how to look at what was trained.
    """
    path = checkpoint_file(args)
    state = shards.load(path)
    with explain_mismatch(path):
        for flag, value in state["flags"].items():
            given = args.origin.get(flag) == "command line"
            if given and flag != "ranking" and getattr(args, flag) != value:
                how = f"without --{flag}" if value is None else f"with --{flag} {value}"
                raise UserError(
                    f"{path} was trained {how}; leave --{flag} {getattr(args, flag)} out"
                )
            if not given:
                setattr(args, flag, value)
    if args.origin["ranking"] == "command line" and "ranking" in ignored_flags(args):
        raise UserError(
            f"{path} is of --model {args.model}, with which --ranking does nothing; leave it out"
        )
    return state


def checkpoint_file(args):
    """The file that --run_name and --checkpoint name."""
    return (
        Path(args.checkpoint_dir)
        / (args.run_name or default_run_name(args))
        / f"{args.checkpoint}.pt"
    )


def run_mode(model, data, args, state):
    """Do what --mode says with the model in the state of its checkpoint. Raises UserError where that does not fit."""
    path = checkpoint_file(args)
    if model.clicks and args.mode != "evaluate":
        raise UserError(
            f"{path} is of --model {args.model}, of clicks, for which there is only --mode evaluate"
        )
    with explain_mismatch(path):
        check_identity(path, state, model, args)
        model.load_weights(state["model"])
    log.info("%s: %s after epoch %d", path, args.model, state["epoch"])
    if args.mode == "export":
        export(model, data, args, strengths_by_row(state["model"], data.shape))
    else:
        {"evaluate": evaluate, "recommend": recommend}[args.mode](model, data, args)


def evaluate(model, data, args):
    """Print the metrics of the checkpoint on every part that has any."""
    table = pd.DataFrame({part: model.evaluate(part) for part in model.evaluators})
    log.info("%s", data.describe())
    for name, value in model.protocol.items():
        log.info("%s: %s", name, value)
    log.info("\n%s", table.to_string(float_format="%.4f"))
    model.conclude(checkpoint_file(args), None)
