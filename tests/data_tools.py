"""What the tests of data use: files of interactions in every format, and what is read from them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from sources.columns import Wanted
from sources.readers import read_files
from sources.values import MISSING


def read(path, **wanted):
    """[(user, item)] of a file, in its order. wanted: fields of Wanted"""
    return pairs_of(read_files([path], Wanted(**wanted))[0])


def pairs_of(rows, encoding="utf-8"):
    """[(user, item)] of Rows, as texts."""
    columns = (
        [value.decode(encoding) for chunk in chunks for value in chunk.to_pylist()]
        for chunks in (rows.users, rows.items)
    )
    return list(zip(*columns, strict=True))


def ratings_in(rows):
    """[rating, or None where there is none] of Rows; None without such a column."""
    if rows.ratings is None:
        return None
    return [None if np.isnan(rating) else rating for rating in rows.ratings.tolist()]


def times_in(rows):
    """[time, or None where there is none] of Rows; None without such a column."""
    if rows.times is None:
        return None
    return [None if time == MISSING else time for time in rows.times.tolist()]


def table(names, rows, separator=",", newline="\n", quoting=csv.QUOTE_MINIMAL):
    """A table of text as csv.writer writes it. names: of the header, or None"""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=newline, quoting=quoting)
    writer.writerows(([names] if names else []) + list(rows))
    return text.getvalue().encode()


def plain_table(names, rows, separator="\t", newline="\n"):
    """A table of text without quotation marks around fields."""
    lines = ([names] if names else []) + list(rows)
    return "".join(separator.join(map(str, line)) + newline for line in lines).encode()


def json_lines(names, rows):
    """JSON lines; a name as user.id is that of a field in a nested object."""
    return "".join(json.dumps(nested(names, row)) + "\n" for row in rows).encode()


def nested(names, row):
    """{name: value} with a dictionary for each dot in a name."""
    found = {}
    for name, value in zip(names, row, strict=True):
        *way, last = name.split(".")
        inner = found
        for step in way:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return found


def arrow_table(names, rows):
    """The pyarrow Table of rows."""
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


def parquet(names, rows, **how):
    """A Parquet file. how: arguments of pyarrow's writer"""
    sink = io.BytesIO()
    pa.parquet.write_table(arrow_table(names, rows), sink, **how)
    return sink.getvalue()


def arrow(names, rows, stream=False):
    """An Arrow file, or stream."""
    sink, made = io.BytesIO(), arrow_table(names, rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, made.schema) as writer:
        writer.write_table(made)
    return sink.getvalue()


def zipped(content):
    """A zip archive of one file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.csv", content)
    return sink.getvalue()


COMPRESSIONS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
}


def slow_last(rows, count):
    """Places of the `count` latest rows of each user but the first; ties: by place."""
    own = defaultdict(list)
    for place, (user, _, time) in enumerate(rows):
        own[user].append((time, place))
    return {
        place for times in own.values() for _, place in sorted(times)[max(1, len(times) - count) :]
    }


def slow_latest(rows, ratio):
    """Places of the latest share of all rows; at least one is left; ties: by place."""
    by_time = sorted((time, place) for place, (*_, time) in enumerate(rows))
    size = min(round(len(rows) * ratio), len(rows) - 1)
    return {place for _, place in by_time[len(rows) - size :]}
