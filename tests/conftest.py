"""Shared tools: small data sets, the program in this process or in a new one, the real data where it is at hand."""

import json
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from cli.errors import UserError
from distributed.group import process_group
from main import main
from sources.interactions import Interactions, pair_matrix

torch.set_num_threads(1)  # the sizes here are too small for more

pools = {}  # of processes that are ranks, by how many

ROOT = Path(__file__).parent.parent
REAL_DATA = Path(os.environ.get("ONEBP_TEST_DATA", ROOT.parent / "shared" / "datasets"))


@pytest.fixture(scope="session", autouse=True)
def pools_end():
    """End the processes of `on_ranks` with the tests."""
    yield
    for pool in pools.values():
        pool.terminate()


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def real_data():
    """The folder of the real data sets. They may not be redistributed, so they are not in the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data sets at {REAL_DATA} (ONEBP_TEST_DATA names another folder)")
    return REAL_DATA


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(work, capsys):
    """Run main.py's `main` here: returns (status, stdout, stderr)."""

    def run(*words):
        logging.getLogger(
            "onebp"
        ).handlers.clear()  # that of an earlier call holds a stdout that is gone
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit:  # argparse
            status = exit.code
        return status, *capsys.readouterr()

    return run


def start(*words, **settings):
    """Start main.py in a new process; the current directory is the caller's."""
    command = [sys.executable, str(ROOT / "main.py"), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def finish(process):
    """Wait for `start`: (status, stdout, stderr)."""
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def torchrun(*words, count=2, restarts=0, program=ROOT / "main.py", **settings):
    """Start main.py on `count` ranks, as the README does; the current directory is the caller's."""
    how = ["--standalone", f"--nproc_per_node={count}", f"--max_restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *how, str(program), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def on_ranks(function, *arguments, count=2):
    """[function(*arguments) on each of `count` ranks], in other processes; a UserError instead of a result."""
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
        return [call.get(60) for call in calls]
    except BaseException:
        pools.pop(count).terminate()
        raise


def as_rank(rank, count, port, function, arguments):
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in {**places, "MASTER_PORT": port}.items()})
    os.environ["MASTER_ADDR"] = "localhost"
    torch.set_num_threads(1)
    torch.compiler.reset()
    with process_group(torch.device("cpu"), 30):
        try:
            return function(*arguments)
        except UserError as error:
            return error


def matrix(pairs, shape):
    """csr_array of ones at the (user, item) pairs."""
    users, items = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2).T
    return csr_array((np.ones(len(users), np.int8), (users, items)), shape)


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
    """Users of a group have all of its items but one each; that one is tested. The perfect list starts with it."""
    train, test = set(), set()
    for group in range(groups):
        for user in range(size):
            for item in range(size):
                pair = (group * size + user, group * size + item)
                (test if user == item else train).add(pair)
    return interactions(train, test, (groups * size, groups * size))


def save_arrays(folder, **arrays):
    """Write toy_data as a data set of arrays, with other ones where `arrays` has them, by <part>_<array>."""
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
