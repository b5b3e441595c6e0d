"""The grid of --l2: its choice, that its runs are ordinary, what ends it early, what it refuses."""

import gc
import json
import weakref

import pandas as pd
import pytest
from tools import write

from evaluate import Ranking
from model import TwoBP
from parse import parse_args

METRICS = Ranking.metrics
FLAGS = (
    "--model",
    "TwoBP",
    "--loss",
    "BPR",
    "--dim",
    4,
    "--epochs",
    3,
    "--lr",
    0.02,
    "--device",
    "cpu",
)
GRID = (*FLAGS, "--l2_grid", "1e-2", "0", "1e-4", "--run_name", "g")
MEMBERS = ("g-l2=0.01", "g-l2=0", "g-l2=0.0001")


def summary(name):
    with open(f"runs/{name}/summary.json") as file:
        return json.load(file)


def same_weights(work, *names):
    first, *others = (work / f"checkpoints/{name}/best.pt" for name in names)
    return all(other.read_bytes() == first.read_bytes() for other in others)


@pytest.fixture
def interrupt(monkeypatch):
    """Make the n-th training epoch from here on a Ctrl-C, before its checkpoint is written."""

    def at(number):
        def train_epoch(self, *arguments):
            epochs.append(1)
            if len(epochs) == number:
                raise KeyboardInterrupt
            return original(self, *arguments)

        epochs = []
        monkeypatch.setattr(TwoBP, "train_epoch", train_epoch)

    original = TwoBP.train_epoch
    yield at
    monkeypatch.undo()


def test_the_validation_part_chooses(cli, work):
    status, stdout, stderr = cli(*GRID)
    assert (status, stderr) == (0, "")
    found = [summary(name) for name in MEMBERS]
    chosen = max(range(3), key=lambda number: found[number]["best"]["valid"]["Recall@20"])
    assert chosen == 1
    (line,) = [line for line in stdout.splitlines() if line.startswith("chosen: ")]
    assert line.startswith(f"chosen: --l2 0, test Recall@20 {found[1]['best']['Recall@20']:.4f}")
    assert line.endswith("runs/g-l2=0")
    (marked,) = [line for line in stdout.splitlines() if line.endswith(" chosen")]
    assert marked.split()[0] == "0"
    table = pd.read_csv("runs/g/grid.csv", dtype=str)
    table = table.astype({name: float for name in table if name != "run_name"})  # to the last digit
    metrics = [*(f"valid_{name}" for name in METRICS), *METRICS]
    assert list(table) == ["l2", "run_name", "epoch", *metrics, "train_seconds", "total_seconds"]
    assert table["l2"].tolist() == [1e-2, 0, 1e-4]
    assert table["run_name"].tolist() == list(MEMBERS)
    for row, member in zip(table.to_dict("records"), found, strict=True):
        assert row["epoch"] == member["best"]["epoch"]
        assert {name: row[name] for name in METRICS} == {
            name: member["best"][name] for name in METRICS
        }
        assert {name: row[f"valid_{name}"] for name in METRICS} == member["best"]["valid"]
        assert (row["train_seconds"], row["total_seconds"]) == tuple(
            member["seconds"][k] for k in ("train", "total")
        )
    trained, whole = table["train_seconds"].sum(), table["total_seconds"].sum()
    assert (
        f"3 finished trainings took {trained:.1f} s, {whole:.1f} s with evaluation and files"
        in line
    )
    assert (work / "runs/g/grid.png").read_bytes().startswith(b"\x89PNG")


def test_of_equals_the_first_is_chosen(cli):
    """A strength so small that no weight feels it."""
    stdout = cli(*FLAGS, "--l2_grid", "1e-40", "0")[1]
    assert "chosen: --l2 1e-40, " in stdout
    stdout = cli(*FLAGS, "--l2_grid", "0", "1e-40")[1]
    assert "chosen: --l2 0, " in stdout


