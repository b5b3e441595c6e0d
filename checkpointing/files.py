"""One checkpoint file: written whole or not at all, equal bytes for equal states.

Files are read with weights_only=True, so code in a file cannot run.
"""

import sys
import zipfile
from pathlib import Path

import torch

from checkpointing import schema
from cli.errors import UserError, message_of
from cli.signals import defer_interrupts
from engine.memory import free_memory, in_words
from utils import atomic_file

CHECKPOINT_FORMAT = 1


def save_checkpoint(path, state, advice="free disk space or set --checkpoint_dir"):
    """Write `state`, a dict of tensors and plain types. Raises UserError if the disk refuses.

    advice: what to do then
    """
    try:
        with defer_interrupts(), atomic_file(path) as file:
            torch.save(_canonical({"format": CHECKPOINT_FORMAT, **state}), file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path} ({_reason(error)}); {advice}") from error


def _reason(error):
    """Why writing failed. Of a full disk torch makes a RuntimeError, whose context says it."""
    first = error
    while first and not getattr(first, "strerror", None):
        first = first.__context__
    return first.strerror if first else str(error).splitlines()[0]


def _canonical(value):
    """The same value with new containers, and one object for equal texts.

    pickle writes down which objects are the same, so this makes equal states equal bytes.
    """
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return sys.intern(value) if isinstance(value, str) else value


def load_checkpoint(path, advice="start with --train_mode new"):
    """Read what `save_checkpoint` wrote, to the CPU. Code in the file cannot run.

    advice: what to do about a damaged file

    Raises UserError if the file is absent, cut off, no checkpoint, of another format, or if it
    lacks what its kind of file holds, see schema.py; and if it is larger than the free memory.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no checkpoint at {path}; check --run_name and --checkpoint_dir, or train it first "
            "(--train_mode new)"
        )
    size, (free, words) = path.stat().st_size, free_memory(torch.device("cpu"))
    if size > free:
        raise UserError(f"{path} needs {in_words(size)}, and {words}; take another machine")
    try:
        # torch.load does not check the checksums
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.pop("format", None) != CHECKPOINT_FORMAT:
            raise ValueError("it is of another program")
        schema.check(path.name, state)
    # Damage can cause any error: of zip, pickle, unicode, values, keys.
    except Exception as error:
        if message_of(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(f"{path} is damaged or no checkpoint ({reason}); {advice}") from None
    return state
