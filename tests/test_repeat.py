"""flags.toml repeats a run, of every family, to the byte."""

import pandas as pd
import pytest

RUNS = [
    "--lr_dc 0.5 --lr_dc_epoch 1 --sampler popularity --alpha 0.5 --dim 4 --seed 7",
    "--model TwoBP --loss ELSA --dim 4 --dropout 0.3",
    "--model Walk --walk_beta auto --select valid --valid_ratio 0.3",
    "--model CML --dim 4 --N 2 --popularity_weight auto --select valid",
    "--model SVDpp --dim 4 --optimizer SGD",
    "--model DeepFM --dim 4 --hidden 4 4 --memory knn --memory_k 3 --slots 2",
]


@pytest.mark.parametrize("words", RUNS)
def test_flags_toml_repeats_the_run_to_the_byte(cli, work, words):
    epochs = [] if "Walk" in words else ["--epochs", 2]
    first = cli(*words.split(), *epochs, "--run_name", "first")
    second = cli("--like", "first", "--run_name", "second")
    assert [(first[0], first[2]), (second[0], second[2])] == [(0, "")] * 2
    for file in ("best.pt", "last.pt"):
        files = [work / "checkpoints" / run / file for run in ("first", "second")]
        assert files[0].read_bytes() == files[1].read_bytes()
    files = [work / "runs" / run / "flags.toml" for run in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()
    tables = [pd.read_csv(file.with_name("metrics.csv"), dtype=str) for file in files]
    tables = [table.drop(columns=["train_seconds", "eval_seconds"]) for table in tables]
    assert tables[0].equals(tables[1])


def test_a_refit_and_a_grid_say_how_to_repeat_them(cli, work):
    """The refit's flags.toml is that of its command; a member of a grid has its own strength."""
    words = "--select valid --dim 4 --epochs 1 --popularity_weight auto --refit --run_name r"
    assert cli(*words.split())[0] == 0
    chosen, refit = (work / "runs" / run / "flags.toml" for run in ("r", "r-refit"))
    assert chosen.read_text() == refit.read_text()
    lines = refit.read_text().splitlines()
    assert {"refit = true", 'select = "valid"', 'popularity_weight = "auto"'} <= {*lines}
    assert cli("--dim", 4, "--epochs", 1, "--l2_grid", 1, "0.5", "--run_name", "g")[0] == 0
    grid, member = (work / "runs" / run / "flags.toml" for run in ("g", "g-l2=0.5"))
    assert "l2_grid = [1.0, 0.5]" in grid.read_text()
    assert "l2 = 0.5" in member.read_text()
    assert "l2_grid" not in member.read_text()
    before = [(work / "checkpoints" / run / "best.pt") for run in ("g-l2=0.5", "h")]
    assert cli("--like", "g-l2=0.5", "--run_name", "h")[0] == 0
    assert before[0].read_bytes() == before[1].read_bytes()


def test_a_run_goes_on_with_its_file_of_flags(cli, work):
    assert cli("--dim", 4, "--epochs", 1, "--run_name", "a")[0] == 0
    again = ("--like", "a", "--train_mode", "continue", "--run_name", "a")
    status, stdout, _ = cli(*again)
    assert status == 0
    assert "a is done: epoch 1 of 1, nothing to do" in stdout
    assert cli(*again, "--epochs", 2)[0] == 0
    assert "epochs = 2" in (work / "runs/a/flags.toml").read_text()
    assert cli("--dim", 4, "--epochs", 2, "--run_name", "b")[0] == 0
    files = [work / "checkpoints" / run / "last.pt" for run in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
