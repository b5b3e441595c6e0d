"""Several ranks: what each holds, that they stay in step, and that one process finds what they left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from tools import (
    PATIENCE,
    ROOT,
    finish,
    interactions,
    on_ranks,
    save_arrays,
    torchrun,
    toy_data,
    train_on_ranks,
    write,
)

from checkpointing.files import save_checkpoint
from checkpointing.last_and_best import Checkpoints
from checkpointing.shards import drop_stale, load, save
from cli.errors import Diverged, UserError, message_of, should_report
from distributed import agreement, collectives
from distributed.schedule import own_batch_size
from engine import adam, tables
from main import train_model
from model import OneBP, TwoBP
from parse import parse_args
from sources.share import balanced_cuts, own_share

FLAGS = ("--dim", 8, "--lr", 0.05)
CPU = torch.device("cpu")


def own_flags(args):
    """The flags of a rank's model, as main.train_model has them."""
    return args.replace(batch_size=own_batch_size(args.batch_size))


def succeed(process):
    """Wait for a process that must not fail. Returns its output."""
    status, output, errors = finish(process)
    assert status == 0, errors
    return output


def rows(name, folder="runs"):
    """metrics.csv of a run, less its times."""
    table = pd.read_csv(Path(folder) / name / "metrics.csv")
    return table.drop(columns=["train_seconds", "eval_seconds"])


def made_model(kind, groups, *flags):
    """A model of this rank's share of the toy data, ready to train."""
    args = parse_args([str(word) for word in ("--model", kind, *FLAGS, *flags)])
    model = {"OneBP": OneBP, "TwoBP": TwoBP}[kind](
        own_share(toy_data(groups)), own_flags(args), CPU
    )
    model.start_training()
    return model


def merge_first(mark, rows):
    """Like tables.merge on one thread, but the first of equal rows is their place instead of the last."""
    mark[rows.flip(0)] = torch.arange(len(rows)).flip(0)
    return mark.index_select(0, rows)


# Adam's first step is lr g / (|g| + eps): where the gradient g is all but 0, rounding decides its
# sign, and with eps = 1e-8 the step. With this eps a step tells how large g is, everywhere.
SMOOTH = 1e-3


def one_step(*made):
    """This rank's weights before and after a step, its batch, the loss, and how the tables are exchanged."""
    model = made_model(*made)
    before = {name: table.clone() for name, table in model.weights.items()}
    batch = next(iter(model.schedule.batches()))
    model.optimizer.prepare(0.05)
    # Which of equal rows is the place of all is chance on several threads, and on a GPU.
    merge = merge_first if collectives.rank() else tables.merge
    with mock.patch.multiple(adam, merge=merge, EPS=SMOOTH):
        loss = (model.compiled_step if model.compiled else model.step)(batch)
    model.optimizer.finish()
    batch = batch[0] + model.data.first, *batch[1:3]
    return before, dict(model.weights), batch, loss, (model.optimizer.ways, model.optimizer.by_row)


PIECES, ROWS = {"item": "pieces"}, {"item": "rows"}
SUMS = dict.fromkeys(("item_matrices", "item_biases"), "sum")
ALL_SUMS = dict.fromkeys(("user_matrices", "user_biases"), "sum") | SUMS
IN_BATCH = ("--sampler", "inbatch", "--similarity", "cosine")


