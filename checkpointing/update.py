"""--train_mode update: a new run that begins with the weights of another one, on a grown data set.

What the new run begins with is written as its checkpoint after epoch 0, with its data; from there
it is an ordinary continuation. So a kill at any moment loses nothing.
Shapes: U users, I items, D dim.
"""

import logging
import re
from pathlib import Path

import numpy as np
import torch

from checkpointing import shards
from checkpointing.data_file import DATA, UPDATED, load_data_file, save_data
from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.resume import checkpoint_state, explain_mismatch
from cli import launch
from cli.errors import UserError
from cli.shared_flags import FOR_UPDATE
from engine.tables import csr_tensor
from sources.columns import wanted_of
from sources.filters import Choice
from sources.growth import grown, places_of, with_interactions
from sources.readers import read_more
from utils import atomic_folder

log = logging.getLogger("onebp")

# Flags, beside those that say which data and which model, with which a checkpoint stands.
FIXED = ("encoder", "loss", "layers", "similarity", "optimizer", "regularizer")


def begin_update(args, device, progress, check, load_data, model_class):
    """Write the first checkpoint of an update. Returns the flags to continue it with.

    args: flags; run_name names the run to update
    progress: train.Progress of no epochs
    check: function(args) that raises UserError for flags that contradict each other
    load_data: function(args) -> Interactions
    model_class: function(args) -> class of the model

    Raises UserError if there is no such run, if a flag is not that of the run, or if the data set
    has nothing new, or has lost something.
    """
    folder, parent = Path(args.checkpoint_dir), args.run_name or args.default_run_name
    path = folder / parent / "best.pt"
    state = shards.load(path)
    with explain_mismatch(path):
        args = adopt_flags(args, state, path)
        check(args)
        before = data_of(folder / parent, state, args, load_data)
        now = before
        for file in args.update_from or ():
            now = with_interactions(now, read_more(file, wanted_of(args)), Choice.of(args))
        data = grown(before, now if args.update_from else load_data(args), parent)
        model = model_class(args)(data, args, device)
        model_state = grown_state(model, state["model"], before)
    name = free_name(parent, (folder, Path(args.log_root)))
    args = args.replace(run_name=name, train_mode="continue", dataset=data.name)
    first = checkpoint_state(model, progress, args, model_state)
    with atomic_folder(folder / name) as new:
        save_data(new / UPDATED, data, args.deciding("run"))
        save_checkpoint(new / "last.pt", first)
    log.info(
        "%s goes on from %s, epoch %d, with %d new interactions, %d users and %d items more",
        name,
        parent,
        state["epoch"],
        data.update.new.nnz,
        *(after - size for after, size in zip(data.shape, before.shape, strict=True)),
    )
    return args


def adopt_flags(args, state, path):
    """The flags of an update: those of the checkpoint, unless the command line gives others.

    Raises UserError if the command line gives another model, or other data.
    """
    trained, loading = args.trained(state["flags"]), args.loading_flags()
    for flag, value in trained.items():
        fixed = flag in loading or flag in FIXED or flag in state["identity"]
        if args.given(flag) and fixed and getattr(args, flag) != value:
            raise UserError(
                f"{path} has {flag} {value}, and an update keeps it; leave --{flag} "
                f"{getattr(args, flag)} out, or train anew"
            )
    return take_over(args, trained, path.parent.name)


def take_over(args, trained, run):
    """Take over flags of a run, but those of the command line, or of what an update suggests.

    trained: {flag: value} of its checkpoint
    run: its name
    """
    kept = {flag: value for flag, value in trained.items() if flag in vars(args)}
    own = {flag for flag in kept if args.given(flag) or args.origin[flag] == FOR_UPDATE}
    kept = {flag: value for flag, value in kept.items() if flag not in own}
    return args.replace(origin=f"of the run {run}", **kept)


def data_of(folder, state, args, load_data):
    """The Interactions that the run in `folder` was trained on.

    They are in its data.pt, or in the files of the data set, if these are as they were.

    state: of its checkpoint
    args: flags; with update_from the data set itself has not grown
    load_data: see begin_update

    Raises UserError if they are in neither.
    """
    digest = state["identity"]["digest"]
    files = [file for name in (UPDATED, DATA) if (file := folder / name).exists()]
    data = load_data_file(files[0])[0] if files else None
    if data is None and args.update_from:
        data = load_data(args)
    if data is None or data.digest != digest:
        raise UserError(
            f"{folder} does not say which users and items its checkpoint has: it has no {DATA} of "
            "its data (an old run, or one of several processes); train anew, or give what is new "
            "by --update_from, beside unchanged files"
        )
    return data


def continued_update(args):
    """(Interactions, flags) of an updated run that is continued or used; None for other runs.

    args: flags; run_name names the run. Raises UserError if its files are damaged.
    """
    name = args.run_name or args.default_run_name
    folder = Path(args.checkpoint_dir) / name
    if (args.train_mode == "new" and args.mode == "train") or not (folder / UPDATED).exists():
        return None
    if args.refit or args.l2_grid or launch.world_size() > 1:
        raise UserError(
            f"{name} is an update, which one process trains, once: leave torchrun, --refit and "
            "--l2_grid out"
        )
    data, run_flags = load_data_file(folder / UPDATED)
    if args.mode == "train":
        with explain_mismatch(path := folder / "last.pt"):
            flags = args.trained(load_checkpoint(path)["flags"])
        with explain_mismatch(folder / UPDATED):
            flags |= args.trained(run_flags, ("run",))
        args = take_over(args, flags, name)
    return data, args.replace(dataset=data.name, run_name=name)


