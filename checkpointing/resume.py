"""What a checkpoint holds, whether it fits a run, and how a run takes it over."""

from contextlib import contextmanager

from checkpointing import shards
from cli.errors import UserError, message_of
from distributed import agreement


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

    Raises UserError if the checkpoint is absent, damaged, or of another model or data set.
    """
    path = checkpoints.last_file
    with agreement.raise_on_all_ranks():
        state = shards.load(path, model.data)
        with explain_mismatch(path):
            check_identity(path, state, model, args)
            check_evaluation(path, state, args)
    agreement.check_equal_on_ranks({f"{path} of epoch": state["epoch"]})
    with explain_mismatch(path):
        for name in vars(progress):
            setattr(progress, name, state[name])
        if progress.done(args):
            model.load_weights(state["model"])
        else:
            model.start_training(state["model"])
    checkpoints.recover(progress.epoch, progress.best_epoch)
    checkpoints.saved_epoch = progress.epoch
    return changed_flags(state, args)


def changed_flags(state, args):
    """[(flag, value in the checkpoint, value now)] of the flags that decide training and differ."""
    before, now = state["flags"], args.training_flags()
    both = [flag for flag in now if flag in before]
    return [(flag, before[flag], now[flag]) for flag in both if before[flag] != now[flag]]


@contextmanager
def explain_mismatch(path):
    """Turn errors of a block that takes over the checkpoint `path` into a UserError."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError) as error:
        if message_of(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} does not fit this model ({reason}); start with --train_mode new"
        ) from None


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
