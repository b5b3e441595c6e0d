"""--train_mode update: what a new run begins with, exact resume after kills, what is refused."""

import json
import random
import time

import numpy as np
import pytest
import torch
from tools import PATIENCE, build, finish, interactions, start, write

from checkpointing.data_file import load_data_file, save_data
from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.update import free_name, grown_state
from model import moving_aggregation
from parse import parse_args
from reports.console import command_to_continue
from sources.growth import grown

NEW = "user,item\nlistener-001,newcomer\nlistener-002,newcomer\nnobody,newcomer\nnobody,soul-450\n"
UPDATE = ("--train_mode", "update", "--run_name", "g", "--update_from", "new.csv")


@pytest.fixture
def trained(cli, work):
    """The run g of demo, and a file of new interactions."""
    assert cli("--epochs", 2, "--dim", 8, "--run_name", "g")[0] == 0
    write(work / "new.csv", NEW)
    return cli


def before_and_after():
    """A data set, and the same with user "a" and item "00" before all others, and user 3 last."""
    pairs = {(user, item) for user in range(3) for item in range(5) if (user + item) % 3}
    before = interactions(pairs, {(0, 0)}, (3, 5))
    new = {(1, 1), (1, 0), (0, 0), (0, 3), (4, 2), (4, 0)}
    later = interactions({(user + 1, item + 1) for user, item in pairs} | new, {(0, 1)}, (5, 6))
    before.user_ids[:], before.item_ids[:] = ["u0", "u1", "u2"], list("vwxyz")
    later.user_ids[:], later.item_ids[:] = ["a", "u0", "u1", "u2", "u3"], list("uvwxyz")
    return before, grown(before, later, "g")


@pytest.mark.parametrize("flags", [("OneBP",), ("TwoBP",), ("OneBP", "--loss", "ELSA")])
def test_known_rows_are_kept_and_new_ones_made(flags):
    """User u2 became number 3, item v number 1; new are the users 0 and 4 and the item 0."""
    before, data = before_and_after()
    old = build(*flags, "--dim", 4, "--batch_size", 4, data=before)
    for _ in range(3):
        old.train_epoch(0.05, lambda: None)
    model = build(*flags, "--dim", 4, "--batch_size", 4, data=data)
    state = grown_state(model, old.state_dict(), before)
    places = {"user": slice(1, 4), "item": slice(1, 6)}
    for name, table in old.weights.items():
        assert torch.equal(state["encoder"][name][places[name]], table)
    for name, moments in old.optimizer.state_dict().items():
        for key, moment in moments.items():
            found = state["optimizer"][name][key]
            if moment.dim():
                assert torch.equal(found[places[name]], moment)
                assert found[0].count_nonzero() == 0
            else:
                assert found == moment
    assert "compiled" not in state  # an update decides anew

    # New users, from their items; the mean user where backpropagation trains the users.
    _, items = model.encodings()
    if "user" in model.weights:
        mean = old.weights["user"].mean(0)
        expected = mean.repeat(2, 1)
        if flags[0] == "OneBP":
            history = torch.tensor([0, 0, 1, 1]), items[[0, 3, 0, 2]]
            for _ in range(model.args.passes):
                moving_aggregation(expected, *history, model.args.beta, "sequential")
        torch.testing.assert_close(model.weights["user"][[0, 4]], expected)

    # The new item: users 1 (known), 0 and 4 took it.
    assert sorted(data.train.tocsc()[:, [0]].nonzero()[0]) == [0, 1, 4]
    assert items[0].isfinite().all()
    assert items[0].count_nonzero() == 4