def free_name(parent, folders):
    """<run>-update, or <run>-update2 and so on: the first for which no folder exists."""
    base, number = re.sub(r"-update\d*$", "", parent), 1
    while any((folder / (name := _numbered(base, number))).exists() for folder in folders):
        number += 1
    return name


def _numbered(base, number):
    return f"{base}-update{number if number > 1 else ''}"


def grown_state(model, state, before):
    """The state that `model`, which has more users and items, begins to train with.

    model: recommender.BatchTrained, built on the new data; its weights change
    state: of the model that was trained on `before` (Interactions)

    Rows of users and items that were in training keep their weights and moments. A new user's row
    is what model.rows_of_new_users makes of the user's interactions, a new item's is
    `rows_of_new_items`; their moments are 0.
    """
    data, encoder = model.data, model.encoder
    kinds = {
        "user": (before.user_ids, data.user_ids, np.diff(before.train.indptr)),
        "item": (before.item_ids, data.item_ids, np.bincount(before.train.indices)),
    }
    places, known = {}, {}
    for kind, (ids, others, counts) in kinds.items():
        source = np.flatnonzero(counts)  # those that were in training
        target = places_of([ids[index] for index in source], others)
        places[kind] = torch.as_tensor(target), torch.as_tensor(source)
        mask = torch.zeros(len(others), dtype=torch.bool)
        mask[places[kind][0]] = True
        known[kind] = mask.to(model.device)

    def placed(name, old, new):
        target, source = places[encoder.row_of[name]]
        new[target.to(new.device)] = old[source].to(new.device)
        return new

    # The known rows. The others are 0 until they are made.
    for name, old in state["encoder"].items():
        table = model.weights[name]
        if old.shape[1:] != table.shape[1:]:
            raise ValueError(f"the table {name} has another shape")
        placed(name, old, table.zero_())
    optimizer = {
        name: {
            key: placed(name, old, torch.zeros_like(model.weights[name])) if old.dim() else old
            for key, old in moments.items()
        }
        for name, moments in state["optimizer"].items()
    }

    # New users need items, and new items users: users begin with the items that are known.
    make_users(model, known)
    if not known["item"].all():
        model.weights["item"][~known["item"]] = rows_of_new_items(model, known["item"])
        make_users(model, known)
    return {
        "encoder": encoder.state_dict(),
        "optimizer": optimizer,
        "regularizer": {},
        "generator": model.generator.get_state(),
    }


def make_users(model, known):
    """Make the rows of users who were not in training, from their interactions with items.

    known: {"user", "item": mask (U,) or (I,)}: whose rows are made already
    """
    if "user" not in model.weights or known["user"].all():
        return
    table, new = model.weights["user"], (~known["user"]).nonzero()[:, 0]
    number = torch.cumsum(~known["user"], 0) - 1  # of each new user, (U,)
    rows, columns = (torch.as_tensor(part, device=table.device) for part in _pairs(model))
    usable = ~known["user"][rows] & (model.weights["item"][columns] != 0).any(1)
    history = number[rows[usable]], columns[usable].long()
    table[new] = model.rows_of_new_users(*history, len(new), known["user"])


def rows_of_new_items(model, known):
    """Rows (new items, D) of items that were not in training.

    known (I,): bool, those that were

    An item's encoding begins at q + s (m - p): m is the mean of the encodings of the users who took
    it, p the mean of all m and q the mean of all q of known items; s is the number with which this
    comes nearest to the known items' own encodings, by least squares. Items and users differ in
    length, and all users have something in common: s takes both into account. An item that
    nobody took begins at q.
    """
    users, items = model.encodings()  # (U, D), (I, D)
    train = model.data.train.T.tocsr()
    ones = torch.ones(train.nnz, device=items.device)
    taken = csr_tensor(train.indptr, train.indices, ones, train.shape, items.device)
    counts = taken.crow_indices().diff()[:, None]  # (I, 1)
    taken = (taken @ users) / counts.clamp(min=1)  # (I, D)
    used = known & (counts[:, 0] > 0)
    q, p = items[known].mean(0), taken[used].mean(0)
    own, others = items[used] - q, taken[used] - p
    scale = (own * others).sum() / others.square().sum().clamp(min=1e-30)
    made = q + scale * (taken - p) * (counts > 0)  # (I, D)
    # Where encodings have length 1, rows have their own.
    row_length, length = (x[known].norm(dim=1).mean() for x in (model.weights["item"], items))
    return made[~known] * (row_length / length)


def _pairs(model):
    """Users and items (n,) of the training interactions."""
    train = model.data.train
    return np.repeat(np.arange(train.shape[0]), np.diff(train.indptr)), train.indices