@pytest.mark.parametrize(
    ("kind", "groups", "flags", "ways"),
    [
        ("OneBP", 4, (), (PIECES, False)),
        ("OneBP", 4, ("--compile", "on", "--l2", 0.1, "--regularizer", "l2"), (PIECES, False)),
        ("OneBP", 60, ("--l2", 0.1, "--sampler", "popularity", "--loss", "BSL"), (ROWS, False)),
        (
            "OneBP",
            4,
            ("--encoder", "MLP", "--sampler", "dns", "--optimizer", "SGD"),
            (PIECES | SUMS, False),
        ),
        ("OneBP", 60, ("--compile", "on", "--l2", 0), (ROWS, True)),
        ("OneBP", 5, (*IN_BATCH, "--loss", "BSL"), (PIECES, False)),
        ("OneBP", 60, (*IN_BATCH, "--compile", "on", "--l2", 0), (ROWS, True)),
        ("TwoBP", 4, ("--loss", "BPR", "--regularizer", "l2", "--l2", 0.1), (PIECES, False)),
        ("TwoBP", 60, ("--loss", "BPR", "--regularizer", "l2", "--l2", 0.1), (ROWS, False)),
        (
            "TwoBP",
            60,
            ("--encoder", "MLP", "--loss", "BCE", "--similarity", "cosine"),
            (ROWS | ALL_SUMS, False),
        ),
    ],
)
def test_a_step_is_that_of_one_process(kind, groups, flags, ways):
    """Ranks with 7 and 6 (5, 4 and 4) interactions of a batch of 13: the weights move as by one batch of all of them."""
    count = 3 if "dns" in flags else 2
    found = on_ranks(one_step, kind, groups, "--batch_size", 13, *flags, count=count)
    befores, afters, batches, losses, found_ways = zip(*found, strict=True)
    sizes = [len(users) for users, *_ in batches]
    assert sizes == ([5, 4, 4] if count == 3 else [7, 6])
    assert list(found_ways) == [ways] * count
    model = made_model(kind, groups, "--batch_size", 13, *flags, "--compile", "off")
    for name, table in model.weights.items():
        table.copy_(whole(name, befores))
    users, items, drawn = zip(*batches, strict=True)
    drawn = None if "inbatch" in flags else torch.cat(drawn, dim=-1)
    batch = model.sampler.exchange((torch.cat(users), torch.cat(items), drawn))
    model.optimizer.prepare(0.05)
    with mock.patch.object(adam, "EPS", SMOOTH):
        loss = model.train_step(batch)
    assert loss.item() == pytest.approx(sum(own.item() for own in losses), rel=1e-5)
    for name, table in model.weights.items():
        torch.testing.assert_close(
            whole(name, afters), table, rtol=1e-5, atol=1e-7 if "SGD" in flags else 1e-6
        )


def whole(name, weights):
    """The table of all users from the ranks' weights, or another one, which is the same on all ranks."""
    tables = [own[name] for own in weights]
    if name == "user":
        return torch.cat(tables)
    assert all(torch.equal(table, tables[0]) for table in tables), name
    return tables[0]


def random_start():
    """This rank's encodings of users before training, and its first negatives."""
    model = made_model("OneBP", 4)
    return model.weights["user"].clone(), next(model.schedule.batches())[2]


def test_ranks_draw_different_random_numbers():
    """PyTorch's generator on a CPU takes the low 32 bits of its seed alone."""
    users, negatives = zip(*on_ranks(random_start, count=3), strict=True)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        size = min(len(users[one]), len(users[other]))
        assert not (users[one][:size] == users[other][:size]).any()
        size = min(negatives[one].shape[1], negatives[other].shape[1])
        assert (negatives[one][:, :size] == negatives[other][:, :size]).float().mean() < 0.3


def uneven_epoch(*flags):
    model = made_model("OneBP", 5, "--batch_size", 5, *flags)
    sizes = [len(batch[0]) for batch in model.schedule.batches()]
    loss = model.train_epoch(0.05, lambda: None)
    model.evaluate("test")  # compares the items of the ranks
    return sizes, loss


@pytest.mark.parametrize(
    "flags",
    [("--regularizer", "l2", "--l2", 0.1), (*IN_BATCH, "--loss", "BSL"), ("--encoder", "MLP")],
)
def test_a_rank_may_have_no_interactions_left(flags):
    found = on_ranks(uneven_epoch, *flags, count=3)
    assert any(0 in sizes for sizes, _ in found)
    losses = [loss for _, loss in found]
    assert losses == [losses[0]] * 3
    assert np.isfinite(losses[0])


def test_only_files_of_ranks_are_stale(tmp_path):
    for name in ("users.1.0-of-2.pt", "users.2.0-of-2.pt", "users.old.pt", "users.3.pt"):
        (tmp_path / name).touch()
    drop_stale(tmp_path, {2})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "users.2.0-of-2.pt",
        "users.3.pt",
        "users.old.pt",
    ]


