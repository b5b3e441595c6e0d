"""What is divided among ranks: the users of a data set, and of a checkpoint.

A checkpoint of several ranks is the file that one process would write, less what belongs to users; that is in a file
per rank beside it, users.<epoch>.<rank>-of-<ranks>.pt. The first one is written last: where it is, all of them are.
torch.distributed.checkpoint would keep its table of contents as a pickle, which can run code when it is read.
"""

import re

import torch

from checkpointing.files import load_checkpoint, save_checkpoint
from cli.errors import UserError
from distributed import agreement, collectives
from sources.share import Share

# In a checkpoint, the key of what has a row per user.
USER = "user"


def save(state, share, *paths):
    """Write the checkpoint of all ranks: each its users', the first one what they have in common to `paths`, and last.

    state: what save_checkpoint takes; share: this rank's data. In one process it is save_checkpoint.
    """
    if collectives.world_size() > 1:
        own, common = split_users(state["model"])
        about = {"belongs_to": table_fingerprints(state, common), "first": share.first}
        own = {**about, "own": own, "generator": state["model"]["generator"]}
        with agreement.raise_on_all_ranks():
            save_checkpoint(
                shard_file(paths[0], state["epoch"], collectives.rank(), collectives.world_size()),
                own,
            )
        check_arrived(paths[0], state["epoch"])
        common["optimizer"] = gather_pieces(common["optimizer"])
        firsts = collectives.all_gather_ints(share.first)
        state = {**state, "model": common, "shards": firsts, "users": share.users}
    if collectives.rank() == 0:
        for path in paths:
            save_checkpoint(path, state)


def table_fingerprints(state, common):
    """What the checkpoint of a rank must have in common with the file that it belongs to: epoch, tables of weights.

    common: of the state's model, what is not divided.
    """
    tables = {name: agreement.fingerprint(table) for name, table in common["encoder"].items()}
    return {"epoch": state["epoch"], **tables}


def check_arrived(path, epoch):
    """Raise OfAll where the first rank does not find what the others wrote beside `path`."""
    with agreement.raise_on_all_ranks():
        for number in range(collectives.world_size() if collectives.rank() == 0 else 0):
            if not (file := shard_file(path, epoch, number, collectives.world_size())).exists():
                raise UserError(
                    f"{file}, of rank {number}, is not here: all need the same folder as --checkpoint_dir"
                )


def gather_pieces(optimizer):
    """An optimizer's state with the ranks' pieces of tables made whole, on the first rank."""
    whole = {
        name: {
            key: collectives.gather_to_first(value) if value.dim() else value
            for key, value in moments.items()
        }
        for name, moments in optimizer[collectives.PIECES].items()
    }
    return {key: value for key, value in optimizer.items() if key != collectives.PIECES} | whole


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
    if len(firsts) == collectives.world_size() == 1:
        return state
    if len(firsts) > 1:
        ends = [*firsts[1:], state.pop("users")]
        common = state["model"]
    else:
        own, common = split_users(state["model"])
        ends = [data.users]
    first, last = (
        (data.first, data.first + data.shape[0]) if isinstance(data, Share) else (0, ends[-1])
    )
    pieces, generator, expected = [], torch.empty(0), table_fingerprints(state, common)
    for number, span in enumerate(zip(firsts, ends, strict=True)):
        if span[0] < last and first < span[1]:
            if len(firsts) > 1:
                file = shard_file(path, state["epoch"], number, len(firsts))
                shard = load_shard(file, path, {"belongs_to": expected, "first": span[0]})
                own, generator = shard["own"], shard["generator"]
            pieces.append(slice_users(own, max(first - span[0], 0), last - span[0]))
    if not pieces:
        raise UserError(
            f"{path} has no users from number {first} on: it is of other data; start with --train_mode new"
        )
    state["model"] = merge_users(common, concatenate_users(pieces))
    if len(firsts) != collectives.world_size():
        generator = torch.empty(0)
    state["model"]["generator"] = generator
    return state


def load_shard(file, path, about):
    """What a rank wrote to `file` beside the checkpoint `path`. Raises UserError where it is absent, or not `about`."""
    if not file.exists():
        raise UserError(
            f"{file}, a part of {path}, is absent; put it back, or start with --train_mode new"
        )
    shard = load_checkpoint(file)
    if any(shard.get(name) != value for name, value in about.items()):
        raise UserError(
            f"{file} does not belong to {path}; put back the one that does, or start with --train_mode new"
        )
    return shard


def split_users(state):
    """What belongs to users in nested dictionaries, and all other: two of them."""
    own, common = {}, {}
    for key, value in state.items():
        if key == USER:
            own[key] = value
        elif isinstance(value, dict):
            users, common[key] = split_users(value)
            if users:
                own[key] = users
        else:
            common[key] = value
    return own, common


def merge_users(common, own):
    """Nested dictionaries as they were before they were `divided`."""
    both = dict(common)
    for key, value in own.items():
        both[key] = merge_users(common[key], value) if key in common else value
    return both


def slice_users(own, first, last):
    """The users from `first` to before `last` of what belongs to users: a row each of every table."""
    if isinstance(own, dict):
        return {key: slice_users(value, first, last) for key, value in own.items()}
    return own[first:last] if own.dim() else own


def concatenate_users(pieces):
    """What belongs to the users of all pieces together."""
    if isinstance(pieces[0], dict):
        return {key: concatenate_users([piece[key] for piece in pieces]) for key in pieces[0]}
    return torch.cat(pieces) if pieces[0].dim() else pieces[0]
