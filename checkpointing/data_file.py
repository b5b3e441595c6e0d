"""data.pt and update.pt of a run: the ids and interactions that it is trained on.

A checkpoint has a row per user and item, but not whose. --train_mode update needs that, and which
interactions are known; the files of the data set may have grown. An updated run has update.pt, and
reads its data from there alone. Shapes: U users, I items.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.resume import explain_mismatch
from engine.tables import check_places
from sources.interactions import SPLITS, Interactions, Update, entries

DATA, UPDATED = "data.pt", "update.pt"  # of a run, and of an updated one


def save_data(path, data, flags=None):
    """Write either file. Raises UserError if the disk refuses.

    data: Interactions of one process, without ratings
    flags: {flag: value} that a continuation of an updated run takes over
    """
    state = {"name": data.name, "digest": data.digest, "protocol": data.protocol}
    for kind in ("user_ids", "item_ids"):
        # One text: a list of texts takes seconds to read.
        text = bytearray(json.dumps(getattr(data, kind)).encode())
        state[kind] = torch.frombuffer(text, dtype=torch.uint8)
    with warnings.catch_warnings():  # arrays in mapped files: they are only read here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for split in SPLITS:
            matrix = getattr(data, split)
            state[split] = [torch.from_numpy(part) for part in (matrix.indptr, matrix.indices)]
    if data.update:
        keys = [
            np.ravel_multi_index(matrix.nonzero(), data.shape)
            for matrix in (data.train, data.update.new)
        ]
        is_new = torch.from_numpy(np.isin(*keys))  # of each training interaction
        state["update"] = {"parent": data.update.parent, "new": is_new, "flags": flags}
    save_checkpoint(path, state)


def load_data_file(path):
    """Read either file. Returns (Interactions, flags). Raises UserError if absent or damaged."""
    state = load_checkpoint(path)
    with explain_mismatch(path, "train anew"):
        return _data_of(state)


def _data_of(state):
    ids = [json.loads(state[kind].numpy().tobytes()) for kind in ("user_ids", "item_ids")]
    if not all(isinstance(one, str) for kind in ids for one in kind):
        raise ValueError("an id is no text")
    if Path(state["name"]).name != state["name"]:
        raise ValueError("the name of its data set is a path")
    shape = tuple(map(len, ids))
    splits = {}
    for split in SPLITS:
        indptr, indices = (part.numpy() for part in state[split])
        splits[split] = csr_array((np.ones(len(indices), np.int8), indices, indptr), shape=shape)
        check_places(splits[split])
    update, about = None, state.get("update")
    if about:
        update = Update(about["parent"], entries(splits["train"], about["new"].numpy()))
    names = {name: state[name] for name in ("name", "digest", "protocol")}
    ids = dict(zip(("user_ids", "item_ids"), ids, strict=True))
    return Interactions(**names, **ids, **splits, update=update), about and about["flags"]