LEFT = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, "ROOT")
from distributed import collectives, group
def threads():
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
with group.process_group(torch.device("cpu"), 60):
    import torch._dynamo
    collectives.all_reduce_int(1)
    before = threads()
sys.stdout.write(f"threads: {before}, then {threads()}\\n")
"""


def test_nothing_of_a_group_is_left_at_the_end(work):
    """Threads of gloo that still run when Python ends can abort the process."""
    output = succeed(torchrun(program=write(work / "left.py", LEFT.replace("ROOT", str(ROOT)))))
    assert len(re.findall(r"threads: [1-9]\d*, then 0\n", output)) == 2


def test_one_rank_is_bit_equal_to_no_torchrun(cli, work):
    succeed(torchrun("--epochs", 3, *FLAGS, "--run_name", "one", count=1))
    assert cli("--epochs", 3, *FLAGS, "--run_name", "none")[0] == 0
    assert (
        Path("checkpoints/one/last.pt").read_bytes()
        == Path("checkpoints/none/last.pt").read_bytes()
    )
    pd.testing.assert_frame_equal(rows("one"), rows("none"))


def test_two_ranks_go_on_as_if_never_interrupted_also_as_one(cli, work):
    """2 -> 2 is exact, in new processes; 2 -> 1 -> 2 trains on; one process has the metrics of two."""
    flags = ("--model", "TwoBP", *FLAGS)
    train_on_ranks("--epochs", 4, *flags, "--run_name", "whole")
    train_on_ranks("--epochs", 2, *flags, "--run_name", "cut")
    output = succeed(
        torchrun("--epochs", 4, *flags, "--run_name", "cut", "--train_mode", "continue")
    )
    assert output.count("epoch 4/4") == 1  # only the first rank speaks
    files = sorted(path.name for path in Path("checkpoints/whole").iterdir())
    assert files == ["best.pt", "last.pt", "users.4.0-of-2.pt", "users.4.1-of-2.pt"]
    for name in files:
        assert (
            Path("checkpoints/whole", name).read_bytes()
            == Path("checkpoints/cut", name).read_bytes()
        ), name
    pd.testing.assert_frame_equal(rows("whole"), rows("cut"))

    use = ("--run_name", "whole", "--model", "TwoBP")
    status, output, errors = cli("--mode", "evaluate", *use)
    assert (status, errors) == (0, "")
    found = float(
        next(line.split()[1] for line in output.splitlines() if line.startswith("Recall@20"))
    )
    assert found == pytest.approx(rows("whole")["Recall@20"].iloc[-1], abs=5e-5)
    status, output, errors = cli("--mode", "recommend", "--users", "listener-600", *use)
    assert (status, errors) == (0, "")
    assert "listener-600" in output

    on = (*flags, "--run_name", "cut", "--train_mode", "continue")
    status, output, errors = cli("--epochs", 6, *on)
    assert (status, errors) == (0, "")
    assert "another kind of device or number of ranks" in output
    assert "another kind of device or number of ranks" in train_on_ranks("--epochs", 8, *on)[0]
    losses = rows("cut")["loss"]
    assert len(losses) == 8
    assert losses.is_monotonic_decreasing
    assert sorted(json.loads(Path("runs/cut/summary.json").read_text())["dataset"]) == sorted(
        json.loads(Path("runs/whole/summary.json").read_text())["dataset"]
    )


def trained_and_loaded(folder, lr, *made):
    """A model after an epoch, and a new one that has loaded its checkpoint."""
    model, again = (made_model(*made) for _ in range(2))
    model.train_epoch(lr, lambda: None)
    save({"epoch": 1, "model": model.state_dict()}, model.data, folder / "last.pt")
    collectives.all_reduce_int(0)  # the first one has written
    again.load_state_dict(load(folder / "last.pt", model.data)["model"])
    return model, again


def saved_and_loaded(folder, lr=0.05):
    """The moments of this rank's piece of the items after an epoch, and those that a new model loads."""
    model, again = trained_and_loaded(folder, lr, "OneBP", 5)
    assert torch.equal(model.weights["item"], again.weights["item"])
    assert model.optimizer.ways == again.optimizer.ways == PIECES
    return [torch.stack(one.optimizer.optimizer.moments["item"]) for one in (model, again)]