def test_a_member_is_the_run_that_its_flags_make(cli, work):
    assert cli(*GRID)[0] == 0
    alone = (
        *FLAGS,
        "--l2",
        "1e-4",
        "--select",
        "valid",
        "--valid_ratio",
        0.25,
        "--run_name",
        "alone",
    )
    assert cli(*alone)[0] == 0
    one, other = summary("g-l2=0.0001"), summary("alone")
    assert one["flags"] == other["flags"] | {"run_name": "g-l2=0.0001"}
    assert [one[key] for key in ("best", "last", "dataset")] == [
        other[key] for key in ("best", "last", "dataset")
    ]
    assert same_weights(work, "g-l2=0.0001", "alone")


def test_every_member_has_its_whole_log(cli, work):
    """What loading the data says is said once, and is in each log; nothing of the others is."""
    pairs = [(user, item) for user in range(30) for item in range(user % 3, 30, 3)]
    lines = "".join(f"{user},{item},3\n" for user, item in [*pairs, pairs[0]])
    write(work / "datasets/shop/ratings.csv", "user,item,rating\n" + lines).rename(
        "datasets/shop/interactions.csv"
    )
    flags = (
        "--model",
        "SVD",
        "--dataset",
        "shop",
        "--epochs",
        2,
        "--run_name",
        "g",
        "--l2_grid",
        0.2,
        0,
    )
    for mode in ("new", "new", "continue"):  # the last has nothing to train
        status, stdout, stderr = cli(*flags, "--train_mode", mode)
        assert (status, stderr) == (0, "")
        assert stdout.count("ratings are replaced by later ones") == 1
    for name in ("g-l2=0.2", "g-l2=0"):
        log = (work / f"runs/{name}/log.txt").read_text()
        once = (
            "ratings are replaced by later ones",
            f"the earlier run of this name is now runs/{name}.1",
        )
        once += ("shop: 30 users", f"strengths of l2: {name}\n", "flags, l2_grid: ", "epoch 2/2")
        assert [log.count(line) for line in once] == [1] * len(once)
        assert log.count("strengths of l2") == 1


@pytest.mark.parametrize(
    ("epoch", "words"),
    [
        (5, "interrupted after epoch 1; go on from epoch 1"),
        (4, "before the first checkpoint of g-l2=0; "),
    ],
)
def test_interrupted_and_continued_is_the_undisturbed_one(
    cli, work, interrupt, monkeypatch, epoch, words
):
    """In the second run's second epoch, and in its first, where it has no checkpoint yet."""
    assert cli(*GRID, "--run_name", "whole")[0] == 0
    monkeypatch.setattr("sys.argv", ["main.py", *map(str, GRID)])
    interrupt(epoch)
    status, _, stderr = cli(*GRID, "--save_every", 1)
    assert (status, stderr.count("\n")) == (130, 1)
    assert words in stderr
    assert stderr.endswith("--l2_grid 1e-2 0 1e-4 --run_name g --train_mode continue\n")
    assert not (work / "runs/g/grid.csv").exists()
    status, stdout, stderr = cli(*GRID, "--train_mode", "continue")
    assert (status, stderr) == (0, "")
    assert "g-l2=0.01 is done: epoch 3 of 3, nothing to do" in stdout
    assert ("continuing after epoch 1" in stdout) == (epoch == 5)
    whole, parts = (pd.read_csv(f"runs/{name}/grid.csv") for name in ("whole", "g"))
    assert parts["run_name"].tolist() == list(MEMBERS)
    own = ["run_name", "train_seconds", "total_seconds"]
    pd.testing.assert_frame_equal(parts.drop(columns=own), whole.drop(columns=own))
    for name in MEMBERS:
        assert same_weights(work, name, name.replace("g-", "whole-"))


def test_interrupt_between_two_runs(cli, monkeypatch):
    def start(self, data, args, device):
        if args.l2 == 1e-4:
            raise KeyboardInterrupt
        original(self, data, args, device)

    original = TwoBP.__init__
    monkeypatch.setattr(TwoBP, "__init__", start)
    status, _, stderr = cli(*GRID)
    assert (status, stderr.count("\n")) == (130, 1)
    assert stderr.startswith("interrupted; go on with: ")
    assert stderr.endswith(" --train_mode continue\n")