def test_a_new_item_begins_where_the_items_of_its_users_are():
    """Two groups with items of their own; the new item of the second group is nearest to those."""
    pairs = {(user, item) for user in range(20) for item in range(10) if user % 2 == item % 2}
    before = interactions(pairs, {(0, 1)}, (20, 10))
    later = interactions(pairs | {(user, 10) for user in (1, 3, 5)}, {(0, 1)}, (20, 11))
    data = grown(before, later, "g")
    for flags in (("OneBP",), ("TwoBP",), ("OneBP", "--loss", "ELSA", "--batch_size", 5)):
        old = build(*flags, "--dim", 8, data=before)
        for _ in range(60):
            old.train_epoch(0.02, lambda: None)
        model = build(*flags, "--dim", 8, data=data)
        grown_state(model, old.state_dict(), before)
        _, items = model.encodings()
        near = torch.nn.functional.cosine_similarity(items[:10], items[10:])
        assert near[1::2].min() > near[::2].max(), flags
        lengths = items.norm(dim=1)
        assert lengths[10] < 1.5 * lengths[:10].max(), flags


def test_an_update_is_a_run_of_its_own_that_can_be_updated(trained, work):
    """By a file, which may go then: the new user gets a list. Then again, by a file more."""
    before = (work / "checkpoints/g/last.pt").read_bytes()
    status, stdout, stderr = trained(*UPDATE, "--epochs", 3)
    assert (status, stderr) == (0, "")
    assert (
        "g-update goes on from g, epoch 2, with 4 new interactions, 1 users and 1 items more"
        in stdout
    )
    assert (work / "checkpoints/g/last.pt").read_bytes() == before
    summary = json.loads((work / "runs/g-update/summary.json").read_text())
    assert (summary["parent"], summary["last"]["epoch"]) == ("g", 3)
    assert summary["flags"]["dim"] == 8
    (work / "new.csv").unlink()
    assert trained("--mode", "evaluate", "--run_name", "g-update")[0] == 0
    listed = trained("--mode", "recommend", "--run_name", "g-update", "--users", "nobody")[1]
    assert listed.count("nobody") == 10
    assert "newcomer" not in listed

    write(work / "more.csv", "user,item\nnobody,bebop-115\nsomebody,bebop-115\n")
    again = ("--train_mode", "update", "--run_name", "g-update", "--update_from", "more.csv")
    assert trained(*again, "--epochs", 1)[0] == 0
    data, _ = load_data_file(work / "checkpoints/g-update2/update.pt")
    assert (data.update.parent, data.update.new.nnz) == ("g-update", 2)
    assert {"nobody", "somebody"} < set(data.user_ids)


def test_files_that_have_grown(cli, work):
    """A line more in train.csv: a user and an item more; interactions that are gone are refused."""
    rows = [f"u{user},i{item}\n" for user in range(12) for item in range(9) if (user + item) % 4]
    write(work / "datasets/shop/train.csv", "user,item\n" + "".join(rows))
    write(work / "datasets/shop/test.csv", "user,item\nu0,i0\nu1,i3\n")
    flags = ("--dataset", "shop", "--dim", 4)
    assert cli(*flags, "--epochs", 2, "--run_name", "g")[0] == 0
    update = ("--train_mode", "update", "--run_name", "g", "--epochs", 2)
    assert "nothing new: g was trained on" in cli(*update)[2]
    write(work / "datasets/shop/train.csv", "user,item\na,b\n" + "".join(rows[::-1]))
    assert cli(*update)[0] == 0
    data, _ = load_data_file(work / "checkpoints/g-update/update.pt")
    assert (data.user_ids[0], data.item_ids[0], data.update.new.nnz) == ("a", "b", 1)
    write(work / "datasets/shop/train.csv", "user,item\na,b\n" + "".join(rows[1:]))
    status, _, stderr = cli(*update)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "1 of the 81 interactions that g was trained on are no training" in stderr
    assert not (work / "checkpoints/g-update2").exists()


