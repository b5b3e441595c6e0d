"""--mode evaluate, recommend and export: use the model that a checkpoint holds."""

import logging
from pathlib import Path

import pandas as pd

from checkpointing import shards
from checkpointing.resume import check_identity, explain_mismatch
from cli.errors import UserError
from cli.text import Multiline
from inference.export import export
from inference.recommend import recommend
from regularizers.strengths import strengths_by_row
from reports import names
from reports.console import log_chosen_flags
from reports.run import write_summary
from reports.users import describe_groups, write_users

log = logging.getLogger("onebp")


def adopt_trained_flags(args):
    """Take the flags that the checkpoint was trained with. Returns (args, checkpoint's state).

    args: flags of the command line; --run_name and --checkpoint name the checkpoint

    Raises UserError if the checkpoint is absent or damaged, or if a flag of the command line
    differs from it. Flags that decide only how a model is evaluated may differ.
    """
    path = checkpoint_file(args)
    state = shards.load(path)
    with explain_mismatch(path):
        # Values that training chose count instead of `auto`. The oldest checkpoints have none.
        trained = args.trained(state["flags"] | state.get("chosen_flags", {}))
        check_consistent(trained, state["identity"])
        evaluating = args.deciding("evaluation")

        # Refuse flags of the command line that differ.
        for flag, value in trained.items():
            if args.given(flag) and flag not in evaluating and getattr(args, flag) != value:
                how = f"without --{flag}" if value is None else f"with --{flag} {value}"
                raise UserError(
                    f"{path} was trained {how}; leave --{flag} {getattr(args, flag)} out"
                )

        # Adopt all others. An old checkpoint may lack some flags: these keep their default.
        adopted = {flag: value for flag, value in trained.items() if not args.given(flag)}
        refit_epochs = adopted.pop("refit_epochs", None)
        args = args.replace(refit_epochs=refit_epochs, **adopted)
    for flag in evaluating:
        if args.given(flag) and flag in args.ignored():
            does_nothing = f"with which --{flag} does nothing; leave it out"
            raise UserError(f"{path} is of --model {args.model}, {does_nothing}")
    return args, state


def check_consistent(trained, identity):
    """Raise ValueError if a checkpoint names one model in its flags, and another as its identity.

    Before a model is built by the flags: the identity is compared with it afterwards.
    """
    for name in trained.keys() & identity.keys():
        if trained[name] != identity[name]:
            raise ValueError(f"its flags have {name} {trained[name]}, it is of {identity[name]}")


def checkpoint_file(args):
    """Path of the checkpoint that --run_name and --checkpoint name."""
    name = args.run_name or args.default_run_name
    return Path(args.checkpoint_dir) / name / f"{args.checkpoint}.pt"


def take_trained_weights(model, args, state):
    """Give a model its trained weights.

    model: built with `args`; its weights are replaced
    args, state: from adopt_trained_flags

    Raises UserError if the model has no such mode, or if the checkpoint does not fit model or data.
    """
    path = checkpoint_file(args)
    if args.mode != "evaluate" and "output" in args.ignored():
        raise UserError(f"{path} is of --model {args.model}, which has only --mode evaluate")
    if args.blend and "blend" in args.ignored():
        raise UserError(f"{path} is of --model {args.model}, with which --blend does nothing")
    if args.blend and args.mode == "evaluate" and not args.has("ranking"):
        what = "a blend of ratings has another scale, and so no error"
        raise UserError(f"{path} is of --model {args.model}: {what}; use it with --mode recommend")
    with explain_mismatch(path):
        check_identity(path, state, model, args)
        model.load_weights(state["model"])
    log.info("%s: %s after epoch %d", path, args.model, state["epoch"])


def flags_of_blend(args):
    """The flags that name the run --blend: all others are those of its checkpoint."""
    given = {flag: value for flag, value in vars(args).items() if args.given(flag)}
    return args.replace(origin="--blend", **given | {"run_name": args.blend})


def run_mode(model, data, args, state):
    """Do what --mode says.

    model: with its trained weights
    data: the data set of the checkpoint
    args, state: from adopt_trained_flags
    """
    if args.mode == "export":
        with explain_mismatch(checkpoint_file(args)):
            strengths = strengths_by_row(state["model"], data.shape)
        export(model, data, args, strengths)
    elif args.mode == "evaluate":
        evaluate(model, data, args, state["epoch"])
    else:
        recommend(model, data, args)


def evaluate(model, data, args, epoch=0):
    """Log a table of the metrics on the test split and, if there is one, the validation split.

    Of rankings also write users.parquet, groups.png and summary.json, see `evaluation_folder`.

    epoch: of the checkpoint; 0: there is none, but a file --recommendations
    """
    folder = evaluation_folder(args)
    # On the validation split first: there a flag may be `auto`.
    metrics = {split: model.evaluate(split) for split in reversed(model.evaluators)}
    table = pd.DataFrame(metrics)[[*model.evaluators]]
    log.info("%s", data.describe())
    for name, value in model.protocol.items():
        log.info("%s: %s", name, value)
    log.info("\n%s", Multiline(table.to_string(float_format="%.4f")))
    log_chosen_flags(model.chosen_flags())
    model.final_evaluation(checkpoint_file(args), None)

    if found := model.evaluators["test"].found:
        users, groups = found.tables(data, model.evaluator.headline)
        files = write_users(folder, users, groups)
        best = {"epoch": epoch, **metrics["test"]}
        best |= {"valid": metrics["valid"]} if "valid" in metrics else {}
        result = {"best": best, "chosen_flags": model.chosen_flags()}
        write_summary(folder / names.SUMMARY, model, data, args, result)
        log.info("\n%s\n", Multiline(describe_groups(groups)))
        log.info("users        %s", ", ".join(map(str, [*files, folder / names.SUMMARY])))


def evaluation_folder(args):
    """Folder of what --mode evaluate leaves: beside the run, <run_name>[+<blend>]-evaluate.

    Of lists it is a run of their own: <run_name>. Raises UserError if that is a trained one.
    """
    if args.recommendations:
        folder = Path(args.log_root) / args.run_name
        if (folder / names.METRICS).exists():
            raise UserError(f"{folder} is a trained run: give the lists another --run_name")
        return folder
    blend = f"+{args.blend}" if args.blend else ""
    return Path(args.log_root) / f"{args.run_name}{blend}-evaluate"
