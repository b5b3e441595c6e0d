"""Interactions by time: the span of each split, and how many there are in each period.

Shapes: n interactions of a split, T periods.
"""

import numpy as np

from sources.values import CALENDAR, MISSING, calendar_of, say_time

BLOCK = 1 << 22  # times processed together
MOST = 60  # periods


def timeline(times, unit):
    """Count interactions by time.

    times: {split: (n,) int64, MISSING where there is none}
    unit: see sources.values.times_of

    Returns {"spans": {split: {"first", "last": texts, or None, "without": interactions without a
    time}}, "period": its length in words, "starts": [text] (T,), "counts": {split: [number] (T,)}},
    or None if there are no times.
    """
    spans, ends = {}, []
    for split, column in times.items():
        known = column != MISSING
        without = len(column) - int(known.sum())
        if without:
            column = column[known]
        spans[split] = [int(column.min()), int(column.max())] if len(column) else []
        spans[split].append(without)
        ends += spans[split][:-1]
    if not ends:
        return None
    calendar = calendar_of(max(ends), np.array([min(ends), max(ends)]), unit)
    edges, period = periods(min(ends), max(ends), calendar)
    return {
        "spans": {
            split: {
                "first": say_time(span[0], calendar) if len(span) > 1 else None,
                "last": say_time(span[1], calendar) if len(span) > 1 else None,
                "without": span[-1],
            }
            for split, span in spans.items()
        },
        "period": period,
        "starts": [say_time(edge, calendar, period) for edge in edges],
        "counts": {
            split: counts_between(edges, column).tolist() for split, column in times.items()
        },
    }


def periods(first, last, calendar):
    """(edges (T,) int64: the beginning of each period, the length of a period in words).

    first, last: times
    calendar: see sources.values.calendar_of
    """
    if calendar is None:
        step = next(
            digit * 10**power
            for power in range(19)
            for digit in (1, 2, 5)
            if last // (digit * 10**power) - first // (digit * 10**power) < MOST
        )
        edges = range(max(first // step * step, MISSING), last + 1, step)
        return np.array(edges, np.int64), f"{step:,}"
    ends = np.array([first, last]).view(calendar)
    spans = ((word, *ends.astype(f"M8[{code}]")) for word, code in CALENDAR.items())
    word, low, high = next(span for span in spans if (span[2] - span[1]).astype(int) < MOST)
    return np.arange(low, high + 1).astype(calendar).view(np.int64), word


def counts_between(edges, times):
    """Number (T,) of the times from each edge to before the next; MISSING ones are left out."""
    counts = np.zeros(len(edges), np.int64)
    for start in range(0, len(times), BLOCK):
        block = times[start : start + BLOCK]
        place = np.searchsorted(edges[1:], block[block != MISSING], side="right")
        counts += np.bincount(place, minlength=len(edges))
    return counts