def test_killed_updates_end_like_an_undisturbed_one(trained, work):
    """kill -9 before the first epoch, and between epochs; then --train_mode continue."""
    flags = ("--epochs", 12, "--save_every", 1)
    assert trained(*UPDATE, *flags)[0] == 0
    whole = [
        (work / f"checkpoints/g-update/{name}").read_bytes() for name in ("last.pt", "best.pt")
    ]
    process, folder = start(*UPDATE, *flags), work / "checkpoints/g-update2"
    limit = time.time() + PATIENCE
    while not folder.exists():
        assert time.time() < limit
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    finish(process)
    go_on = ("--train_mode", "continue", "--run_name", "g-update2", "--save_every", 1)
    process = start(*go_on)
    while load_checkpoint(folder / "last.pt")["epoch"] < 2:
        assert time.time() < limit
        assert process.poll() is None
    time.sleep(random.random() * 0.1)
    process.kill()
    finish(process)
    status, stdout, stderr = trained(*go_on)
    assert (status, stderr) == (0, "")
    assert "epoch 12/12" in stdout or "epoch 12 of 12" in stdout
    assert [(folder / name).read_bytes() for name in ("last.pt", "best.pt")] == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dim", 16), "has dim 8, and an update keeps it; leave --dim 16 out"),
        (("--model", "TwoBP"), "has model OneBP, and an update keeps it"),
        (("--model", "EASE"), "--update_from does nothing with --model EASE"),
        (("--optimizer", "SGD"), "has optimizer Adam, and an update keeps it"),
        (("--split_seed", 3), "has split_seed 0, and an update keeps it"),
        (("--run_name", "h"), "no checkpoint at checkpoints/h/best.pt"),
        (("--update_from", "absent.csv"), "absent.csv"),
        (("--refit", "--select", "valid"), "leave --refit and --l2_grid out"),
    ],
)
def test_what_is_refused(trained, work, words, said):
    before = sorted(work.rglob("*"))
    status, _, stderr = trained(*UPDATE, *words)
    assert (status, stderr.count("\n")) == (2, 1), stderr
    assert said in stderr
    assert sorted(work.rglob("*")) == before


def test_models_that_have_no_update(cli, work):
    for name, flags in {"g": ("--encoder", "LightGCN"), "h": ("--model", "EASE")}.items():
        size = () if "EASE" in flags else ("--epochs", 1, "--dim", 4)
        assert cli(*flags, *size, "--run_name", name)[0] == 0
        status, _, stderr = cli("--train_mode", "update", "--run_name", name)
        assert (status, stderr.count("\n")) == (2, 1), stderr
        assert "train" in stderr
        assert "anew" in stderr


def test_a_checkpoint_that_does_not_know_its_ids(trained, work):
    """An old one. What is new can be told by a file, if the data set is as it was."""
    (work / "checkpoints/g/data.pt").unlink()
    status, _, stderr = trained("--train_mode", "update", "--run_name", "g")
    assert status == 2
    assert "does not say which users and items its checkpoint has" in stderr
    assert trained(*UPDATE, "--epochs", 1)[0] == 0
    path = work / "checkpoints/g/best.pt"
    state = load_checkpoint(path)
    state["identity"]["digest"] = "other"
    save_checkpoint(path, state)
    assert "does not say which users" in trained(*UPDATE)[2]


def test_data_file(tmp_path):
    _, data = before_and_after()
    save_data(tmp_path / "update.pt", data, {"epochs": 3})
    found, flags = load_data_file(tmp_path / "update.pt")
    assert flags == {"epochs": 3}
    for name in ("user_ids", "item_ids", "name", "digest", "protocol"):
        assert getattr(found, name) == getattr(data, name)
    for one, other in ((found.train, data.train), (found.update.new, data.update.new)):
        assert (one != other).nnz == 0
        assert np.array_equal(one.indices, other.indices)


def test_free_name(tmp_path):
    for name, taken in (("g-update", "g"), ("g-update2", "g-update"), ("g-update3", "g-update2")):
        assert free_name("g", [tmp_path]) == free_name("g-update2", [tmp_path]) == name, taken
        (tmp_path / name).mkdir()


def test_the_command_that_continues_names_the_update(monkeypatch):
    words = ["main.py", *UPDATE, "more.csv", "--epochs", "3"]
    monkeypatch.setattr("sys.argv", words)
    args = parse_args(words[1:]).replace(run_name="g-update")
    expected = "python main.py --epochs 3 --run_name g-update --train_mode continue"
    assert command_to_continue(args) == expected
