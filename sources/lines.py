"""Read lines of integers: a user and its items (LightGCN), or a number of items and these items.

Shapes: t tokens of a block, l lines, m interactions.
"""

import re

import numpy as np
import pyarrow as pa

from cli.errors import UserError
from sources.layout import Block
from sources.tables import TEXT, row_texts

USER, ITEM = 0, 1  # positions of the columns


def read_lines(layout):
    """Yield the interactions of a file of lines as Blocks with the columns USER and ITEM.

    layout (Layout): of kind "lightgcn"; or "counted", whose users are the lines, from 0

    A user without items is allowed. Raises UserError for what is no integer, and for a line whose
    count is wrong.
    """
    users_before = 0
    for text, first_line in row_texts(layout):
        ids, line_of_token = _tokens(layout, text, first_line)
        is_first = np.diff(line_of_token, prepend=-1) != 0
        firsts = np.flatnonzero(is_first)
        sizes = np.diff(np.append(firsts, len(line_of_token))) - 1  # items of each line (l,)
        if layout.kind == "lightgcn":
            users = ids.take(pa.array(np.repeat(firsts, sizes)))
        else:
            _check_counts(layout, ids, firsts, sizes, line_of_token, first_line)
            numbers = np.arange(users_before, users_before + len(firsts))
            names = pa.array(numbers).cast(pa.string()).cast(pa.binary())
            users = pa.DictionaryArray.from_arrays(
                pa.array(np.repeat(np.arange(len(firsts), dtype=np.int32), sizes)), names
            )
            users_before += len(firsts)
        rows = np.flatnonzero(~is_first)
        lines = line_of_token[rows] + first_line
        columns = {USER: users, ITEM: ids.take(pa.array(rows))}
        if len(rows):
            yield Block(columns, lambda row, lines=lines: f"line {lines[row]}")


def _tokens(layout, text, first_line):
    """(ids (t,) of type TEXT, lines before each (t,)). Raises UserError for other characters."""
    signs = np.frombuffer(text, np.uint8)
    is_digit = (signs >= ord("0")) & (signs <= ord("9"))
    is_gap = (
        (signs == ord(" ")) | (signs == ord("\n")) | (signs == ord("\r")) | (signs == ord("\t"))
    )
    if not (is_digit | is_gap).all():
        place = int(np.argmin(is_digit | is_gap))
        line = first_line + text.count(layout.newline, 0, place)
        sign = text[place : place + 4].decode("utf-8", "replace")[0]
        raise UserError(
            f"{layout.path}, line {line}: {sign!r} in a line of integers "
            "(user item item ...); correct it"
        )
    if layout.newline == b"\n" and text.count(b"\r") != text.count(b"\r\n"):
        line = first_line + text.count(b"\n", 0, re.search(rb"\r(?!\n)", text).start())
        raise UserError(
            f"{layout.path}, line {line}: a carriage return within a line; end all lines alike"
        )
    before = np.concatenate([[False], is_digit[:-1]])
    starts = np.flatnonzero(is_digit & ~before)
    # All digits in a row, and where each token ends in it: an array of texts without a copy each.
    ends = np.append(np.cumsum(is_digit)[starts] - 1, is_digit.sum()).astype(np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(signs[is_digit])]
    ids = pa.Array.from_buffers(pa.binary(), len(starts), buffers).dictionary_encode()
    newlines = np.flatnonzero(signs == ord(layout.newline))
    return ids.cast(TEXT), np.searchsorted(newlines, starts)


def _check_counts(layout, ids, firsts, sizes, line_of_token, first_line):
    """Raise UserError for the first line that does not have as many items as it says."""
    counts = ids.take(pa.array(firsts)).cast(pa.binary()).cast(pa.string()).cast(pa.float64())
    wrong = np.flatnonzero(counts.to_numpy() != sizes)
    if len(wrong):
        line = first_line + line_of_token[firsts[wrong[0]]]
        raise UserError(
            f"{layout.path}, line {line}: begins with {counts[wrong[0]].as_py():.0f} and has "
            f"{sizes[wrong[0]]} items; correct it"
        )