def test_moments_of_pieces_become_whole_in_a_checkpoint(tmp_path):
    """40 items on 3 ranks: the last one has a piece of 14 rows of which the table lacks 2."""
    found = on_ranks(saved_and_loaded, tmp_path, count=3)
    for before, after in found:
        assert before.shape == (2, 14, 8)
        assert torch.equal(before, after)
    state = load(tmp_path / "last.pt")["model"]["optimizer"]["item"]
    whole = torch.cat([before for before, _ in found], dim=1)[:, :40]
    assert torch.equal(torch.stack([state["exp_avg"], state["exp_avg_sq"]]), whole)
    assert (state["exp_avg_sq"] > 0).all()


def two_epochs(folder, *made):
    """This rank's weights after two epochs, and after one, a checkpoint, and another."""
    model, again = trained_and_loaded(folder, 0.05, *made)
    for one in (model, again):
        one.train_epoch(0.05, lambda: None)
    return dict(model.weights), dict(again.weights), model.optimizer.ways


@pytest.mark.parametrize(
    ("made", "ways"),
    [
        (("OneBP", 4, "--optimizer", "SGD"), PIECES),
        (("TwoBP", 60, "--batch_size", 13), ROWS),
        (("OneBP", 60, "--batch_size", 13, "--compile", "on", "--l2", 0), ROWS),
        (("OneBP", 60, *IN_BATCH, "--batch_size", 13), ROWS),
    ],
)
def test_however_tables_are_exchanged_a_continuation_is_exact(tmp_path, made, ways):
    for weights, again, found in on_ranks(two_epochs, tmp_path, *made):
        assert found == ways
        assert all(torch.equal(weights[name], again[name]) for name in weights)


def best_written_late(folder):
    """The items after the first of two epochs, which was the best, and those in best.pt, written after the second."""
    model, seen = made_model("OneBP", 5), []
    checkpoints = Checkpoints(folder, 2, model.data)
    for epoch in (1, 2):
        model.train_epoch(0.05, lambda: None)
        checkpoints.update(
            {"epoch": epoch, "best_epoch": 1, "model": model.state_dict()}, epoch == 1, epoch == 2
        )
        seen.append(model.weights["item"].clone())
    collectives.all_reduce_int(0)  # the first one has written
    return seen[0], [
        load(folder / f"{name}.pt", model.data)["model"]["encoder"]["item"]
        for name in ("best", "last")
    ]


def test_a_best_epoch_that_is_written_late_is_as_it_was(tmp_path):
    for items, (best, last) in on_ranks(best_written_late, tmp_path):
        assert torch.equal(items, best)
        assert not torch.equal(items, last)


def test_evaluation_is_that_of_one_process(work):
    found = on_ranks(evaluated, "--ranking", "pairs")
    args = parse_args(["--ranking", "pairs", *map(str, FLAGS)])
    model = OneBP(toy_data(20), args, CPU)
    for name, table in model.weights.items():
        table.copy_(whole(name, [weights for weights, _ in found]))
    for _, (metrics, popularity) in found:
        assert metrics == pytest.approx(model.evaluate("test"), abs=1e-6)
        assert popularity == pytest.approx(model.baselines()["Popularity"], abs=1e-6)


def evaluated_first_users(part):
    """The metrics of this rank where only the users of the first one have anything in a part."""
    data, args = (
        toy_data(),
        own_flags(parse_args([*map(str, FLAGS), "--ranking", "pairs", "--select", part])),
    )
    some = csr_array(data.test.multiply(np.arange(data.shape[0])[:, None] < 5))
    some.eliminate_zeros()
    model = OneBP(own_share(replace(data, **{part: some})), args, CPU)
    return model.evaluate(part), model.evaluator.metrics


