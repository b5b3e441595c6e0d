"""What is divided among ranks: the users of a data set, and of a checkpoint.

A checkpoint of several ranks is the file that one process would write, less what belongs to users; that is in a file
per rank beside it, users.<epoch>.<rank>-of-<ranks>.pt. The first one is written last: where it is, all of them are.
torch.distributed.checkpoint would keep its table of contents as a pickle, which can run code when it is read.
"""

import argparse
import re
from dataclasses import dataclass

import numpy as np
import torch

import ranks
from dataloader import Interactions
from errors import OfAll, UserError
from utils import load_checkpoint, save_checkpoint

# Of the flags, those that a rank may have its own values of: where things are there.
PLACES = {"device", "threads", "data_dir", "log_root", "checkpoint_dir", "no_download", "timeout", "origin"}


@dataclass(frozen=True)
class Share(Interactions):
    """The part of a data set that a rank holds: users from `first` on, with all of their interactions; all items."""

    first: int = 0
    users: int = 0  # of the whole data set
    whole_counts: dict = None
    whole_description: str = ""

    def counts(self):
        return self.whole_counts

    def describe(self):
        return f"{self.whole_description}; users divided among {ranks.count()} ranks"


def own_share(data):
    """This rank's Share of Interactions; all of them where there is one process.

    Raises UserError where a rank would have nothing to train.
    """
    if ranks.count() == 1:
        return data
    first, last = own_span(cuts(data.name, data.train.indptr))
    parts = {part: getattr(data, part)[first:last] for part in ("train", "valid", "test")}
    return Share(
        data.name,
        data.user_ids[first:last],
        data.item_ids,
        **parts,
        digest=data.digest,
        first=first,
        users=data.shape[0],
        whole_counts=data.counts(),
        whole_description=data.describe(),
    )


def cuts(name, indptr):
    """The first user of each rank, and the number of users: like numbers of interactions lie between.

    name: of the data set; indptr (U + 1,): the training interactions before each user. Raises UserError where a rank
    would have none.
    """
    ends = bounds(indptr, ranks.count())
    if not all(np.diff(indptr[ends]) > 0):
        raise OfAll(f"data set {name} has fewer users to train on than the {ranks.count()} ranks; start fewer of them")
    return ends


def own_span(ends):
    """(first, after the last) of this rank's users, from `cuts`."""
    return ends[ranks.rank() : ranks.rank() + 2]


def common_flags(args):
    """The flags that all ranks must have alike, by how they are spelled."""
    return {f"--{flag}": value for flag, value in vars(args).items() if flag not in PLACES}


def own_flags(args):
    """The flags as this rank's model shall see them: --batch_size is its part of the batch.

    Raises UserError where a rank would have none of it.
    """
    if args.batch_size < ranks.count():
        raise OfAll(f"--batch_size {args.batch_size} is too small for {ranks.count()} ranks, one each at least")
    return argparse.Namespace(**vars(args) | {"batch_size": ranks.part_of(args.batch_size)})


def bounds(indptr, parts):
    """Where to cut users (U,) so that the parts have like numbers of interactions: (parts + 1) numbers of users.

    No part is without interactions, where so many users have any. indptr (U + 1,): the interactions before each user.
    """
    wanted = indptr[-1] * np.arange(1, parts) / parts
    after = np.searchsorted(indptr, np.ceil(wanted).astype(indptr.dtype))  # of another type indptr would be copied
    ends = [0, *np.where(wanted - indptr[after - 1] < indptr[after] - wanted, after - 1, after), len(indptr) - 1]
    for number in range(1, parts):  # something before each cut
        least = np.searchsorted(indptr, indptr[ends[number - 1]], side="right")
        ends[number] = min(max(ends[number], least), len(indptr) - 1)
    for number in range(parts - 1, 0, -1):  # and behind it
        ends[number] = min(ends[number], np.searchsorted(indptr, indptr[ends[number + 1]]) - 1)
    return [int(end) for end in ends]


def save(state, share, *paths):
    """Write the checkpoint of all ranks: each its users', the first one what they have in common to `paths`, and last.

    state: what save_checkpoint takes; share: this rank's data. In one process it is save_checkpoint.
    """
    if ranks.count() > 1:
        own, common = divided(state["model"])
        about = {"belongs_to": marks(state, common), "first": share.first}
        own = {**about, "own": own, "generator": state["model"]["generator"]}
        with ranks.together():
            save_checkpoint(shard_file(paths[0], state["epoch"], ranks.rank(), ranks.count()), own)
        check_arrived(paths[0], state["epoch"])
        common["optimizer"] = put_together(common["optimizer"])
        firsts = ranks.all_of(share.first)
        state = {**state, "model": common, "shards": firsts, "users": share.users}
    if ranks.rank() == 0:
        for path in paths:
            save_checkpoint(path, state)


