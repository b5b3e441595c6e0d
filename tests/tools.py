"""What several test files use: small data sets, models, and the program in other processes."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

from cli.errors import UserError
from distributed.group import process_group
from families import model_class
from main import train_model
from parse import parse_args
from sources.interactions import Interactions, entries, pair_matrix
from sources.splits import random_per_user
from utils import log_to_console

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds until a process is taken to hang: machines of tests are busy

pools = {}  # of processes that are ranks, by how many


def start(*words, **settings):
    """Start main.py in a new process; the current directory is the caller's."""
    command = [sys.executable, str(ROOT / "main.py"), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def finish(process):
    """Wait for `start`: (status, stdout, stderr)."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return process.returncode, stdout, stderr


def torchrun(*words, count=2, restarts=0, program=ROOT / "main.py", **settings):
    """Start main.py on `count` ranks, as the README does; the current directory is the caller's."""
    how = ["--standalone", f"--nproc_per_node={count}", f"--max_restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *how, str(program), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def on_ranks(function, *arguments, count=2):
    """[function(*arguments) on each of `count` ranks], in other processes; or a UserError."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    if count not in pools:
        pools[count] = multiprocessing.get_context("spawn").Pool(count)
    pool = pools[count]
    try:  # a process waits for the others, so each of them gets one call
        calls = [
            pool.apply_async(as_rank, (rank, count, port, function, arguments))
            for rank in range(count)
        ]
        return [call.get(PATIENCE) for call in calls]
    except BaseException:
        pools.pop(count).terminate()
        raise


def as_rank(rank, count, port, function, arguments):
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in {**places, "MASTER_PORT": port}.items()})
    os.environ["MASTER_ADDR"] = "localhost"
    torch.set_num_threads(1)
    torch.compiler.reset()
    with process_group(torch.device("cpu"), PATIENCE):
        try:
            return function(*arguments)
        except UserError as error:
            return error


def train_on_ranks(*words, count=2):
    """Train as main.py does on `count` ranks, in the current directory: the output of each.

    The processes are those of `on_ranks`, which have torch loaded; `torchrun` starts new ones.
    """
    return on_ranks(trained_in, Path.cwd(), list(map(str, words)), count=count)


def trained_in(folder, words):
    os.chdir(folder)
    logging.getLogger("onebp").handlers.clear()  # of an earlier call
    with contextlib.redirect_stdout(io.StringIO()) as output:
        log_to_console()
        train_model(parse_args(words), torch.device("cpu"))
    return output.getvalue()


def build(name, *flags, data=None, device="cpu"):
    """A model that is ready to be trained."""
    args = parse_args(["--model", name, *map(str, flags)])
    model = model_class(args)(data or toy_data(), args, torch.device(device))
    model.start_training()
    return model


def checkpoint(epoch=1, best_epoch=None, **entries):
    """A small state of a run as save_checkpoint takes it; by default its last epoch is its best."""
    best_epoch = epoch if best_epoch is None else best_epoch
    result = {"metric": 1.0} if best_epoch else {}
    state = {"epoch": epoch, "best_epoch": best_epoch, "since_best": 0}
    state |= {"best": result, "last": result, "identity": {}, "flags": {}, "model": {}}
    return state | entries


def matrix(pairs, shape):
    """csr_array of ones at the (user, item) pairs."""
    users, items = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2).T
    return csr_array((np.ones(len(users), np.int8), (users, items)), shape)


def random_matrix(users=200, items=50, seed=1):
    random = np.random.default_rng(seed)
    return matrix(
        set(zip(random.integers(users, size=3000), random.integers(items, size=3000), strict=True)),
        (users, items),
    )


def split_per_user(whole, ratio, random):
    """(rest, held out) of a csr_array: a share of each user's entries, chosen at random."""
    held_out = random_per_user(whole.indptr, ratio, random)
    return entries(whole, ~held_out), entries(whole, held_out)


def interactions(train, test, shape, valid=(), tune=None):
    """Interactions from pairs of indices; the ids are the indices."""
    ids = [[str(index) for index in range(size)] for size in shape]
    parts = (matrix(part, shape) for part in (train, valid, test))
    return Interactions(
        "made", *ids, *parts, digest="made", tune=None if tune is None else matrix(tune, shape)
    )


def ratings(train, test, shape):
    """Interactions from {pair of indices: rating}; the ids are the indices."""
    ids = [[str(index) for index in range(size)] for size in shape]
    parts = []
    for values in (train, {}, test):
        pairs = np.array(sorted(values), dtype=np.int32).reshape(-1, 2).T
        numbers = np.array([values[pair] for pair in sorted(values)], dtype=np.float32)
        parts.append(pair_matrix(*pairs, numbers, shape))
    return Interactions("made", *ids, *parts, digest="made")


def toy_data(groups=4, size=8):
    """Users of a group have all of its items but one each, which is tested.

    The perfect list starts with it.
    """
    train, test = set(), set()
    for group in range(groups):
        for user in range(size):
            for item in range(size):
                pair = (group * size + user, group * size + item)
                (test if user == item else train).add(pair)
    return interactions(train, test, (groups * size, groups * size))


def made_data(users=50, items=200, count=1500):
    random = np.random.default_rng(1)
    pairs = sorted(
        {tuple(pair) for pair in random.integers((users, items), size=(count, 2)).tolist()}
    )
    train, test = matrix(pairs[::2], (users, items)), matrix(pairs[1::2], (users, items))
    ids = [[str(index) for index in range(size)] for size in (users, items)]
    return Interactions("made", *ids, train, matrix([], (users, items)), test, digest="made")


def save_arrays(folder, **arrays):
    """Write toy_data as a data set of arrays; `arrays` replaces some, by <split>_<array>."""
    data = toy_data()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").write_text(
        json.dumps(dict(zip(("users", "items"), data.shape, strict=True)))
    )
    for part in ("train", "test"):
        for name in ("indptr", "indices"):
            arrays.setdefault(f"{part}_{name}", getattr(getattr(data, part), name))
    for name, array in arrays.items():
        np.save(folder / f"{name.replace('_', '.')}.npy", array)
    return folder


def write(path, text):
    """Write a file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def loop_aggregation(p, users, q, beta, how):
    """moving_aggregation, one interaction after the other."""
    p = p.copy()
    if how == "sequential":
        for user, item in zip(users, q, strict=True):
            p[user] = beta * p[user] + (1 - beta) * item
        return p
    old = p.copy()
    for user in set(users):
        own = [item for other, item in zip(users, q, strict=True) if other == user]
        target = np.mean(own, axis=0) if how == "mean" else own[-1]
        p[user] = beta * old[user] + (1 - beta) * target
    return p
