"""Recognise lines of integers and blanks: LightGCN's, counted ones, or a table without a header."""

import re
from dataclasses import replace

from cli.errors import UserError

SAMPLED = 1000  # lines that are looked at to recognise a table
WIDEST = 8  # fields of the widest table of integers that is recognised without a header


class Ambiguous(UserError):
    """A file that can be read in two ways. readings: the Layouts, that with more names last"""

    def __init__(self, message, readings):
        super().__init__(message)
        self.readings = readings


def lines_of_integers(plain, lines):
    """The Layout of lines of integers and blanks, or None if it is a table, or of other content.

    Raises Ambiguous if it is not sure.
    """
    integers = re.compile(r"(?:[0-9]{1,30}| )+")
    few = lines[:SAMPLED]
    if sum(integers.fullmatch(line) is not None for line in few) < 0.5 * len(few):
        return None  # as most tables: no need to look at all lines
    whole = [line for line in lines if integers.fullmatch(line)]
    if len(whole) < max(0.9 * len(lines), 1) or not any(" " in line.strip() for line in whole):
        return None
    path = plain.path
    fields = [line.split() for line in whole]
    widths = [len(line) for line in fields]
    firsts = [line[0] for line in fields]
    usual = max(set(widths), key=widths.count)
    constant = widths.count(usual) >= (0.9 if len(lines) >= 10 else 1) * len(lines)
    repeated = len(set(firsts)) < len(firsts)
    lightgcn, counted = replace(plain, kind="lightgcn"), replace(plain, kind="counted")
    if whole[0] != lines[0]:  # a header; or a broken line, which the reader reports
        return None if constant else lightgcn

    if len(whole) == len(lines) and all(int(line[0]) == len(line) - 1 for line in fields):
        if repeated:
            return counted
        raise Ambiguous(
            f"{path}: each line begins with the number of the integers that follow: lines of a "
            "user and its items (--format lightgcn), or of a number of items and these items "
            "(--format counted)",
            [lightgcn, counted],
        )
    if not repeated and (not constant or usual <= 2 or usual > WIDEST or _are_alike(fields, usual)):
        return lightgcn
    if repeated and usual > 1 and constant:
        return None  # a table; its reader reports lines of another width
    names = tuple(map(str, range(1, usual + 1)))
    table = replace(plain, names=names, separator=" ", samples=tuple(fields[:SAMPLED]))
    reason = f"{'' if min(widths) == max(widths) else 'nearly '}all lines have {usual} integers"
    if repeated:
        line = next(place for place, first in enumerate(firsts) if first in firsts[:place])
        reason = f"lines differ in length, and users repeat (line {plain.skip_lines + line + 1})"
    raise Ambiguous(
        f"{path}: {reason}: lines of a user and its items (--format lightgcn), or a table "
        "(--format table)",
        [lightgcn, table],
    )


def _are_alike(fields, width):
    """Whether all columns but the first hold ids of one kind, as lines of items do.

    No line has one twice, and no column is of smaller numbers, as ratings beside ids are.
    """
    lines = [[int(field) for field in line[1:]] for line in fields if len(line) == width]
    if width < 5 or len(lines) < 10 or any(len({*line}) < len(line) for line in lines):
        return False
    largest = [max(column) for column in zip(*lines, strict=True)]
    return min(largest) > 0.5 * max(largest)