def test_a_summary_that_was_cut_off_is_written_anew(cli, work):
    assert cli(*GRID)[0] == 0
    file = work / "runs" / MEMBERS[1] / "summary.json"
    text = file.read_text()
    whole = json.loads(text)
    best = {name: value for name, value in whole["best"].items() if name != "Recall@5"}
    others = [json.dumps(whole | part) for part in ({"seconds": {}}, {"best": best})]
    for damaged in (text[:500], "[" * 100_000, *others):
        file.write_text(damaged)
        status, stdout, stderr = cli(*GRID, "--train_mode", "continue")
        assert (status, stderr) == (0, "")
        assert f"{MEMBERS[1]}/summary.json is damaged" in stdout
        assert json.loads(file.read_text())["best"] == whole["best"]


def test_a_new_grid_keeps_the_earlier_one(cli, work, interrupt):
    assert cli(*GRID)[0] == 0
    old = (work / "runs/g/grid.csv").read_bytes()
    interrupt(2)
    assert cli(*GRID)[0] == 130
    assert (work / "runs/g.1/grid.csv").read_bytes() == old
    assert (work / "runs/g-l2=0.01.1/summary.json").exists()
    # Also of strengths whose turn did not come: a continuation must not take them for its own.
    assert all((work / "checkpoints" / f"{name}.1/last.pt").exists() for name in MEMBERS)
    # Only the flags are beside the new runs until they are finished.
    assert [path.name for path in work.glob("runs/g/*")] == ["flags.toml"]


def test_a_continued_grid_shows_no_old_table(cli, work, interrupt):
    assert cli(*GRID)[0] == 0
    interrupt(1)
    assert cli(*GRID, "--epochs", 4, "--train_mode", "continue")[0] == 130
    assert not list(work.glob("runs/g/grid.*"))


def test_a_run_set_aside_by_the_name_of_another_strength(cli, work):
    """Of two runs of g-l2=0, the earlier one is set aside as g-l2=0.1."""
    for _ in range(2):
        assert cli(*FLAGS, "--l2_grid", 0, "--run_name", "g")[0] == 0
    assert summary("g-l2=0.1")["flags"]["l2"] == 0
    assert cli(*FLAGS, "--l2_grid", 0, 0.1, "--run_name", "g", "--train_mode", "continue")[0] == 0
    assert [summary(f"g-l2={name}")["flags"]["l2"] for name in ("0", "0.1", "0.1.1")] == [0, 0.1, 0]


def test_a_diverging_member_costs_only_itself(cli, work):
    status, stdout, stderr = cli(*FLAGS, "--l2_grid", "1e300", "1e-4", "--run_name", "g")
    assert (status, stderr) == (0, "")
    assert (
        "warning: g-l2=1e+300 cannot be chosen: the loss is nan in epoch 1; "
        "lower --lr (0.02), or lower" in stdout
    )
    assert "chosen: --l2 0.0001, " in stdout
    assert "1 finished trainings took" in stdout
    table = pd.read_csv("runs/g/grid.csv")
    assert table["l2"].tolist() == [1e300, 1e-4]
    assert table.drop(columns=["l2", "run_name"]).isna().all(axis=1).tolist() == [True, False]
    assert "the loss is nan" in (work / "runs/g-l2=1e+300/log.txt").read_text()


def test_where_all_diverge(cli, work):
    status, _, stderr = cli(*FLAGS, "--l2_grid", "1e300", "1e301")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "the loss stays finite with no strength of --l2_grid; lower --lr (0.02)" in stderr
    assert not list(work.glob("runs/*/grid.csv"))


