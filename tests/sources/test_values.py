"""Ratings and times of any spelling."""

import numpy as np
import pyarrow as pa
import pytest

from cli.errors import UserError
from sources.values import (
    MISSING,
    calendar_of,
    in_microseconds,
    moment,
    ratings_of,
    say_time,
    spell_days,
    ticks_per_second,
    times_of,
    units_of,
)

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "with_comma", "without"),
    [
        ("0", 0, 0), ("-2.5", -2.5, -2.5), ("1e3", 1000, 1000), (" 4 ", 4, 4), (".5", 0.5, 0.5),
        ("3,5", 3.5, None), ("-,5", -0.5, None), ("1,234", None, None),
        ("1,234,567.5", None, None),
        ("", None, None), ("NA", None, None), ("nan", None, None),
        ("inf", None, None), ("1e39", None, None),
        ("good", None, None), ("5 stars", None, None),
    ],
)  # fmt: skip
def test_ratings(text, with_comma, without):
    column = pa.array([b"1", text.encode(), b"1"])
    for made in (column, column.dictionary_encode()):
        for comma, value in ((True, with_comma), (False, without)):
            found = ratings_of(made, decimal_comma=comma)
            assert found.dtype == np.float32
            assert found.tolist() == pytest.approx(
                [1, np.nan if value is None else value, 1], nan_ok=True
            )


@pytest.mark.parametrize(
    ("texts", "times", "unit"),
    [
        (["7", "8"], [7, 8], "number"),
        (["7", ""], [7, MISSING], "number"),
        (["-7", "x"], [-7, MISSING], "number"),
        (["1396861869277", "8"], [1396861869277, 8], "number"),
        (["7.25", "8"], [7_250_000, 8 * SECOND], "us"),
        (["1970-01-02", "1970-01-01T00:00:01Z"], [86400 * SECOND, SECOND], "us"),
        (["1970-01-01 01:00:00+01:00", "1970-01-01 00:00:00.5"], [0, 500_000], "us"),
        (["1970-01-02", "8.5"], [86400 * SECOND, 8_500_000], "us"),
        (["1970-01-02", "8"], [86400 * SECOND, 8 * SECOND], "us"),
        (["31.12.2020", "12/31/2020"], [MISSING, MISSING], ""),
        (["", "NA"], [MISSING, MISSING], ""),
    ],
)
def test_times(texts, times, unit):
    column = pa.array([text.encode() for text in texts])
    for made in (column, column.dictionary_encode()):
        found, of_unit = times_of(made)
        assert (found.dtype, found.tolist(), of_unit) == (np.int64, times, unit)


def test_numbers_beside_dates_are_seconds():
    assert in_microseconds(np.array([7, MISSING]), "number").tolist() == [7 * SECOND, MISSING]
    assert in_microseconds(np.array([7, MISSING]), "us").tolist() == [7, MISSING]
    assert in_microseconds(None, "") is None


@pytest.mark.parametrize(
    ("times", "unit", "ticks"),
    [
        ([881250949], "number", 1),
        ([881250949_000, 5], "number", 1000),
        ([881250949_000_000], "number", 10**6),
        ([881250949_000_000_000], "number", 10**9),
        ([5], "us", 10**6),
    ],
)
def test_moments_in_the_unit_of_the_times(times, unit, ticks):
    times = np.array(times)
    assert ticks_per_second(times, unit) == ticks
    second = 1_041_379_200  # of 2003-01-01 in UTC
    assert moment("2003-01-01", times, unit) == second * ticks
    assert moment("2003-01-01T00:00:00", times, unit) == second * ticks
    assert moment("2003-01-01T01:00:00+01:00", times, unit) == second * ticks
    assert moment("1234", times, unit) == (1234 * ticks if unit == "us" else 1234)
    calendar = calendar_of(second * ticks, np.array([second * ticks]), unit)
    assert say_time(second * ticks, calendar) == "2003-01-01 00:00:00"
    assert say_time(17, calendar_of(17, np.array([17]), "number")) == "17"


@pytest.mark.parametrize(
    ("times", "units"),
    [
        ([5, 17], {}),
        ([MISSING, 881250949, 881250950], {"seconds": 1}),
        ([881250949, 881250949_000, 5, 881250949_001], {"seconds": 0, "milliseconds": 1}),
        ([881250949_000_000_000, 881250949_000_000], {"nanoseconds": 0, "microseconds": 1}),
        # From 1990 to 2100 only: a long time in seconds is no mixture.
        ([881250949, 4_102_444_800, 631_151_999_999], {"seconds": 0}),
    ],
)
def test_units_of_times(times, units):
    assert units_of(np.array(times)) == units


def test_numbers_that_may_be_dates():
    days = np.arange("1970-01-01", "2101-01-01", dtype="M8[D]")
    spelled = np.array([int(str(day).replace("-", "")) for day in days])
    assert spell_days(spelled, "number")
    for wrong in (19691231, 21010101, 20110229, 20111301, 20110010, 20110100, 20110431, MISSING):
        assert not spell_days(np.array([20111121, wrong]), "number")
    assert not spell_days(spelled, "us")
    with pytest.raises(UserError, match="may be dates; say --test_from 20030131"):
        moment("2003-01-31", spelled, "number")
    assert moment("20030131.0", spelled, "number") == 20030131
