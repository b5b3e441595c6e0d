"""Rows that are not in the order of time are counted, and said whenever the data are loaded."""

import json

import numpy as np
import pytest
from tools import write

from families.clicks.dataset import load_clicks

TIMES = np.random.default_rng(3).permutation(np.repeat(np.arange(40), 3)) + 1_300_000_000


def rows(times, head="click,city,ts"):
    lines = [f"{n % 2},c{n % 5},{time}" for n, time in enumerate(times)]
    return "\n".join([head, *lines]) + "\n"


@pytest.mark.parametrize("size", [60, 1 << 20])
def test_rows_that_are_earlier_are_counted(tmp_path, monkeypatch, caplog, size):
    """Of rows in several blocks, too; a missing time is as late as the one before; from a copy."""
    monkeypatch.setattr("sources.tables.PIECE", size)
    path = write(tmp_path / "shop/clicks.csv", rows([*TIMES[:50], "", *TIMES[50:]]))
    earlier = np.flatnonzero(np.diff(TIMES) < 0) + 1
    said = (
        f"{path}: {len(earlier)} of 121 rows are earlier by 'ts' than the row before them, line "
        f"{2 + earlier[0]} first"
    )
    for _ in range(2):
        caplog.clear()
        data = load_clicks("shop", tmp_path)
        assert caplog.messages[-1] == (
            f"warning: {said}; the file's order is taken for time: sort it by this column"
        )
        assert data.protocol == {"not in the order of time": said}


@pytest.mark.parametrize(
    ("times", "head"),
    [
        (np.sort(TIMES), "click,city,ts"),
        (TIMES, "click,city,price"),
        (["", "x"] * 60, "click,city,ts"),
        ([f"2011-11-{day:02}" for day in range(1, 31) for _ in range(4)], "click,city,date"),
    ],
)
def test_nothing_is_said_of_rows_in_order_or_without_times(tmp_path, caplog, times, head):
    write(tmp_path / "shop/clicks.csv", rows(times, head))
    assert load_clicks("shop", tmp_path).protocol == {}
    assert "earlier" not in caplog.text


def test_dates_of_files_of_splits(tmp_path, cli):
    days = [f"2011-11-{day:02}" for day in range(1, 31)]
    for split, times in {"train": days, "valid": days[::-1], "test": days}.items():
        lines = [json.dumps({"label": n % 2, "a": n, "date": t}) for n, t in enumerate(times)]
        write(tmp_path / f"datasets/shop/{split}.json", "\n".join(lines) + "\n")
    status, stdout, _ = cli("--model", "LR", "--dataset", "shop", "--epochs", 1)
    assert (status, stdout.count(" are earlier by 'date' ")) == (0, 1)
    assert "valid.json: 29 of 30 rows" in stdout
    (run,) = (tmp_path / "runs").glob("*/summary.json")
    protocol = json.loads(run.read_text())["protocol"]
    assert "valid.json: 29 of 30 rows" in protocol["not in the order of time"]
