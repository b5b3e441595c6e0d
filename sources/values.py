"""Ratings and times of a column, whatever type it has; what is none of these is missing.

Shapes: m values.
"""

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cli.errors import UserError
from sources.columns import NUMBER

MISSING = np.iinfo(np.int64).min  # stands for no time
SECOND = 1_000_000  # microseconds
SAMPLED = 100_000  # times whose size tells their unit
# How many are a second, by the names of units; and seconds from 1990 to 2100.
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
NOWADAYS = 631_152_000, 4_102_444_800
CALENDAR = {  # NumPy's codes
    "hour": "h",
    "day": "D",
    "week": "W",
    "month": "M",
    "quarter": "3M",
    "year": "Y",
    "decade": "10Y",
    "century": "100Y",
    "millennium": "1000Y",
}
TICKS = {1: "s", 10**3: "ms", 10**6: "us", 10**9: "ns"}
FIRST_DATE, LAST_DATE = "1980", "2200"  # the last time is between them, or times are numbers


def ratings_of(column, decimal_comma):
    """The ratings (m,) float32 of a column; NaN where there is no finite number.

    column: pyarrow array of numbers or texts
    decimal_comma: whether "3,5" is 3.5
    """
    if pa.types.is_nested(column.type):
        return np.full(len(column), np.nan, np.float32)
    if _is_text(column.type):
        codes, texts = _distinct(column)
        if decimal_comma:  # but 1,234 may as well be more than a thousand
            thousands = texts.str.fullmatch(r"\s*[-+]?\d{1,3}(,\d{3})+(\.\d*)?\s*")
            texts = texts.str.replace(",", ".", regex=False).mask(thousands, "")
        distinct = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    else:
        codes = slice(None)
        distinct = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # inf is no rating, see below
        ratings = distinct.astype(np.float32)
    return np.where(np.isfinite(ratings), ratings, np.float32(np.nan))[codes]