@pytest.mark.parametrize("part", ["test", "valid"])
def test_a_rank_may_have_nobody_to_rank_for(part):
    (first, names), (second, _) = on_ranks(evaluated_first_users, part)
    assert first == second
    assert list(first) == list(names)


def evaluated(*flags):
    model = made_model("OneBP", 20, *flags)
    return dict(model.weights), (model.evaluate("test"), model.baselines()["Popularity"])


def test_a_killed_rank_comes_back_and_the_run_ends_as_if_undisturbed(work):
    flags = ("--epochs", 30, *FLAGS, "--save_every", 1)
    train_on_ranks(*flags, "--run_name", "whole")
    process = torchrun(*flags, "--run_name", "killed", restarts=3)
    for epochs in (5, 15):
        wait_for_epoch("killed", epochs)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
    output = succeed(process)
    assert "continuing after epoch" in output
    for name in ("last.pt", "best.pt"):
        assert (
            Path("checkpoints/whole", name).read_bytes()
            == Path("checkpoints/killed", name).read_bytes()
        ), name
    pd.testing.assert_frame_equal(rows("whole"), rows("killed"))


def test_a_restart_before_the_run_has_begun_does_not_take_an_earlier_one_for_it(work):
    flags = ("--epochs", 2, *FLAGS, "--run_name", "again")
    train_on_ranks(*flags)
    process = torchrun(*flags, "--l2", 0.5, restarts=3)
    limit = time.time() + PATIENCE
    while len(children(process.pid)) < 2:
        assert time.time() < limit
        time.sleep(0.01)
    os.kill(children(process.pid)[-1], signal.SIGKILL)  # it is still importing
    succeed(process)
    assert json.loads(Path("runs/again/summary.json").read_text())["flags"]["l2"] == 0.5
    assert Path("runs/again.1").is_dir()


def test_files_of_ranks_that_were_swapped_are_told(tmp_path):
    on_ranks(saved_and_loaded, tmp_path)
    first, second = (tmp_path / f"users.1.{rank}-of-2.pt" for rank in (0, 1))
    first.rename(tmp_path / "third")
    second.rename(first)
    (tmp_path / "third").rename(second)
    with pytest.raises(UserError, match=r"users.1.0-of-2.pt does not belong to"):
        load(tmp_path / "last.pt")


def test_a_file_of_another_run_or_kind_is_told(tmp_path):
    for name, lr in (("one", 0.05), ("other", 0.06)):
        on_ranks(saved_and_loaded, tmp_path / name, lr)
    own, common = (tmp_path / "one" / name for name in ("users.1.1-of-2.pt", "last.pt"))
    load(common)
    for stranger in (tmp_path / "other" / own.name, common):
        shutil.copy(stranger, own)
        with pytest.raises(UserError, match=r"users.1.1-of-2.pt does not belong to"):
            load(common)
    own.unlink()
    with pytest.raises(UserError, match=r"users.1.1-of-2.pt, a part of .*last.pt, is absent"):
        load(common)
    shutil.copy(tmp_path / "other" / own.name, common)
    with pytest.raises(UserError, match=r"last.pt holds the users of a rank alone"):
        load(common)


def saved_apart(folder):
    saved_and_loaded(folder / str(collectives.rank()))


def test_checkpoints_in_folders_that_are_not_shared_are_told(tmp_path):
    for error in on_ranks(saved_apart, tmp_path):
        assert "users.1.1-of-2.pt, of rank 1, is not here" in str(error)


def test_recover_drops_what_a_kill_left(tmp_path):
    """Killed after last.pt of epoch 3 was written, before the files of epoch 2 were removed."""
    for epoch in (2, 3):
        (tmp_path / f"users.{epoch}.0-of-2.pt").touch()
    save_checkpoint(tmp_path / "best.pt", {"epoch": 3})
    Checkpoints(tmp_path, 1).recover(3, 3)
    assert not (tmp_path / "users.2.0-of-2.pt").exists()
    assert (tmp_path / "users.3.0-of-2.pt").exists()


