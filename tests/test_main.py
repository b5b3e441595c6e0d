"""The program as a whole: its messages for mistakes that only the machine or the data can show."""

import json
import os

import pytest
from tools import finish, start, write

import dataloader


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dataset", "nothing"), "no data set 'nothing': datasets/nothing is absent"),
        (("--dataset", "../x"), "is a path"),
        (("--device", "gpu"), "--device gpu: "),
        (("--device", "cuda:99"), "--device cuda:99: "),
        (("--device", "meta"), "--device meta: neither cpu nor cuda"),
        (("--dim", 2_000_000_000), "; take --dim "),
        (("--lr", "1" * 400), "is not a number above 0"),
        (("--dataset", "a" * 300), "File name too long; check the path"),
        (("--data_dir", "a" * 300), "File name too long; check the path"),
        (("--config", "a" * 300), "File name too long; check the path"),
        (("--like", "a/" * 2500), "File name too long; check the path"),
        (("--popularity_weight", "x"), "'x' is not a number, or auto"),
    ],
)
def test_mistakes_are_one_line_and_status_2(cli, work, flags, words):
    write(work / "file", "not a folder")
    status, _, stderr = cli(*flags)
    assert status == 2
    assert stderr.startswith("main.py: error: ")
    assert stderr.count("\n") == 1
    assert words in stderr
    assert "Traceback" not in stderr


def test_the_first_command(work):
    """What the README shows first: in time, better than popularity, a line per epoch.

    No progress bar on stderr, where nobody looks.
    """
    before = os.times()
    status, stdout, stderr = finish(start())
    assert (status, stderr) == (0, "")
    after = os.times()
    summary = json.loads((work / "runs/demo-OneBP-MF/summary.json").read_text())
    assert summary["best"]["Recall@20"] > 1.5 * summary["baselines"]["Popularity"]["Recall@20"]
    user, system = (
        getattr(after, name) - getattr(before, name)
        for name in ("children_user", "children_system")
    )
    # seconds of a core, 6 where it is fast; the clock says more on a busy machine
    assert user + system < 30
    # In each epoch, in the table of metrics, and in two tables of groups.
    assert stdout.count("Recall@20") == 40 + 3


def test_help_and_wrong_flags_answer_without_loading_torch(work):
    status, stdout, imports = finish(start("--help", env={"PYTHONPROFILEIMPORTTIME": "1"}))
    assert status == 0
    assert "--train_mode" in stdout
    assert "torch" not in imports
    _, _, imports = finish(start("--dim", "x", env={"PYTHONPROFILEIMPORTTIME": "1"}))
    assert "torch" not in imports


def test_a_bug_keeps_its_traceback(cli, monkeypatch):

    def broken(*args, **settings):
        raise ZeroDivisionError

    monkeypatch.setattr(dataloader, "load_dataset", broken)
    with pytest.raises(ZeroDivisionError):
        cli()
