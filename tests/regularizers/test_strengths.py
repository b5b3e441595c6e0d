"""What lambdaOpt's strengths leave: the files of a run and an export, against slow references."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from tools import build, checkpoint, interactions, write

from checkpointing.files import load_checkpoint, save_checkpoint
from dataloader import load_dataset
from regularizers.flags import GRANULARITIES
from regularizers.strengths import (
    GROUPS,
    by_epoch,
    dimension_panels,
    epoch_panels,
    frequency_groups,
    group_means,
    write_files,
)
from reports.figures import Series

USERS, ITEMS, DIM = 30, 40, 4
RUN = (
    "--dataset",
    "shop",
    "--dim",
    DIM,
    "--batch_size",
    64,
    "--lr",
    0.02,
    "--device",
    "cpu",
    "--run_name",
    "mine",
)
OWN = (
    "--model",
    "TwoBP",
    "--loss",
    "BPR",
    "--N",
    1,
    "--regularizer",
    "lambdaopt",
    "--lambda_lr",
    0.01,
)
USE = ("--run_name", "mine", "--device", "cpu")
KINDS = [
    *(("TwoBP", granularity) for granularity in GRANULARITIES.values()),
    ("OneBP", "dimension"),
    ("OneBP", "dimension+user+item"),
]
PNG = b"\x89PNG"


@pytest.fixture
def shop(work):
    """A small data set of one's own, whose users and items are of different frequency."""
    random = np.random.default_rng(0)
    drawn = (random.random((900, 2)) ** 1.5 * (USERS, ITEMS)).astype(int)
    rows = "".join(f"u{user},i{item:02}\n" for user, item in sorted(map(tuple, drawn.tolist())))
    write(work / "datasets/shop/interactions.csv", f"user,item\n{rows}")
    return work


def made(shape=(7, 12)):
    """Interactions of few users and items, in three splits."""
    pairs = [
        (user, item)
        for user in range(shape[0])
        for item in range(shape[1])
        if (user * item + item) % 3
    ]
    return interactions(pairs[::3], pairs[1::3], shape, tune=pairs[2::3])


def slow_row(strength, row):
    """Of a row its strengths, be they its own or those of all."""
    return strength[row if len(strength) > 1 else 0].tolist()


def slow_table(data, history):
    """strengths.csv from the strengths after each epoch, [{name: (R or 1, D or 1)}]."""
    expected = []
    pairs = np.argwhere(data.train.toarray()).tolist()
    for epoch, strengths in enumerate(history, 1):
        for name, strength in strengths.items():
            size = data.shape[("user", "item").index(name)]
            count = [
                sum(pair[("user", "item").index(name)] == row for pair in pairs)
                for row in range(size)
            ]
            order = sorted(range(size), key=lambda row: count[row])
            own = len(strength) > 1
            for group in range(GROUPS if own else 1):
                rows = [
                    row
                    for rank, row in enumerate(order)
                    if not own or rank * GROUPS // size == group
                ]
                if rows:
                    seen = [count[row] for row in rows]
                    mean = np.mean([slow_row(strength, row) for row in rows])
                    expected.append((epoch, name, group + 1, f"{min(seen)}-{max(seen)}", mean))
    return pd.DataFrame(expected, columns=["epoch", "kind", "group", "interactions", "strength"])


@pytest.mark.parametrize(("name", "granularity"), KINDS)
@pytest.mark.parametrize("shape", [(7, 12), (3, 6)], ids=str)  # also fewer users than groups
def test_csv_against_a_slow_reference(work, granularity, name, shape):
    data, history, random = made(shape), [], torch.Generator().manual_seed(0)
    model = build(
        name, "--regularizer", "lambdaopt", "--granularity", granularity, "--dim", 3, data=data
    )
    for _ in range(3):
        for strength in model.regularizer.strengths.values():
            strength.uniform_(generator=random)
        model.regularizer.finish_epoch()
        history.append(
            {
                kind: model.regularizer.strength_of(kind).clone()
                for kind in model.regularizer.strengths_key
            }
        )
    save_checkpoint(work / "last.pt", checkpoint(model=model.state_dict()))
    files = model.write_outputs(work / "runs", work / "last.pt")
    assert files == {"strengths": (work / "runs/strengths.csv", work / "runs/strengths.png")}
    table = pd.read_csv(work / "runs/strengths.csv")
    pd.testing.assert_frame_equal(table, slow_table(data, history), rtol=1e-6)
    assert set(table["kind"]) == ({"user", "item"} if name == "TwoBP" else {"item"})
    assert (work / "runs/strengths.png").read_bytes().startswith(PNG)


