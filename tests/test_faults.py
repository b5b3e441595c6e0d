"""benchmarks/faults.py in short: no kill, damaged file or odd command line is a fault.

What it takes for one, and that it makes the same damage again.
"""

import random
import subprocess
import sys

import pytest
from tools import ROOT

from benchmarks.injection.damage import damage
from benchmarks.injection.kills import difference
from benchmarks.injection.places import left_behind, write_data
from benchmarks.injection.processes import Ended

NUMBERS = {"kills": 2, "mutations": 24, "command_lines": 32}
LINE = "main.py: error: x\n"


def test_no_fault_is_found():
    numbers = [word for name, count in NUMBERS.items() for word in (f"--{name}", str(count))]
    command = [sys.executable, ROOT / "benchmarks/faults.py", *numbers]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, ""), found.stdout
    name, runs, *_, faults = found.stdout.splitlines()[-1].split()
    assert (name, int(runs), int(faults)) == ("all", sum(NUMBERS.values()), 0)


@pytest.mark.parametrize(
    ("status", "errors", "fault"),
    [
        (0, "", None),
        (0, "UserWarning: x\n", "1 lines on stderr: ['UserWarning: x']"),
        (2, LINE, None),
        (2, "", "0 lines on stderr: []"),
        (2, 2 * LINE, "2 lines on stderr: ['main.py: error: x', 'main.py: error: x']"),
        (143, "interrupted\n", None),
        (1, "Traceback (most recent call last):\nValueError: x\n", "traceback: ValueError: x"),
        (-11, "", "status -11: "),
        (None, "", "status None: "),
    ],
)
def test_what_is_a_fault(status, errors, fault):
    assert Ended(status, "", errors).fault() == fault


def test_what_is_left_behind(tmp_path):
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    for folder in (work / "runs/r", work / "datasets/shop/.cache", temporary / "torchinductor_x"):
        folder.mkdir(parents=True)
    assert left_behind(work) is None
    for name in ("work/runs/.r.lock", "work/runs/r/.log.txt.host.1.tmp", "tmp/.clicks", "other"):
        (tmp_path / name).touch()
        assert left_behind(work) == f"left behind: {name}"
        (tmp_path / name).unlink()


def test_a_run_that_ends_otherwise():
    results = {"last.pt": b"1", "metrics.csv": b"2"}
    assert difference(results, dict(results)) is None
    for other in ({**results, "last.pt": b"3"}, {"metrics.csv": b"2"}):
        assert difference(results, other) == "other than undisturbed: last.pt"


@pytest.mark.parametrize("number", range(5))
def test_damage_repeats(tmp_path, number):
    """A number makes one damage, and it does one."""
    contents = []
    for name, damaged in (("a", True), ("b", True), ("whole", False)):
        write_data(tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        for path in files * damaged:
            damage(path, random.Random(number), [files[0]])
        contents.append([path.read_bytes() if path.is_file() else None for path in files])
    assert contents[0] == contents[1] != contents[2]