def started_with(folder, words):
    """What main.py does on this rank in the folder, with its own one of `words`."""
    os.chdir(folder)
    train_model(parse_args(["--dataset", "shop", *words[collectives.rank()].split()]), CPU)


@pytest.mark.parametrize(
    ("words", "others", "message"),
    [
        ("--seed 1", "--seed 2", "rank 1 has --seed 2, the first one 1"),
        ("--data_dir datasets", "--data_dir other", "rank 1 has data with digest"),
        ("--data_dir datasets", "--data_dir absent", "rank 1: no data set 'shop'"),
        (
            "--data_dir datasets",
            "--data_dir arrays",
            "rank 1 has a data set of arrays True, the first one False",
        ),
        ("--train_mode continue", "--train_mode continue", "no checkpoint at"),
    ],
)
def test_ranks_need_the_same_flags_and_data(work, words, others, message):
    for number, folder in enumerate(("datasets", "other")):
        pairs = [
            f"u{user},i{item}\n" for user in range(9) for item in range(9) if user != item + number
        ]
        write(work / folder / "shop" / "interactions.csv", "user_id,item_id\n" + "".join(pairs))
    save_arrays(work / "arrays" / "shop")
    for error in on_ranks(started_with, work, (words, others)):
        assert message in str(error)
        assert should_report(error)


def train_beside_who_has_every_item():
    """The sizes of this rank's batches where the first user, who alone is the first rank's, has every item."""
    train = {(0, item) for item in range(20)} | {(user, user) for user in range(1, 20)}
    data = interactions(train, {(user, 0) for user in range(1, 20)}, (20, 20))
    model = OneBP(
        own_share(data), own_flags(parse_args([*map(str, FLAGS), "--batch_size", "6"])), CPU
    )
    model.start_training()
    sizes = [len(batch[0]) for batch in model.schedule.batches()]
    return sizes, model.train_epoch(0.05, lambda: None)


def test_a_rank_may_have_nothing_to_train_on():
    (first, one), (second, other) = on_ranks(train_beside_who_has_every_item)
    assert first == [0] * 7
    assert second == [3] * 6 + [1]
    assert one == other
    assert np.isfinite(one)


def test_who_tells_of_an_error(monkeypatch):
    gone = RuntimeError("[/x/y.cc:538] Connection closed by peer [10.9.0.1]:4321. And more")
    assert message_of(gone) is None  # in one process that is a bug
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert message_of(gone).startswith(
        "another process failed (Connection closed by peer [10.9.0.1]:4321);"
    )
    for rank, local, own, common, lost in ((0, 0, 1, 1, 1), (1, 1, 1, 0, 0), (2, 0, 1, 0, 1)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert [should_report(error) for error in (UserError("own"), Diverged("nan"), gone)] == [
            own,
            common,
            lost,
        ]


@pytest.mark.parametrize(
    "changed",
    [
        {"RANK": None},
        {"RANK": "2"},
        {"WORLD_SIZE": "two"},
        {"LOCAL_RANK": ""},
        {"MASTER_PORT": "65536"},
        {"MASTER_ADDR": None},
    ],
)
def test_an_environment_that_is_not_torchruns(monkeypatch, cli, changed):
    places = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    places |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for name, value in (places | changed).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
            name, str(value)
        )
    status, _, errors = cli("--epochs", 1)
    assert status == 2
    assert "as of several processes, and " in errors
    for name, value in changed.items():
        assert (f"and {name}={value};" if value else f"and no {name};") in errors


def too_large(folder):
    load(folder / "last.pt", own_share(toy_data(20)))


def test_a_checkpoint_of_fewer_users_is_told(tmp_path):
    on_ranks(saved_and_loaded, tmp_path, count=2)
    assert "is of other data" in str(on_ranks(too_large, tmp_path)[1])


def wait_for_epoch(name, epochs):
    """Wait until metrics.csv has so many rows."""
    path, limit = Path(f"runs/{name}/metrics.csv"), time.time() + PATIENCE
    while not path.exists() or path.read_text().count("\n") <= epochs:
        assert time.time() < limit
        time.sleep(0.01)