def test_panels(work):
    """A panel per kind with a line per group, one where all share.

    Then the dimensions, where strengths have them.
    """
    model = build(
        "TwoBP", "--regularizer", "lambdaopt", "--granularity", "di", "--dim", 3, data=made()
    )
    model.train_epoch(0.05, lambda: None)
    state = model.regularizer.state_dict()
    counts = {"user": np.array([4] * 7), "item": np.arange(12)}
    users, items = epoch_panels(by_epoch(state["trajectory"], counts))
    assert [label for label, _ in users.lines] == ["4-4"]
    assert [label for label, _ in items.lines] == ["0-2", "3-4", "5-7", "8-9", "10-11"]
    assert (users.ylabel, items.ylabel) == ("mean strength, users", "mean strength, items")
    (panel,) = dimension_panels(state)
    assert [label for label, _ in panel.lines] == ["users", "items"]
    for (_, values), name in zip(panel.lines, ("user", "item"), strict=True):
        np.testing.assert_allclose(
            values, np.sqrt(np.mean(state["strengths"][name].numpy() ** 2, 0)), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("name", "granularity", "dim", "labels"),
    [
        ("TwoBP", "d", 3, ["users and items"]),
        ("OneBP", "d", 3, ["items"]),
        ("OneBP", "dui", 3, ["items"]),
        ("TwoBP", "ui", 3, None),
        ("TwoBP", "dui", 1, None),
    ],
)
def test_panel_of_the_dimensions(name, granularity, dim, labels):
    model = build(
        name, "--regularizer", "lambdaopt", "--granularity", granularity, "--dim", dim, data=made()
    )
    found = [
        [label for label, _ in panel.lines]
        for panel in dimension_panels(model.regularizer.state_dict())
    ]
    assert found == ([labels] if labels else [])


@pytest.mark.parametrize("epochs", [1, 2000])
def test_lines_differ_in_dash_or_marker_and_have_few_markers(epochs):
    panel = Series(
        [(str(number), [number] * epochs) for number in range(GROUPS)], "epoch", "strength"
    )
    axes = Figure().subplots()
    panel.draw(axes)
    lines = axes.get_lines()
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == GROUPS
    assert all(epochs / line.get_markevery() <= 11 for line in lines)
    assert all(list(line.get_xdata()) == list(range(1, epochs + 1)) for line in lines)


def test_one_epoch_of_what_is_not_a_number(work):
    strengths = {"user": torch.full((7, 1), torch.nan), "item": torch.zeros(12, 1)}
    groups = {
        "user": frequency_groups(np.arange(7), GROUPS),
        "item": frequency_groups(np.arange(12), GROUPS),
    }
    means = {
        name: group_means(strength, groups[name], GROUPS)[None]
        for name, strength in strengths.items()
    }
    state = {"strengths": strengths, "owner": {"user": "user", "item": "item"}, "trajectory": means}
    write_files(state, made(), work / "runs")
    table = pd.read_csv(work / "runs/strengths.csv")
    assert table["strength"].isna().tolist() == [True] * GROUPS + [False] * GROUPS
    assert (work / "runs/strengths.png").read_bytes().startswith(PNG)


