"""--mode evaluate, recommend and export: a model in the state of its checkpoint."""

import logging
from pathlib import Path

import pandas as pd

from checkpointing import shards
from checkpointing.resume import check_identity, explain_mismatch
from cli.errors import UserError
from inference.export import export
from inference.recommend import recommend
from regularizers.strengths import strengths_by_row

log = logging.getLogger("onebp")


def adopt_trained_flags(args):
    """The flags that the checkpoint was trained with. Returns (args with them, its state).

    Raises UserError if the checkpoint is absent or damaged, or if a flag of the command line differs
    from it. --ranking may differ: it decides how a model is evaluated.
    """
    path = checkpoint_file(args)
    state = shards.load(path)
    with explain_mismatch(path):
        trained = {flag: value for flag, value in state["flags"].items() if hasattr(args, flag)}
        for flag, value in trained.items():
            if args.given(flag) and flag != "ranking" and getattr(args, flag) != value:
                how = f"without --{flag}" if value is None else f"with --{flag} {value}"
                raise UserError(
                    f"{path} was trained {how}; leave --{flag} {getattr(args, flag)} out"
                )
        adopted = {flag: value for flag, value in trained.items() if not args.given(flag)}
        refit_epochs = adopted.pop("refit_epochs", None)
        args = args.replace(refit_epochs=refit_epochs, **adopted)
    if args.given("ranking") and "ranking" in args.ignored():
        raise UserError(
            f"{path} is of --model {args.model}, with which --ranking does nothing; leave it out"
        )
    return args, state


def checkpoint_file(args):
    """The file that --run_name and --checkpoint name."""
    name = args.run_name or args.default_run_name
    return Path(args.checkpoint_dir) / name / f"{args.checkpoint}.pt"


def run_mode(model, data, args, state):
    """Do what --mode says with the model in the state of its checkpoint. Raises UserError where that does not fit."""
    path = checkpoint_file(args)
    if args.mode not in model.modes:
        known = " or ".join(model.modes)
        raise UserError(f"{path} is of --model {args.model}, which has only --mode {known}")
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
    model.final_evaluation(checkpoint_file(args), None)