def children(pid):
    """The processes that `pid` started and that are alive."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_rank_that_does_not_answer_ends_the_run_with_a_line(work):
    process = torchrun("--epochs", 10_000, *FLAGS, "--run_name", "silent", "--timeout", 3)
    wait_for_epoch("silent", 2)
    silent = children(process.pid)[-1]
    os.kill(silent, signal.SIGSTOP)
    time.sleep(6)
    os.kill(silent, signal.SIGKILL)  # torchrun would wait half a minute for it
    status, _, errors = finish(process)
    assert status != 0
    assert "error: another process failed" in errors
    assert "--train_mode continue" in errors


def test_ctrl_c_says_how_to_go_on_and_that_does(work):
    process = torchrun("--epochs", 10_000, *FLAGS, "--run_name", "stopped", start_new_session=True)
    wait_for_epoch("stopped", 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, _, errors = finish(process)
    (line,) = (line for line in errors.splitlines() if line.startswith("interrupted"))
    assert f"torchrun --standalone --nproc_per_node=2 -- {ROOT / 'main.py'} --epochs 10000" in line
    assert line.endswith("--train_mode continue")
    done = len(rows("stopped")) + 1
    words = ("--epochs", done, *FLAGS, "--run_name", "stopped", "--train_mode", "continue")
    assert f"epoch {done}/{done}" in train_on_ranks(*words)[0].replace("  ", " ")


@pytest.fixture
def nodes():
    """Two network namespaces, joined by a link: [(name, interface, address)] of each."""
    found = [
        (f"onebp{os.getpid()}n{number}", f"ob{os.getpid()}v{number}"[-15:], f"10.9.0.{number + 1}")
        for number in (0, 1)
    ]
    try:
        for name, _, _ in found:
            ip("netns", "add", name)
        ip("link", "add", found[0][1], "type", "veth", "peer", "name", found[1][1])
        for name, interface, address in found:
            ip("link", "set", interface, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            for device in ("lo", interface):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here ({error})")
    else:
        yield found
    finally:
        for name, _, _ in found:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def start_nodes(nodes, *words):
    """Start torchrun in each of the nodes, as the README does."""
    processes = []
    for number, (name, interface, _) in enumerate(nodes):
        how = [
            "--nnodes=2",
            f"--node_rank={number}",
            "--nproc_per_node=1",
            f"--master_addr={nodes[0][2]}",
        ]
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *how]
        command += [str(ROOT / "main.py"), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(
            subprocess.Popen(command, env={**os.environ, "GLOO_SOCKET_IFNAME": interface}, **pipes)
        )
    return processes


def test_two_nodes_train_as_two_ranks_of_one(work, nodes):
    train_on_ranks("--epochs", 2, *FLAGS, "--run_name", "one-node")
    for process in start_nodes(nodes, "--epochs", 2, *FLAGS, "--run_name", "two-nodes"):
        succeed(process)
    pd.testing.assert_frame_equal(rows("one-node"), rows("two-nodes"))


def test_a_link_that_is_cut_ends_both_nodes_with_a_line(work, nodes):
    processes = start_nodes(nodes, "--epochs", 10_000, *FLAGS, "--run_name", "cut", "--timeout", 5)
    wait_for_epoch("cut", 2)
    ip("-n", nodes[0][0], "link", "set", nodes[0][1], "down")
    begin = time.time()
    for process in processes:
        status, _, errors = finish(process)
        assert status != 0
        assert "error: another process failed" in errors
    assert time.time() - begin < 60  # without --timeout it would be 300


def changed_weights():
    """What the check says after a rank changed one bit of the items."""
    model = made_model("OneBP", 4)
    agreement.check_tables_equal(model.shared_weights())
    if collectives.rank() == 1:
        model.weights["item"].view(torch.int32)[3, 5] ^= 1
    model.evaluate("test")


def test_weights_that_differ_stop_the_run():
    for error in on_ranks(changed_weights):
        assert "'item' are no longer the same on all 2 ranks" in str(error)


def test_fingerprint_tells_places_and_bits_apart():
    table = torch.randn(100, 8)
    seen = {agreement.fingerprint(table)}
    for place in range(100):
        changed = table.clone()
        changed.view(torch.int32)[place, place % 8] ^= 1 << place % 32
        seen.add(agreement.fingerprint(changed))
        seen.add(agreement.fingerprint(table.roll(place + 1, 0)) if place < 99 else place)
    assert len(seen) == 201


@pytest.mark.parametrize("seed", range(5))
def test_users_are_divided_by_interactions(seed):
    """Each part is at most one user's interactions away from its share."""
    random = np.random.default_rng(seed)
    degree = (random.pareto(1, 500) * 3).astype(np.int64) + 1
    indptr = np.append(0, degree.cumsum())
    for parts in (1, 2, 3, 7):
        ends = balanced_cuts(indptr, parts)
        assert ends[0] == 0
        assert ends[-1] == 500
        assert (np.diff(indptr[ends]) > 0).all()
        assert np.abs(np.diff(indptr[ends]) - indptr[-1] / parts).max() <= degree.max()


