"""Models of clicks on several ranks: as one process, in training and in the stream."""

import json
import os
import shutil
import signal
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from rank_tools import children, rows, succeed, wait_for_epoch, write_clicks
from tools import on_ranks, torchrun, train_on_ranks, write

from checkpointing.files import load_checkpoint
from cli.registry import find
from distributed import collectives
from families.clicks import dataset
from families.clicks.batches import ImpressionBatches
from families.clicks.family import MEMORIES
from families.clicks.stream import Stream
from main import train_model
from parse import parse_args
from utils import make_generator

KINDS = [name for name in MEMORIES if name != "none"]
SIZES = {"LR": (), "FM": ("--dim", 4)}
SIZES["DeepFM"] = SIZES["DCNv2"] = (*SIZES["FM"], "--hidden", 16, 8)
MEMORY = {
    "knn": ("--memory", "knn", "--memory_k", 20),
    "lsh": ("--memory", "lsh", "--memory_bits", 6),
}
CPU = torch.device("cpu")


def command(model="DeepFM", *flags):
    """Flags of a run on `write_clicks`: its last batch is too small for every rank to get rows."""
    given = ("--model", model, "--dataset", "shop", *SIZES[model], "--compile", "off")
    return (*given, "--batch_size", 457, "--lr", 0.02, "--epochs", 2, "--slots", 4, *flags)


def own_batches(seed, span, batch_size):
    """The rows of this rank's batches of two epochs, and the rows that it expects."""

    def rows_at(numbers):
        return np.stack([numbers, -numbers], axis=1).astype(np.int32), numbers.astype(np.uint8)

    args = SimpleNamespace(batch_size=collectives.own_portion(batch_size))
    with mock.patch.multiple("families.clicks.batches", POOL=40, PIECE=8):
        generator = make_generator(seed, CPU)
        data = SimpleNamespace(rows_at=rows_at, width=2)
        batches = ImpressionBatches(data, span, args, generator)
        epochs = [[ids[:, 0].tolist() for ids, _ in batches.epoch()] for _ in range(2)]
        assert len(batches.empty_batch()[0]) == 0
    return epochs, batches.size


@pytest.mark.parametrize("batch_size", [3, 7, 30, 100])
def test_the_ranks_divide_the_batches_of_one_process(batch_size):
    """Also where a rank has no row of the last one."""
    (epochs, size), found = own_batches(1, (20, 143), batch_size), []
    for ranks in (2, 3):
        found = on_ranks(own_batches, 1, (20, 143), batch_size, count=ranks)
        assert sum(own for _, own in found) == size == 123
        for epoch, batches in enumerate(epochs):
            for number, batch in enumerate(batches):
                own = [rank[epoch][number] for rank, _ in found if number < len(rank[epoch])]
                assert list(chain(*own)) == batch


def remembered(kind, state=None):
    """What this rank finds for its queries after uneven writes, {memory_size: Similar}; its state.

    All ranks together write and ask for the same.
    """
    found, states = {}, {}
    for size in (1, 40, 1000):
        flags = {"memory_k": 5, "memory_size": size, "memory_bits": 4, "seed": 3}
        memory = find(MEMORIES, kind)(8, SimpleNamespace(**flags), CPU)
        if state:
            memory.load_state_dict(state[size])
        random, reads = np.random.default_rng(0), []
        for count in (1, 7, 39, 0, 83):
            keys = torch.tensor(random.normal(size=(count, 8)), dtype=torch.float32)
            labels, predictions = torch.tensor(random.random((2, count)), dtype=torch.float32)
            own = slice(0, count)
            if collectives.world_size() > 1:
                cut = count * 2 // 3
                own = slice(cut, None) if collectives.rank() else slice(0, cut)
            address = memory.address(keys[own])
            reads.append(torch.stack(memory.read(address), dim=2))  # (m, k, 3)
            memory.write(address, labels[own], predictions[own])
            memory.settle()
        found[size], states[size] = reads, memory.state_dict()
    return found, states


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_of_two_ranks_is_that_of_one_process(kind):
    """Before and after the ring is full; its state, too, which either takes over."""
    one, state = remembered(kind)
    (first, whole), (second, _) = on_ranks(remembered, kind)
    for size, reads in one.items():
        for read, own, other in zip(reads, first[size], second[size], strict=True):
            torch.testing.assert_close(torch.cat([own, other]), read, rtol=0, atol=1e-6)
        for name, value in state[size].items():
            torch.testing.assert_close(whole[size][name], value, rtol=0, atol=1e-6)
    again, _ = remembered(kind, state)
    (first, _), (second, _) = on_ranks(remembered, kind, state)
    for size, reads in again.items():
        for read, own, other in zip(reads, first[size], second[size], strict=True):
            torch.testing.assert_close(torch.cat([own, other]), read, rtol=0, atol=1e-6)


