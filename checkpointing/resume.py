"""What a checkpoint holds, whether it fits a run, and how a run takes it over."""

from contextlib import contextmanager

from checkpointing import shards
from checkpointing.files import load_checkpoint
from cli.errors import UserError, message_of
from distributed import agreement

# What is raised by taking over a state that has other entries, types or shapes.
MISFITS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def checkpoint_state(model, progress, args, model_state=None):
    """The checkpoint after an epoch: plain types, and tensors that training goes on changing.

    Copy the tensors to keep them.

    progress: the train.Progress of the run
    model_state: in place of the model's own, before its training has begun
    """
    return {
        **vars(progress),
        "identity": identity(model, args),
        "flags": args.training_flags(),
        "chosen_flags": model.chosen_flags(),
        "model": model_state or model.state_dict(),
    }


def identity(model, args):
    """{name: value} that must be equal in a checkpoint and in a run that takes it over."""
    own = {"select": args.select, "seed": args.seed, "refit_epochs": args.refit_epochs}
    return own | model.identity


def restore(model, progress, checkpoints, args):
    """Bring model and progress to the state of last.pt. Returns what `changed_flags` returns.

    progress: the train.Progress of the run; every attribute is set

    Raises UserError if last.pt or best.pt is absent, damaged, or of another model or data set.
    """
    path = checkpoints.last_file
    with agreement.raise_on_all_ranks():
        state = shards.load(path, model.data)
        with explain_mismatch(path):
            state["flags"] = args.trained(state["flags"])
            check_identity(path, state, model, args)
            check_evaluation(path, state, args)
            check_metrics(state, model)
    agreement.check_equal_on_ranks({f"{path} of epoch": state["epoch"]})
    for name in vars(progress).keys() & state.keys():  # old checkpoints have no rows
        setattr(progress, name, state[name])
    checkpoints.recover(progress.epoch, progress.best_epoch)
    if progress.best_epoch:  # it is needed in the end, but now nothing is lost if it does not fit
        with agreement.raise_on_all_ranks():
            restore_best(model, checkpoints, args, progress.best_epoch)
    with explain_mismatch(path):
        if progress.done(args):
            model.load_weights(state["model"])
        else:
            model.start_training(state["model"])
    checkpoints.saved_epoch = progress.epoch
    return changed_flags(state, args)


def keep_suggested(args, path, flags):
    """The flags of a continuation: the checkpoint's values replace those that are only suggested.

    path: of the checkpoint; if it is absent, `restore` says so
    flags: names of those whose suggested value may have changed since, with the files of the data
    """
    flags = {flag for flag in flags if args.origin[flag].startswith("suggested")}
    if not flags or not path.is_file():
        return args
    with agreement.raise_on_all_ranks(), explain_mismatch(path):
        trained = args.trained(load_checkpoint(path)["flags"])
    kept = {flag: trained[flag] for flag in flags & trained.keys()}
    return args.replace(origin=f"of the run {path.parent.name}", **kept)


def restore_best(model, checkpoints, args, epoch):
    """Give a model the weights of best.pt. Raises UserError if it is of something else.

    epoch: the best one by last.pt
    """
    path = checkpoints.best_file
    state = shards.load(path, model.data)
    with explain_mismatch(path):
        check_identity(path, state, model, args)
        if state["epoch"] != epoch:
            what = f"epoch {epoch}, the best by {checkpoints.last_file}"
            raise UserError(f"{path} is not of {what}; put it back")
        model.load_weights(state["model"])


def check_metrics(state, model):
    """Raise ValueError if a checkpoint has the results of other metrics than those of the model."""
    if state["best"] and state["best"].keys() != {*model.evaluator.metrics}:
        raise ValueError("its results are of other metrics")


def changed_flags(state, args):
    """[(flag, value in the checkpoint, value now)] of the flags that decide training and differ.

    Raises ValueError for a value that no flag has.
    """
    before, now = args.trained(state["flags"]), args.training_flags()
    both = [flag for flag in now if flag in before]
    return [(flag, before[flag], now[flag]) for flag in both if before[flag] != now[flag]]


@contextmanager
def explain_mismatch(path, advice="start with --train_mode new"):
    """Turn errors of a block that takes over the checkpoint `path` into a UserError."""
    try:
        yield
    except MISFITS as error:
        if message_of(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit this model ({reason}); {advice}") from None


def check_identity(path, state, model, args):
    """Raise UserError if a checkpoint is of another model, data set, seed or protocol."""
    for name, value in identity(model, args).items():
        if (found := state["identity"].get(name)) != value:
            raise UserError(
                f"{path} has {name} {found!s:.12}, this command {value!s:.12}; "
                "give the flags and data of that run, another --run_name, or --train_mode new"
            )


def check_evaluation(path, state, args):
    """Raise UserError if the run of a checkpoint was evaluated otherwise."""
    for flag, value in args.deciding("evaluation").items():
        before = state["flags"].get(flag, args.default(flag))  # old checkpoints lack some flags
        if before != value:
            words = " ".join(map(str, before)) if isinstance(before, list) else before
            how = f"without --{flag}" if before is None else f"by --{flag} {words}"
            raise UserError(
                f"{path} chose its best epoch {how}; do so again, give another --run_name, "
                "or --train_mode new"
            )
