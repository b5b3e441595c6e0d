"""What is suggested for small files of Criteo's log, and what goes before it."""

import os

import numpy as np
import pytest
from tools import write

import families
from parse import parse_args

LIMIT, VALUES = families.family_of("DeepFM").small["criteo"]
DEEP = VALUES["DeepFM"]
ORIGIN = "suggested for criteo under 200 MB"


def criteo(folder, rows=200):
    """A log of few rows in the data sets of `folder`."""
    random = np.random.default_rng(0)
    lines = ["\t".join(map(str, row)) for row in random.integers(2, size=(rows, 40))]
    return write(folder / "datasets/criteo/train.txt", "\n".join([*lines, ""]))


def parsed(*words):
    return parse_args(["--dataset", "criteo", *map(str, words)])


@pytest.mark.parametrize("model", ["LR", "FM", "DeepFM", "DCNv2"])
def test_small_files_suggest_other_values(work, model):
    usual = parsed("--model", model)
    assert (usual.batch_size, usual.l2) == (4096, 1e-5)  # there is no file
    file = criteo(work)
    for size, is_small in ((LIMIT - 1, True), (LIMIT, False), (11_147_184_845, False)):
        os.truncate(file, size)
        args = parsed("--model", model)
        own = VALUES[model]
        assert {flag: getattr(args, flag) for flag in own} == (
            own if is_small else {flag: getattr(usual, flag) for flag in own}
        )
        assert (args.origin["l2"] == ORIGIN) == is_small
    assert parsed("--model", model, "--data_dir", "elsewhere").l2 == 1e-5


def test_a_flag_or_a_preset_goes_before(work):
    criteo(work)
    args = parsed("--model", "DeepFM", "--l2", 1e-5)
    assert (args.l2, args.batch_size) == (1e-5, DEEP["batch_size"])
    published = parsed("--model", "DeepFM", "--preset", "x4_001")
    assert (published.l2, published.batch_size) == (1e-5, 10_000)
    write(work / "f.toml", "batch_size = 4096\nl2 = 1e-5")
    file = parsed("--model", "DeepFM", "--config", "f.toml")
    assert (file.l2, file.batch_size) == (1e-5, 4096)


def test_help_says_it(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--model", "FM", "--help"])
    assert f"Flags, {ORIGIN}: batch_size=1024 l2=0.001\n" in capsys.readouterr().out


def test_a_run_says_it_and_is_repeated_by_its_flags_and_continued_with_its_own(cli, work):
    """Though its flags came from elsewhere than those of the continuation."""
    criteo(work)
    flags = ("--model", "FM", "--dim", 2, "--dataset", "criteo", "--slots", 2, "--patience", 9)
    status, stdout, stderr = cli(*flags, "--epochs", 1, "--run_name", "suggested")
    assert (status, stderr) == (0, "")
    assert f"flags, {ORIGIN}: batch_size=1024 l2=0.001\n" in stdout
    again = parse_args(["--like", "suggested", "--data_dir", "elsewhere"])
    assert (again.batch_size, again.l2) == (1024, 1e-3)

    own = ("--batch_size", 64, "--l2", 1e-5)
    assert cli(*flags, *own, "--epochs", 3, "--run_name", "whole")[0] == 0
    assert cli(*flags, *own, "--epochs", 1, "--run_name", "parts")[0] == 0
    # Other files beside the log, such as its archive, are no reason to go on with other values.
    os.truncate(write(work / "datasets/criteo/criteo.tar.gz", ""), LIMIT)
    again = ("--epochs", 3, "--run_name", "parts", "--train_mode", "continue")
    status, stdout, stderr = cli(*flags, *again)
    assert (status, stderr) == (0, "")
    assert "flags, of the run parts: batch_size=64 l2=1e-05\n" in stdout
    assert "warning" not in stdout
    for name in ("last.pt", "best.pt"):
        whole, parts = (work / "checkpoints" / folder / name for folder in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    _, stdout, _ = cli(*flags, *again, "--epochs", 4, "--l2", 1e-3)
    assert "warning: --l2 was 1e-05 up to epoch 3, now it is 0.001" in stdout