def test_other_mistakes_end_the_grid(cli, work):
    """One grid has one set of flags; a run that cannot be written is no matter of its strength."""
    assert cli(*GRID)[0] == 0
    before = (work / "runs/g/grid.csv").read_bytes()
    status, _, stderr = cli(*GRID, "--lr", 0.03, "--train_mode", "continue")
    assert (status, stderr.count("\n")) == (2, 1)
    assert (
        "g-l2=0.01/last.pt was trained with --lr 0.02, not 0.03, "
        "and all runs of a grid need the same" in stderr
    )
    assert (work / "runs/g/grid.csv").read_bytes() == before
    write(work / "runs/h-l2=0.0001", "not a folder")
    status, _, stderr = cli(
        *GRID, "--run_name", "h", "--log", "tensorboard", "--checkpoint_dir", "runs/h-l2=0.0001"
    )
    assert (status, stderr.count("\n")) == (2, 1)


def test_one_model_at_a_time(cli, monkeypatch):
    def start(self, *arguments):
        alive.append(sum(model() is not None for model in models))
        models.append(weakref.ref(self))
        original(self, *arguments)

    models, alive = [], []
    original = TwoBP.__init__
    monkeypatch.setattr(TwoBP, "__init__", start)
    gc.disable()  # by itself it comes at any moment
    try:
        assert cli(*FLAGS, "--l2_grid", 1, "1e300", 0.1)[0] == 0
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_more_compiled_members_than_pytorch_keeps_compiled_steps(cli):
    import torch

    flags = ("--epochs", 1, "--batch_size", 256, "--compile", "on")
    # pytest's own would leave it without a value
    with torch._dynamo.config.patch(accumulated_recompile_limit=1):
        status, _, stderr = cli(*FLAGS, *flags, "--l2_grid", "1e-3", "1e-4", "1e-5")
    assert (status, stderr) == (0, "")


def test_a_data_set_with_a_validation_part_of_its_own(cli, work):
    for part, items in {"train": "xyz", "valid": "w", "test": "v"}.items():
        rows = [
            f"u{user},{item}{(user + shift) % 5}\n"
            for user in range(9)
            for item in items
            for shift in (0, 1)
        ]
        write(work / f"datasets/shop/{part}.csv", "user,item\n" + "".join(rows))
    flags = (*FLAGS, "--dataset", "shop", "--run_name", "g", "--l2_grid", 1, 0)
    status, _, stderr = cli(*flags)
    assert (status, stderr) == (0, "")
    assert summary("g-l2=0")["dataset"]["valid"] == 18
    status, _, stderr = cli(*flags, "--valid_ratio", 0.25)
    assert status == 2
    assert "--valid_ratio does not apply" in stderr


def test_flags_that_follow_from_the_grid():
    args = parse_args(["--l2_grid", "0", "0.5"])
    assert (args.l2_grid, args.select, args.valid_ratio) == ([0.0, 0.5], "valid", 0.25)
    assert args.origin["select"] == args.origin["valid_ratio"] == "suggested for l2_grid"
    args = parse_args(["--l2_grid", "0", "--valid_ratio", "0.1", "--select", "valid"])
    assert (args.valid_ratio, args.origin["select"]) == (0.1, "command line")
    assert parse_args([]).l2_grid is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--l2_grid", "--l2_grid: expected at least one argument"),
        ("--l2_grid 1 -1", "--l2_grid: '-1' is not a number from 0"),
        ("--l2_grid 1 0.1 1e0", "--l2_grid has a strength twice"),
        # one name for two runs
        ("--l2_grid 0.12345678 0.12345679", "--l2_grid has a strength twice"),
        ("--l2_grid 0 -0", "--l2_grid has a strength twice"),
        ("--l2_grid 1 --l2 1", "leave --l2 out"),
        ("--l2_grid 1 --select test", "chooses on the validation split: leave --select test out"),
        ("--l2_grid 1 --refit", "--refit does nothing with --l2_grid"),
        ("--l2_grid 1 --mode evaluate", "--l2_grid does nothing with --mode evaluate"),
        (
            "--l2_grid 1 --model EASE",
            "--l2_grid does nothing with --model EASE, only with OneBP or TwoBP",
        ),
    ],
)
def test_refused_before_anything_is_loaded(capsys, flags, words):
    with pytest.raises(SystemExit) as exit:
        parse_args(flags.split())
    stderr = capsys.readouterr().err
    assert (exit.value.code, stderr.count("\n")) == (2, 1)
    assert words in stderr