@pytest.mark.parametrize(
    "degrees",
    [
        (97, 1, 1, 1),
        (1, 1, 1, 97),
        (0, 1, 0, 50, 1, 0, 1, 0),
        (1, 1, 90, 1),
        (1, 97, 1),
        (0, 0, 5),
        (5, 0, 0),
    ],
)
def test_no_part_is_empty_where_that_can_be(degrees):
    indptr = np.append(0, np.cumsum(degrees))
    assert (np.diff(indptr[balanced_cuts(indptr, 4)]) > 0).all() == (np.count_nonzero(degrees) >= 4)


def steps(batch_size):
    """Of this rank the pairs of each step, and how many were announced."""
    model = made_model("OneBP", 4, "--batch_size", batch_size)
    batches = [
        torch.stack([users + model.data.first, items])
        for users, items, _ in model.schedule.batches()
    ]
    return batches, [
        model.schedule.sizes(number)[collectives.rank()] for number in range(len(model.schedule))
    ]


@pytest.mark.parametrize("batch_size", [2, 9, 31, 500])
def test_every_interaction_is_in_one_batch(batch_size):
    found = on_ranks(steps, batch_size, count=3 if batch_size > 2 else 2)
    sizes = np.array(
        [[pairs.shape[1] for pairs in batches] for batches, _ in found]
    )  # (ranks, steps)
    assert sizes.tolist() == [announced for _, announced in found]
    pairs = torch.cat([pairs for batches, _ in found for pairs in batches], dim=1)
    assert sorted(pairs.T.tolist()) == np.argwhere(toy_data().train.toarray()).tolist()
    together, uneven = sizes.sum(0), 2 + 7 * len(found) // batch_size
    assert (together[:-uneven] == batch_size).all()
    assert together.max() <= batch_size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--encoder LightGCN", "--encoder LightGCN runs in one process; start it without torchrun"),
        ("--loss DirectAU --sampler none", "--loss DirectAU runs in one process"),
        ("--model EASE", "--model EASE runs in one process"),
        ("--regularizer lambdaopt --select valid", "--regularizer lambdaopt runs in one process"),
        ("--mode evaluate", "--mode evaluate runs in one process"),
        ("--select valid --refit", "--refit runs in one process"),
        ("--regularizer l2 --select valid --l2_grid 1 0.1", "--l2_grid runs in one process"),
    ],
)
def test_what_cannot_be_divided_is_refused(words, message, monkeypatch, capsys):
    places = {
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 29500,
    }
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as exit:
            parse_args(words.split())
        assert exit.value.code == 2
        assert (message in capsys.readouterr().err) == (rank == "0")


def too_small():
    made_model("OneBP", 4, "--batch_size", 2)


def test_a_batch_is_at_least_one_interaction_for_each_rank():
    for error in on_ranks(too_small, count=3):
        assert "--batch_size 2 is too small for 3 ranks" in str(error)
