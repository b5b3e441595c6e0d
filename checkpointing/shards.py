"""Write and read a checkpoint whose users are divided among processes.

Such a checkpoint is the file that one process would write, without the tables of users. Beside it
lies one file per rank, users.<epoch>.<rank>-of-<ranks>.pt, with the tables of the rank's users. The
common file is written last: if it exists, the files of all ranks do.
torch.distributed.checkpoint would keep its index as a pickle, which can run code when it is read.
"""

import re

import torch

from checkpointing.files import load_checkpoint, save_checkpoint
from cli.errors import UserError
from distributed import agreement, collectives
from sources.share import Share

USER = "user"  # key in a checkpoint of everything that has a row per user


def save(state, share, *paths):
    """Write a checkpoint. All ranks must call it; in one process it is just save_checkpoint.

    state: the state after an epoch of this rank, see resume.checkpoint_state
    share: the sources.share.Share of this rank; data whose users are not divided: the first rank
        writes all
    paths: files for the common state, which the first rank writes; the ranks' files lie beside the
        first of them
    """
    if isinstance(share, Share):
        state = save_users(state, share, paths[0])
    if collectives.world_size() > 1:
        state = {**state, "model": whole_model(state["model"])}
    if collectives.rank() == 0:
        for path in paths:
            save_checkpoint(path, state)


def save_users(state, share, path):
    """Write the tables of this rank's users beside `path`. Returns the state without them."""
    users, common = split_users(state["model"])
    shard = {
        "belongs_to": table_fingerprints(state, common),
        "first": share.first,
        "own": users,
        "generator": state["model"]["generator"],
    }
    rank, ranks = collectives.rank(), collectives.world_size()
    with agreement.raise_on_all_ranks():
        save_checkpoint(shard_file(path, state["epoch"], rank, ranks), shard)
    check_arrived(path, state["epoch"])
    firsts = collectives.all_gather_ints(share.first)
    return {**state, "model": common, "shards": firsts, "users": share.users}


def table_fingerprints(state, common):
    """Return what a rank's file must have in common with its checkpoint: epoch, tables of weights.

    state: of a checkpoint
    common: its model without the tables of users
    """
    tables = {name: agreement.fingerprint(table) for name, table in common["encoder"].items()}
    return {"epoch": state["epoch"], **tables}


def check_arrived(path, epoch):
    """Check on the first rank that the files of all ranks are beside `path`.

    All ranks must call it. Raises RaisedByAllRanks if a file is missing: then the ranks write to
    different folders.
    """
    ranks = collectives.world_size()
    with agreement.raise_on_all_ranks():
        for rank in range(ranks if collectives.rank() == 0 else 0):
            if not (file := shard_file(path, epoch, rank, ranks)).exists():
                raise UserError(
                    f"{file}, of rank {rank}, is not here: "
                    "all need the same folder as --checkpoint_dir"
                )


def whole_model(model):
    """A model's state as one process would have it, on the first rank. All ranks must call it.

    The first rank collects what is divided besides users: pieces of the optimizer's tables.
    """
    if collectives.world_size() == 1:
        return model
    return {**model, "optimizer": gather_pieces(model["optimizer"])}


def gather_pieces(optimizer):
    """Make an optimizer's state whole on the first rank; other ranks get None in place of tables.

    optimizer: state of a ShardedOptimizer, with this rank's pieces of tables
    """
    whole = {
        name: {
            key: collectives.gather_to_first(value) if value.dim() else value
            for key, value in moments.items()
        }
        for name, moments in optimizer[collectives.PIECES].items()
    }
    return {key: value for key, value in optimizer.items() if key != collectives.PIECES} | whole


def shard_file(path, epoch, rank, ranks):
    """Return the file of a rank beside the checkpoint `path`."""
    return path.with_name(f"users.{epoch}.{rank}-of-{ranks}.pt")


def drop_stale(folder, epochs):
    """Remove the ranks' files of all epochs but `epochs`."""
    for file in folder.glob("users.*.pt"):
        match = re.fullmatch(r"users\.(\d+)\.\d+-of-\d+\.pt", file.name)
        if match and int(match[1]) not in epochs:
            file.unlink()


def load(path, data=None):
    """Load a checkpoint in the form that one process would write.

    path: the checkpoint
    data: a Share to load only its users; other data, or None: all that there is

    The state of the random number generator is that of this rank. If the number of ranks differs
    from the one that wrote it, the generator's state is an empty tensor.

    Raises UserError if a file is missing, damaged or of another checkpoint.
    """
    state = load_checkpoint(path)
    firsts = state.pop("shards", [0])
    n_shards = len(firsts)
    if n_shards == 1 and not isinstance(data, Share):
        return state

    # Find where the users of each shard end. One process wrote its users into the same file.
    if n_shards > 1:
        ends = [*firsts[1:], state.pop("users")]
        common = state["model"]
    else:
        users, common = split_users(state["model"])
        ends = [data.users]

    # Find the users that are wanted.
    first, last = 0, ends[-1]
    if isinstance(data, Share):
        first, last = data.first, data.first + data.shape[0]

    # Load the shards that have some of them.
    pieces, generator, expected = [], torch.empty(0), table_fingerprints(state, common)
    for rank, (begin, end) in enumerate(zip(firsts, ends, strict=True)):
        if begin < last and first < end:
            if n_shards > 1:
                file = shard_file(path, state["epoch"], rank, n_shards)
                shard = load_shard(file, path, {"belongs_to": expected, "first": begin})
                users, generator = shard["own"], shard["generator"]
            pieces.append(slice_users(users, max(first - begin, 0), last - begin))
    if not pieces:
        raise UserError(
            f"{path} has no users from number {first} on: it is of other data; "
            "start with --train_mode new"
        )

    # Put the users' tables together, and into the model.
    state["model"] = merge_users(common, concatenate_users(pieces))
    if n_shards != collectives.world_size():
        generator = torch.empty(0)
    state["model"]["generator"] = generator
    return state


def load_shard(file, path, header):
    """Load one rank's file of the checkpoint `path`.

    header: entries that the file must have

    Raises UserError if the file is missing or its header differs.
    """
    if not file.exists():
        raise UserError(
            f"{file}, a part of {path}, is absent; put it back, or start with --train_mode new"
        )
    shard = load_checkpoint(file)
    if any(shard.get(name) != value for name, value in header.items()):
        raise UserError(
            f"{file} does not belong to {path}; put back the one that does, "
            "or start with --train_mode new"
        )
    return shard


def split_users(state):
    """Split a nested dictionary into (the tables of users, everything else)."""
    users, common = {}, {}
    for key, value in state.items():
        if key == USER:
            users[key] = value
        elif isinstance(value, dict):
            inner_users, common[key] = split_users(value)
            if inner_users:
                users[key] = inner_users
        else:
            common[key] = value
    return users, common


def merge_users(common, users):
    """Merge the two nested dictionaries that `split_users` returned."""
    merged = dict(common)
    for key, value in users.items():
        merged[key] = merge_users(common[key], value) if key in common else value
    return merged


def slice_users(users, first, last):
    """Take the rows from `first` to before `last` of all tables in a nested dictionary."""
    if isinstance(users, dict):
        return {key: slice_users(value, first, last) for key, value in users.items()}
    return users[first:last] if users.dim() else users


def concatenate_users(pieces):
    """Concatenate the rows of tables in nested dictionaries of the same form."""
    if isinstance(pieces[0], dict):
        return {key: concatenate_users([piece[key] for piece in pieces]) for key in pieces[0]}
    return torch.cat(pieces) if pieces[0].dim() else pieces[0]
