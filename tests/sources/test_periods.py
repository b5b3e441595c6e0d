"""Interactions by time: spans and periods of dates in any unit, and of plain numbers."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from sources import periods
from sources.periods import timeline
from sources.values import MISSING

SECONDS = {1: "number", 10**3: "number", 10**6: "us", 10**9: "number"}


def seconds(*texts):
    """Seconds since 1970 of dates, in UTC."""
    dates = [datetime.fromisoformat(text).replace(tzinfo=timezone.utc) for text in texts]
    return np.array([int(date.timestamp()) for date in dates], np.int64)


@pytest.mark.parametrize(("ticks", "unit"), SECONDS.items())
def test_months_in_any_unit(ticks, unit):
    train = seconds("2001-01-31 23:59:59", "2001-02-01", "2001-03-15 12:00:00", "2003-12-01")
    test = seconds("2002-02-28", "2002-02-01 00:00:01")
    found = timeline({"train": train * ticks, "test": test * ticks}, unit)
    assert found["period"] == "month"
    assert found["starts"][:3] == ["2001-01", "2001-02", "2001-03"]
    assert (found["starts"][-1], len(found["starts"])) == ("2003-12", 36)
    assert found["spans"]["train"] == {
        "first": "2001-01-31 23:59:59",
        "last": "2003-12-01 00:00:00",
        "without": 0,
    }
    assert {place for place, count in enumerate(found["counts"]["train"]) if count} == {0, 1, 2, 35}
    assert found["counts"]["test"][13] == 2
    assert sum(found["counts"]["test"]) == 2


@pytest.mark.parametrize(
    ("last", "period", "start"),
    [
        ("2001-05-16 12:00:00", "hour", "2001-05-15 07"),
        ("2001-07-01", "day", "2001-05-15"),
        ("2001-12-01", "week", "2001-05-10"),  # weeks of NumPy begin on Thursday
        ("2005-12-01", "month", "2001-05"),
        ("2012-12-01", "quarter", "2001-04"),
        ("2040-12-01", "year", "2001"),
        ("2150-12-01", "decade", "2000"),
    ],
)
def test_a_period_is_the_shortest_of_which_sixty_are_enough(last, period, start):
    first = "2001-05-15 07:30:00"
    found = timeline({"train": seconds(first, last)}, "number")
    assert (found["period"], found["starts"][0]) == (period, start)
    assert 1 <= len(found["starts"]) <= 60
    assert found["counts"]["train"][0] == found["counts"]["train"][-1] == 1


@pytest.mark.parametrize("block", [3, 1 << 22])
def test_numbers_that_are_no_dates(monkeypatch, block):
    monkeypatch.setattr(periods, "BLOCK", block)
    found = timeline({"train": np.arange(-30, 271), "test": np.array([-1, 0, 4, 5])}, "number")
    assert (found["period"], found["starts"][:2]) == ("10", ["-30", "-20"])
    assert found["counts"]["train"] == [10] * 30 + [1]
    assert found["counts"]["test"][2:4] == [1, 3]
    assert found["spans"]["test"]["last"] == "5"


def test_the_largest_numbers():
    largest = np.iinfo(np.int64).max
    found = timeline({"train": np.array([MISSING + 1, 0, largest])}, "number")
    assert sum(found["counts"]["train"]) == 3
    assert len(found["starts"]) <= 60


def test_against_a_loop():
    random = np.random.default_rng(1)
    start = datetime(1999, 12, 31, tzinfo=timezone.utc)
    dates = [start + timedelta(minutes=int(m)) for m in random.integers(0, 800_000, 500)]
    times = np.array([int(date.timestamp()) for date in dates])
    found = timeline({"train": times}, "number")
    assert found["period"] == "month"
    slow = {}
    for date in dates:
        slow[f"{date:%Y-%m}"] = slow.get(f"{date:%Y-%m}", 0) + 1
    fast = dict(zip(found["starts"], found["counts"]["train"], strict=True))
    assert {month: count for month, count in fast.items() if count} == slow


def test_missing_times_are_counted_apart():
    times = seconds("2001-01-01", "2001-01-02")
    missing = np.array([MISSING])
    found = timeline({"train": np.concatenate([times, missing]), "test": missing}, "number")
    assert found["spans"]["train"]["without"] == 1
    assert found["spans"]["test"] == {"first": None, "last": None, "without": 1}
    assert sum(found["counts"]["train"]) == 2
    assert sum(found["counts"]["test"]) == 0
    assert timeline({"train": missing}, "number") is None
    assert timeline({}, "") is None