def assert_equal_runs(one, two, tolerance):
    """Two runs have the same losses and metrics, also in the stream."""
    pd.testing.assert_frame_equal(rows(one), rows(two), rtol=tolerance)
    tables = [pd.read_csv(f"runs/{name}/stream.csv") for name in (one, two)]
    pd.testing.assert_frame_equal(*tables, rtol=10 * tolerance)
    summaries = [json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in (one, two)]
    assert summaries[0]["protocol"] == summaries[1]["protocol"]
    assert summaries[0]["dataset"] == summaries[1]["dataset"]
    assert [summary["ranks"] for summary in summaries] == [1, 2]
    assert summaries[0]["baselines"] == summaries[1]["baselines"]


@pytest.mark.parametrize(
    ("model", "size", "way"),
    [*((model, 457, "pieces") for model in SIZES), ("FM", 21, "touched rows")],
)
def test_two_ranks_train_as_one_process(cli, work, model, size, way):
    write_clicks(work)
    flags = command(model, "--batch_size", size)
    output, silent = train_on_ranks(*flags, "--run_name", "two")
    assert f"gradients of embedding: exchanged by {way}" in output
    assert "epoch 2/2" in output
    assert silent == ""
    assert cli(*flags, "--run_name", "one")[0] == 0
    assert_equal_runs("one", "two", 1e-4)
    files = [{path.name for path in Path("checkpoints", run).iterdir()} for run in ("one", "two")]
    assert files[0] == files[1] == {"last.pt", "best.pt", "stream.pt"}
    assert Path("runs/two/auc.log").read_text().count("\n") == 2


@pytest.mark.parametrize(
    "flags",
    [
        (*MEMORY["knn"], "--incremental", "--memory_size", 150),
        (*MEMORY["lsh"], "--incremental", "--memory_sigma", 0.3),
        ("--memory", "knn", "--memory_tune"),
        ("--memory", "lsh", "--memory_tune"),
    ],
)
def test_a_stream_of_two_ranks_is_that_of_one_process(cli, trained, flags):
    """From the same model, the predictions are equal to 1e-6."""
    run = command("DeepFM", *flags, "--train_mode", "continue")
    output, _ = train_on_ranks(*run, "--run_name", "two")
    assert "epoch 1/2" not in output
    assert cli(*run, "--run_name", "one")[0] == 0
    one, two = (load_checkpoint(Path(f"checkpoints/{name}/stream.pt")) for name in ("one", "two"))
    assert one["settings"] == two["settings"]
    for name, expected in one["chances"].items():
        torch.testing.assert_close(two["chances"][name], expected, rtol=0, atol=1e-6)
    assert len(one["chances"]) == (4 if "--incremental" in flags else 2)


@pytest.fixture
def trained(cli, work):
    """The runs `one` and `two` of one process, which are equal, in the current directory."""
    write_clicks(work)
    assert cli(*command(), "--run_name", "one")[0] == 0
    for folder in ("runs", "checkpoints"):
        shutil.copytree(f"{folder}/one", f"{folder}/two")


