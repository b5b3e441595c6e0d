"""What the files of a checkpoint must hold: checked once, when one is read.

A file may come from elsewhere. What is checked here needs no model: which entries there are, of
which types, and whether their numbers agree. Whether they fit a model is seen when it takes them
over (resume.explain_mismatch), and what flags may say is in parse.Flags.trained.
"""

import torch

from cli.checks import numbers, require, table

WIDEST = 2**31 - 1  # of whole numbers
DTYPES = {torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool}
# Entries of a model that are no weights: they may be infinite, or nan.
NO_WEIGHTS = ("optimizer", "regularizer")
DEEPEST = 10  # containers in containers


def check(name, state):
    """Raise ValueError, with the place and what is wrong there, if a file cannot hold this.

    name: of the file; it says which kind of file it is
    state: its content, a dict
    """
    plain(state, "")
    kind = name.split(".")[0]
    if kind in FILES:
        entries, whole_file = FILES[kind]
        for key, convert in entries.items():
            if key.endswith("?") and key[:-1] not in state:  # old files lack some entries
                continue
            convert(entry(state, key.removesuffix("?")), key.removesuffix("?"))
        whole_file(state)


def entry(state, key):
    """An entry of a dict. Raises ValueError if there is none."""
    if key not in state:
        raise ValueError(f"it has no entry {key}")
    return state[key]


def plain(value, place, depth=0):
    """A tensor, a number, a text, None, or a list or a dict of such."""
    require(depth <= DEEPEST, place, "entry of a checkpoint: it is too deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            require(isinstance(key, str), f"a key of {place or 'the file'}", "text")
            plain(inner, f"{place}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            plain(inner, place, depth + 1)
    elif isinstance(value, torch.Tensor):
        tensor(value, place)
    else:
        kinds = (str, int, float, type(None))  # bool is an int
        require(isinstance(value, kinds), place, "number, text or tensor")


def tensor(value, place):
    """A dense tensor in memory, all of whose numbers are in the file."""
    require(isinstance(value, torch.Tensor), place, "tensor")
    dense = type(value) is torch.Tensor and value.layout is torch.strided
    dense = dense and value.device.type == "cpu" and value.dtype in DTYPES
    require(dense and not value.requires_grad, place, "dense tensor")
    size = value.numel() * value.element_size()
    require(value.untyped_storage().nbytes() >= size, place, "whole tensor: numbers are missing")


def whole(value, place):
    """A whole number from 0."""
    require(type(value) is int and 0 <= value <= WIDEST, place, "whole number from 0")


def tables(value, place):
    """A dict of dicts."""
    table(value, place)
    for key, inner in value.items():
        table(inner, f"{place}.{key}")


def of_stream(value, place):
    """What a stream is of: the flags of the stream, among others."""
    table(value, place)
    flags(entry(value, "stream"), f"{place}.stream")


def tensors(value, place):
    """{name: tensor}."""
    table(value, place)
    for key, inner in value.items():
        require(isinstance(inner, torch.Tensor), f"{place}.{key}", "tensor")


def flags(value, place):
    """{flag: a number, a text, None, or a list of such}."""
    table(value, place)
    for key, inner in value.items():
        for item in inner if isinstance(inner, list) else [inner]:
            single = not isinstance(item, (dict, list, tuple, torch.Tensor))
            require(single, f"{place}.{key}", "value of a flag")


def model(value, place):
    """State of a model; its weights are finite."""
    table(value, place)
    require(isinstance(value.get("compiled", False), bool), f"{place}.compiled", "true or false")
    for key, inner in value.items():
        if key not in NO_WEIGHTS:
            finite(inner, f"{place}.{key}")


def finite(value, place):
    """Finite numbers, in containers of any form."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        finite(inner, f"{place}.{key}")
    for inner in value if isinstance(value, (list, tuple)) else ():
        finite(inner, place)
    if isinstance(value, float):
        require(torch.tensor(value).isfinite(), place, "finite number")
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
        extremes = torch.stack(torch.aminmax(value))
        require(extremes.isfinite().all(), place, "table of finite numbers")


def rows(value, place):
    """See train.Progress.rows."""
    dense = isinstance(value, torch.Tensor) and value.dtype == torch.float64
    require(dense and (value.dim() == 2 or not len(value)), place, "table of epochs")


def firsts(value, place):
    """The number of the first user of each rank: from 0, ascending."""
    require(isinstance(value, list) and len(value) > 1 and value[0] == 0, place, "list from 0 on")
    for number in value:
        whole(number, place)
    require(value == sorted(value), place, "ascending list")


def run(state):
    """Whether the entries of last.pt or best.pt agree."""
    require(state["best_epoch"] <= state["epoch"], "best_epoch", f"epoch up to {state['epoch']}")
    require(state["best"].keys() == state["last"].keys(), "best", "table of the metrics in last")
    require(bool(state["best"]) == (state["best_epoch"] > 0), "best", "result of best_epoch")
    require(("shards" in state) == ("users" in state), "shards", "list for the number of users")
    if "users" in state:
        require(state["shards"][-1] <= state["users"], "shards", "list for the number of users")
    if len(found := state.get("rows", ())):
        same = found.shape[1] == 3 + len(state["last"])
        require(same, "rows", "table of epoch, loss, lr and the metrics")
        epochs = found[:, 0]
        ascending = (epochs.diff() > 0).all() and epochs[0] > 0 and epochs[-1] <= state["epoch"]
        require(ascending, "rows", f"table of epochs up to {state['epoch']}")


def text(value, place):
    """A text."""
    require(isinstance(value, str), place, "text")


def pairs(value, place):
    """The arrays indptr and indices of a csr_array."""
    both = isinstance(value, (list, tuple)) and len(value) == 2
    require(both and all(isinstance(x, torch.Tensor) for x in value), place, "pair of arrays")


def update(value, place):
    """What an updated run learns, see data_file.save_data; None for another run."""
    table(value, place)
    text(entry(value, "parent"), f"{place}.parent")
    require(isinstance(entry(value, "new"), torch.Tensor), f"{place}.new", "tensor")
    flags(entry(value, "flags"), f"{place}.flags")


def anything(state):
    """Nothing more to check."""


RUN = {
    "epoch": whole,
    "best_epoch": whole,
    "since_best": whole,
    "best": numbers,
    "last": numbers,
    "rows?": rows,
    "identity": flags,
    "flags": flags,
    "chosen_flags?": flags,
    "model": model,
    "shards?": firsts,
    "users?": whole,
}
USERS = {"belongs_to": flags, "first": whole, "own": model, "generator": tensor}
STREAM = {
    "identity": of_stream,
    "done": whole,
    "settings": tables,
    "chances": tensors,
    "learners": tables,
}
DATA = {
    "name": text,
    "digest": text,
    "protocol": flags,
    "user_ids": tensor,
    "item_ids": tensor,
    **dict.fromkeys(("train", "valid", "test"), pairs),
    "update?": update,
}
# {first word of the file's name: what it must hold, and whether that agrees}
FILES = {
    "last": (RUN, run),
    "best": (RUN, run),
    "users": (USERS, anything),
    "stream": (STREAM, anything),
    "data": (DATA, anything),
    "update": (DATA, anything),
}
