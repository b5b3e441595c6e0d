"""A checkpoint file: written whole or not at all, equal bytes for equal states, no code in it can run."""

import sys
import zipfile
from pathlib import Path

import torch

from cli.errors import UserError, defer_interrupts, message_of
from utils import atomic_file

CHECKPOINT_FORMAT = 1


def save_checkpoint(path, state):
    """Write `state` (a dict of tensors and plain types) atomically: equal states make equal bytes.

    Raises UserError when the disk refuses.
    """
    try:
        with defer_interrupts(), atomic_file(path) as file:
            torch.save(_canonical({"format": CHECKPOINT_FORMAT, **state}), file)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch reports a full disk as a RuntimeError of its archive writer
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path} ({reason}); free disk space or set --checkpoint_dir"
        ) from error


def _canonical(value):
    """The same value with fresh containers and one object per text: pickle writes down which objects are shared."""
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return sys.intern(value) if isinstance(value, str) else value


def load_checkpoint(path):
    """Read what `save_checkpoint` wrote, on the CPU. No code in the file can run.

    Raises UserError when the file is absent, cut off, not a checkpoint, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no checkpoint at {path}; check --run_name and --checkpoint_dir, or train it first (--train_mode new)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():  # torch.load does not look at the checksums
                raise ValueError(f"wrong checksum of {changed}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # whatever bytes can provoke: zip, pickle, unicode, value and key errors among them
        if message_of(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(
            f"{path} is damaged or no checkpoint ({reason}); start with --train_mode new"
        ) from None
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program; start with --train_mode new")
    return state
