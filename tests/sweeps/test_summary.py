"""Summaries that are edited, or made elsewhere: one line for what no run of this program writes."""

import json

import pytest
from compare_tools import make_run

from cli.errors import UserError
from sweeps.summary import read_summary

WRONG = {
    "digest": ("dataset", {"name": "shop", "digest": 7}),
    "name": ("dataset", {"name": None, "digest": "d"}),
    "protocol": ("protocol", [1]),
    "best": ("best", {"epoch": 3, "Recall@20": "high"}),
    "best.epoch": ("best", {"epoch": "3", "Recall@20": 0.5}),
    "best.valid": ("best", {"epoch": 3, "valid": {"Recall@20": [1]}}),
    "seconds": ("seconds", {"total": "long"}),
    "model": ("flags", {"model": ["OneBP"]}),
    "dim": ("flags", {"model": "OneBP", "dim": "wide"}),
    "cutoffs": ("flags", {"model": "OneBP", "cutoffs": 20}),
    "lr": ("flags", {"model": "OneBP", "lr": -1}),
}


@pytest.mark.parametrize("place", WRONG)
def test_wrong_entries_are_named(tmp_path, place):
    part, value = WRONG[place]
    folder = make_run(tmp_path / "a", **{part: value})
    with pytest.raises(UserError, match=rf"is not the summary of a run .*{place}"):
        read_summary(folder / "summary.json")


def test_what_a_run_writes_is_taken(tmp_path):
    """Also what other versions write: flags that are unknown here, or that they lack."""
    file = make_run(tmp_path / "a", "--cutoffs", 7, 9, "--threads", 1) / "summary.json"
    whole = json.loads(file.read_text())
    assert read_summary(file) == whole
    for change in ({"threads": 10**6}, {"new": [{}]}, {"refit_epochs": 3}):
        other = whole | {"flags": whole["flags"] | change}
        file.write_text(json.dumps(other))
        assert read_summary(file) == other
    file.write_text(json.dumps(whole | {"flags": {"model": "Another", "dim": "wide"}}))
    assert read_summary(file)["flags"] == {"model": "Another", "dim": "wide"}