def test_continued_run_leaves_the_same_files(shop, cli):
    """Also where the run was killed when all but its files was done."""

    def train(folder, epochs, *words):
        roots = ("--log_root", f"{folder}/runs", "--checkpoint_dir", f"{folder}/checkpoints")
        status, stdout, stderr = cli(*RUN, *OWN, *roots, "--epochs", epochs, *words)
        assert (status, stderr) == (0, "")
        own = [shop / folder / "runs/mine" / f"strengths.{kind}" for kind in ("csv", "png")]
        assert (
            f"strengths    {folder}/runs/mine/strengths.csv, {folder}/runs/mine/strengths.png\n"
            in stdout
        )
        return [file.read_bytes() for file in own]

    whole = train("whole", 5)
    assert train("parts", 2) != whole
    assert train("parts", 5, "--train_mode", "continue") == whole
    for file in ("summary.json", "strengths.csv", "strengths.png"):
        (shop / "parts/runs/mine" / file).unlink()
    assert train("parts", 5, "--train_mode", "continue") == whole
    assert not list(shop.rglob("*.tmp"))


def test_patience_and_the_checkpoint_that_is_exported(shop, cli):
    """A run that stops early has all its epochs in the table.

    The best epoch's strengths are not the last's.
    """
    assert cli(*RUN, *OWN, "--epochs", 200, "--patience", 2)[0] == 0
    summary = json.loads((shop / "runs/mine/summary.json").read_text())
    best, last = summary["best"]["epoch"], summary["last"]["epoch"]
    assert best + 2 == last < 200
    table = pd.read_csv(shop / "runs/mine/strengths.csv")
    assert sorted(table["epoch"]) == sorted(list(range(1, last + 1)) * 2 * GROUPS)
    exported = []
    for epoch, flags in ((best, ()), (last, ("--checkpoint", "last"))):
        assert cli("--mode", "export", *USE, *flags, "--output", "out")[0] == 0
        for name in ("user", "item"):
            exported.append(np.load(f"out/{name}_strengths.npy", allow_pickle=False))
            mean = table[(table["epoch"] == epoch) & (table["kind"] == name)]["strength"].mean()
            # the groups are of one size
            assert exported[-1].mean() == pytest.approx(mean, rel=1e-5)
    assert not np.array_equal(exported[0], exported[2])


@pytest.mark.parametrize(("name", "granularity"), KINDS)
def test_export_has_a_row_per_id(shop, cli, granularity, name):
    assert cli(*RUN, *OWN, "--model", name, "--granularity", granularity, "--epochs", 2)[0] == 0
    assert cli("--mode", "export", *USE, "--output", "out")[0] == 0
    regularizer = load_checkpoint(shop / "checkpoints/mine/best.pt")["model"]["regularizer"]
    ids, data = pd.read_csv("out/ids.csv"), load_dataset("shop", "datasets", validate=True)
    for kind, own_ids in (("user", data.user_ids), ("item", data.item_ids)):
        file = shop / f"out/{kind}_strengths.npy"
        if (name, kind) == ("OneBP", "user"):
            assert not file.exists()
            continue
        exported = np.load(file, allow_pickle=False)
        width = DIM if "dimension" in granularity else 1
        assert (exported.shape, exported.dtype) == ((len(own_ids), width), np.float32)
        strength = regularizer["strengths"][kind if kind in regularizer["strengths"] else "all"]
        for line in ids[ids["kind"] == kind].itertuples():
            assert exported[line.row].tolist() == slow_row(strength, own_ids.index(line.id))
        assert len(np.unique(exported, axis=0)) == 1 or kind in granularity.split("+")


@pytest.mark.parametrize(
    "flags", ["--regularizer l2 --l2 0.1", "--model SVD --dataset demo", "--model Popularity"]
)
def test_others_leave_nothing(shop, cli, flags):
    size = () if "Popularity" in flags else ("--epochs", 1, "--dim", DIM)
    status, stdout, _ = cli("--dataset", "shop", *size, *flags.split(), *USE)
    assert status == 0
    assert "strengths" not in stdout
    assert cli("--mode", "export", *USE, "--output", "out")[0] == 0
    assert {file.name for file in (shop / "out").iterdir()} == {
        "users.npy",
        "items.npy",
        "ids.csv",
        "README.md",
    }
    assert not list(shop.rglob("*strengths*"))