def marks(state, common):
    """What the checkpoint of a rank must have in common with the file that it belongs to: epoch, tables of weights.

    common: of the state's model, what is not divided.
    """
    tables = {name: ranks.fingerprint(table) for name, table in common["encoder"].items()}
    return {"epoch": state["epoch"], **tables}


def check_arrived(path, epoch):
    """Raise OfAll where the first rank does not find what the others wrote beside `path`."""
    with ranks.together():
        for number in range(ranks.count() if ranks.rank() == 0 else 0):
            if not (file := shard_file(path, epoch, number, ranks.count())).exists():
                raise UserError(f"{file}, of rank {number}, is not here: all need the same folder as --checkpoint_dir")


def put_together(optimizer):
    """An optimizer's state with the ranks' pieces of tables made whole, on the first rank."""
    whole = {
        name: {key: ranks.collected(value) if value.dim() else value for key, value in moments.items()}
        for name, moments in optimizer[ranks.PIECES].items()
    }
    return {key: value for key, value in optimizer.items() if key != ranks.PIECES} | whole


def shard_file(path, epoch, rank, count):
    """The file of a rank beside the checkpoint `path`."""
    return path.with_name(f"users.{epoch}.{rank}-of-{count}.pt")


def drop_stale(folder, epochs):
    """Remove the ranks' files of other epochs."""
    for file in folder.glob("users.*.pt"):
        found = re.fullmatch(r"users\.(\d+)\.\d+-of-\d+\.pt", file.name)
        if found and int(found[1]) not in epochs:
            file.unlink()


def load(path, data=None):
    """The state in the checkpoint `path`, as one process would have written it; for a Share, with its users alone.

    data: what the model is of; None for all users. The random numbers are those of this rank, or begin anew where the
    checkpoint is of another number of ranks. Raises UserError where a file is absent, damaged or of another checkpoint.
    """
    state = load_checkpoint(path)
    if "model" not in state:
        raise UserError(f"{path} holds the users of a rank alone; put the file of that name back")
    firsts = state.pop("shards", [0])
    if len(firsts) == ranks.count() == 1:
        return state
    if len(firsts) > 1:
        ends = [*firsts[1:], state.pop("users")]
        common = state["model"]
    else:
        own, common = divided(state["model"])
        ends = [data.users]
    first, last = (data.first, data.first + data.shape[0]) if isinstance(data, Share) else (0, ends[-1])
    pieces, generator, expected = [], torch.empty(0), marks(state, common)
    for number, span in enumerate(zip(firsts, ends, strict=True)):
        if span[0] < last and first < span[1]:
            if len(firsts) > 1:
                file = shard_file(path, state["epoch"], number, len(firsts))
                shard = load_shard(file, path, {"belongs_to": expected, "first": span[0]})
                own, generator = shard["own"], shard["generator"]
            pieces.append(cut(own, max(first - span[0], 0), last - span[0]))
    if not pieces:
        raise UserError(f"{path} has no users from number {first} on: it is of other data; start with --train_mode new")
    state["model"] = merged(common, concatenated(pieces))
    if len(firsts) != ranks.count():
        generator = torch.empty(0)
    state["model"]["generator"] = generator
    return state


def load_shard(file, path, about):
    """What a rank wrote to `file` beside the checkpoint `path`. Raises UserError where it is absent, or not `about`."""
    if not file.exists():
        raise UserError(f"{file}, a part of {path}, is absent; put it back, or start with --train_mode new")
    shard = load_checkpoint(file)
    if any(shard.get(name) != value for name, value in about.items()):
        raise UserError(f"{file} does not belong to {path}; put back the one that does, or start with --train_mode new")
    return shard


def divided(state):
    """What belongs to users in nested dictionaries, and all other: two of them."""
    own, common = {}, {}
    for key, value in state.items():
        if key == ranks.OWN:
            own[key] = value
        elif isinstance(value, dict):
            users, common[key] = divided(value)
            if users:
                own[key] = users
        else:
            common[key] = value
    return own, common


def merged(common, own):
    """Nested dictionaries as they were before they were `divided`."""
    both = dict(common)
    for key, value in own.items():
        both[key] = merged(common[key], value) if key in common else value
    return both


def cut(own, first, last):
    """The users from `first` to before `last` of what belongs to users: a row each of every table."""
    if isinstance(own, dict):
        return {key: cut(value, first, last) for key, value in own.items()}
    return own[first:last] if own.dim() else own


def concatenated(pieces):
    """What belongs to the users of all pieces together."""
    if isinstance(pieces[0], dict):
        return {key: concatenated([piece[key] for piece in pieces]) for key in pieces[0]}
    return torch.cat(pieces) if pieces[0].dim() else pieces[0]