def interrupted(folder, words):
    """Train as main.py does, but for Ctrl-C after slot 2 of the stream."""
    os.chdir(folder)
    save_state = Stream.save_state

    def save_and_stop(stream, done, learners):
        save_state(stream, done, learners)
        if done == 2:
            raise KeyboardInterrupt

    with mock.patch.object(Stream, "save_state", save_and_stop):
        try:
            train_model(parse_args(words), CPU)
        except KeyboardInterrupt as interrupt:
            return str(interrupt)
    return None


def test_two_ranks_go_on_as_if_never_interrupted_also_as_one(cli, work):
    """In training and in the stream: 2 -> 2 is exact, 2 -> 1 is equal to float32."""
    write_clicks(work)
    flags = command("DeepFM", *MEMORY["knn"], "--incremental", "--memory_size", 100)
    train_on_ranks(*flags, "--run_name", "whole")
    train_on_ranks(*flags, "--run_name", "cut", "--epochs", 1)
    shutil.copytree("checkpoints/cut", "checkpoints/one")
    shutil.copytree("runs/cut", "runs/one")
    words = [*map(str, flags), "--run_name", "cut", "--train_mode", "continue"]
    assert all("--train_mode continue" in said for said in on_ranks(interrupted, work, words))
    train_on_ranks(*words)
    for name in ("last.pt", "best.pt", "stream.pt"):
        whole, cut = (Path("checkpoints", run, name).read_bytes() for run in ("whole", "cut"))
        assert whole == cut, name
    status, output, errors = cli(*flags, "--run_name", "one", "--train_mode", "continue")
    assert (status, errors) == (0, "")
    assert "warning" not in output
    assert_equal_runs("one", "whole", 1e-4)


def test_one_rank_is_bit_equal_to_no_torchrun(cli, work):
    write_clicks(work)
    flags = command("DeepFM", *MEMORY["lsh"])
    succeed(torchrun(*flags, "--run_name", "one", count=1))
    assert cli(*flags, "--run_name", "none")[0] == 0
    for name in ("last.pt", "stream.pt"):
        one, none = (Path("checkpoints", run, name).read_bytes() for run in ("one", "none"))
        assert one == none, name


def encodings(folder):
    """How often this rank made an encoded copy, and the digest of the data."""
    os.chdir(folder)
    with mock.patch.object(dataset, "encode", wraps=dataset.encode) as encode:
        data = dataset.load_click_data(parse_args(list(map(str, command()))))
    return encode.call_count, data.digest


def test_the_first_rank_alone_encodes(work):
    write_clicks(work)
    (first, digest), (second, other) = on_ranks(encodings, work)
    assert (first, second) == (1, 0)
    assert digest == other


def test_a_broken_line_is_reported_by_all_ranks(work):
    write(work / "datasets/shop/clicks.csv", "label,movie\n1,a\n0,b\n1,c,d\n")
    errors = on_ranks(encodings, work)
    assert all("clicks.csv" in str(error) and "line 4" in str(error) for error in errors)


def test_a_killed_rank_comes_back_and_the_run_ends_as_if_undisturbed(work):
    write_clicks(work)
    flags = command("LR", *MEMORY["lsh"], "--epochs", 40, "--patience", 99, "--save_every", 1)
    train_on_ranks(*flags, "--run_name", "whole")
    process = torchrun(*flags, "--run_name", "killed", restarts=3)
    wait_for_epoch("killed", 5)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert "continuing after epoch" in succeed(process)
    for name in ("last.pt", "best.pt", "stream.pt"):
        whole, killed = (Path("checkpoints", run, name).read_bytes() for run in ("whole", "killed"))
        assert whole == killed, name
    pd.testing.assert_frame_equal(rows("whole"), rows("killed"))
