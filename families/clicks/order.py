"""Whether the rows of a file are in the order of time, as splits by position suppose."""

import numpy as np

from sources.columns import NAMES, plain_name
from sources.values import MISSING, in_microseconds, times_of


class TimeOrder:
    """Counts the rows of a file that are earlier than the row before them.

    place: position of the column of times: the only one with a usual name; None: there is no such
    found: [rows that are earlier, all rows, name of the column, where the first is]; or [] if all
        are in order, or have no time. A row without a time is as late as the one before it.
    """

    def __init__(self, layout):
        names = list(map(plain_name, layout.names))
        groups = (
            [place for place, name in enumerate(names) if name in own] for own in NAMES["time"]
        )
        places = next(filter(None, groups), [])
        self.place = places[0] if len(places) == 1 else None
        self.name = layout.names[self.place] if self.place is not None else ""
        self.rows, self.earlier, self.first = 0, 0, ""
        self.latest = np.empty(0, np.int64)  # the last known time

    def add(self, block):
        """Look at the next rows. block: sources.layout.Block"""
        if self.place is None:
            return
        times = in_microseconds(*times_of(block.columns[self.place]))
        known = np.flatnonzero(times != MISSING)
        before = len(self.latest)
        self.latest = np.concatenate([self.latest, times[known]])
        earlier = np.flatnonzero(np.diff(self.latest) < 0) + 1 - before
        if len(earlier) and not self.first:
            self.first = block.line(int(known[earlier[0]]))
        self.rows, self.earlier = self.rows + len(times), self.earlier + len(earlier)
        self.latest = self.latest[-1:]

    @property
    def found(self):
        return [self.earlier, self.rows, self.name, self.first] if self.earlier else []