def times_of(column):
    """(times (m,) int64, unit) of a column; MISSING where there is none.

    column: pyarrow array of whole numbers, dates, or texts of either

    The unit is "number", for whole numbers as they are, "us", for microseconds since 1970, or "" if
    all are missing.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _integers(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())), "us"
    if pa.types.is_temporal(column.type) or pa.types.is_nested(column.type):
        return np.full(len(column), MISSING), ""
    if pa.types.is_integer(column.type):
        return _integers(column.cast(pa.int64())), "number"
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return _of_floats(column.cast(pa.float64()).fill_null(np.nan).to_numpy(False))
    is_dictionary = pa.types.is_dictionary(column.type)
    try:
        texts = column.dictionary if is_dictionary else column
        numbers = texts.cast(pa.string()).cast(pa.int64())
        return _integers(numbers.take(column.indices) if is_dictionary else numbers), "number"
    except pa.ArrowInvalid:
        pass

    # Texts: whole numbers, with some missing; or dates and decimal numbers.
    codes, texts = _distinct(column)
    texts = texts.str.strip()
    whole = texts.str.fullmatch(r"[-+]?\d{1,18}").to_numpy(bool)
    numbers = pd.to_numeric(texts, errors="coerce")
    no_number = numbers.isna().to_numpy()
    dates = pd.to_datetime(texts.where(no_number), format="ISO8601", utc=True, errors="coerce")
    known = dates.notna().to_numpy()
    if whole.any() and (whole | no_number).all() and not known.any():
        times = np.full(len(texts), MISSING)
        times[whole] = texts[whole].astype(np.int64)
        return times[codes], "number"
    times, unit = _of_floats(numbers.to_numpy(np.float64))
    if known.any():
        times, unit = in_microseconds(times, unit), "us"
        times[known] = dates[known].dt.as_unit("us").astype(np.int64)
    return times[codes], unit


def in_microseconds(times, unit):
    """Times (n,) in microseconds; the size of whole numbers tells their unit. See `times_of`."""
    known = times != MISSING if times is not None else np.zeros(0, bool)
    if unit == "us" or not known.any():
        return times
    ticks = ticks_per_second(times[known], unit)
    if ticks > SECOND:
        return np.where(known, times // (ticks // SECOND), MISSING)
    known &= np.abs(times) < 2**62 * ticks // SECOND
    return np.where(known, times * (SECOND // ticks), MISSING)


def ticks_per_second(times, unit):
    """How many of their unit are a second: of whole numbers, by their size.

    times (n,): not empty; without MISSING
    unit: see `times_of`
    """
    if unit == "us":
        return SECOND
    some = times[:: len(times) // SAMPLED + 1]  # a few wrong ones do not decide
    usual = int(np.median(np.abs(some)))
    return next((10**power for power in (0, 3, 6) if usual < 10 ** (11 + power)), 10**9)


def units_of(times):
    """{unit: first place} of units in which some whole numbers (n,) are a time from 1990 to 2100.

    A number is so in one unit at most; two of them in one column are mixed.
    """
    found = {}
    for word, ticks in UNITS.items():
        is_so = (times >= NOWADAYS[0] * ticks) & (times < NOWADAYS[1] * ticks)
        if is_so.any():
            found[word] = int(np.argmax(is_so))
    return found


def spell_days(times, unit):
    """Whether all times may be dates from 1970 to 2100 written as numbers, as 20111121 is.

    times (n,), unit: see `ticks_per_second`
    """
    some = times[:: len(times) // SAMPLED + 1]
    if unit != "number" or not len(some) or some.min() < 1970_01_01 or some.max() > 2100_12_31:
        return False
    years, months, days = some // 10_000, some // 100 % 100, some % 100
    starts = ((years - 1970) * 12 + months - 1).astype("M8[M]")
    lengths = ((starts + 1).astype("M8[D]") - starts.astype("M8[D]")).astype(np.int64)
    return bool(((months >= 1) & (months <= 12) & (days >= 1) & (days <= lengths)).all())


def moment(text, times, unit):
    """The time that --test_from names, in the unit of the times.

    text: a number as in the file; or a date, with or without a time of day, in UTC
    times (n,), unit: see `ticks_per_second`

    Raises UserError for a date if the times may be dates written as numbers.
    """
    if NUMBER.fullmatch(text):
        return round(float(text) * SECOND) if unit == "us" else int(Decimal(text))
    date = datetime.fromisoformat(text)
    if spell_days(times, unit):
        raise UserError(
            f"--test_from {text}: the times are numbers as {times[0]}, which may be dates; say "
            f"--test_from {date:%Y%m%d}.0, or write {date:%Y-%m-%d} in the file"
        )
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    microseconds = (date - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
    return microseconds * ticks_per_second(times, unit) // SECOND


def calendar_of(latest, times, unit):
    """The datetime64 type of times that are dates; None: they are numbers.

    latest: the time that decides: it is too small for a date before 1980
    times (n,), unit: see `ticks_per_second`
    """
    kind = f"M8[{TICKS[ticks_per_second(times, unit)]}]"
    first, last = np.array([FIRST_DATE, LAST_DATE], "M8[Y]").astype(kind).view(np.int64)
    return kind if first <= latest < last else None


def say_time(time, calendar, period="second"):
    """A time in words: a date, as exact as a period needs, or the number.

    calendar: see `calendar_of`
    period: a key of CALENDAR, or "second"
    """
    if calendar is None:
        return f"{time}"
    code = {"second": "s", "hour": "h", "week": "D", "quarter": "M"}.get(period)
    code = code or CALENDAR[period][-1]
    return str(np.array(time).view(calendar).astype(f"M8[{code}]")).replace("T", " ")


def _is_text(kind):
    """Whether a pyarrow type is of texts."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (
        pa.types.is_integer(value)
        or pa.types.is_floating(value)
        or pa.types.is_decimal(value)
        or pa.types.is_boolean(value)
    )


def _distinct(column):
    """(codes (m,), the distinct texts as a pandas Series of str)"""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    texts = [
        (value or b"").decode("latin-1") if isinstance(value, bytes | None) else str(value)
        for value in column.dictionary.to_pylist()
    ]
    codes = pc.fill_null(column.indices, len(texts)).to_numpy(zero_copy_only=False)
    return codes, pd.Series([*texts, ""], dtype=object)


def _integers(column):
    """The whole numbers (m,) int64; MISSING for null."""
    return pc.fill_null(column, MISSING).to_numpy(zero_copy_only=False)


def _of_floats(numbers):
    """(times (m,), unit) of numbers (m,) float64: whole ones as they are, others are seconds."""
    known = np.isfinite(numbers) & (np.abs(numbers) < 2.0**62)
    if (numbers[known] == np.floor(numbers[known])).all():
        unit = "number" if known.any() else ""
    else:
        known &= np.abs(numbers) < 2.0**62 / SECOND
        numbers, unit = np.round(np.where(known, numbers, 0) * SECOND), "us"
    times = np.full(len(numbers), MISSING)
    times[known] = numbers[known].astype(np.int64)
    return times, unit
