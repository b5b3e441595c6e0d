"""Damaged files: a right reading or one line that says what is wrong, never fewer rows in silence.

What is right says a slow reference: Python's own splitting, csv, json and gzip, of the damaged
bytes. Together there are 2,025 mutations, from fixed seeds.
"""

import csv
import gzip
import io
import json
import random
import re
import zlib

import pyarrow as pa
import pyarrow.parquet
import pytest
from data_tools import json_lines, pairs_of, parquet, plain_table, ratings_in, table, times_in

from benchmarks.injection.damage import mutated
from cli.errors import UserError
from sources.readers import read_files

MUTATIONS = 225  # of each kind of file
# fmt: off
RATED = [
    (196, 242, 3), (186, 302, 3), (22, 377, 1), (244, 51, 2), (166, 346, 1), (298, 474, 4),
    (196, 265, 2), (253, 465, 5), (305, 451, 3), (6, 86, 3), (62, 257, 2), (286, 1014, 5),
    (22, 222, 5), (210, 40, 3), (196, 29, 3), (303, 785, 3), (122, 387, 5), (6, 274, 2),
]
# fmt: on
ROWS = [(*row, 880_000_000 + 1000 * number) for number, row in enumerate(RATED)]
MOVIELENS = ["userId", "movieId", "rating", "timestamp"]
RECBOLE = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
AMAZON = ["reviewerID", "asin", "overall", "unixReviewTime"]
LIGHTGCN = b"0 5 6 7 12\n1 5 3\n2 14 9 8 7 6\n3\n4 1\n5 17 3 4 5\n6 2 9\n7 5 11 3\n8 1 2 3\n9 4\n"
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class Refused(Exception):
    """No right reading: the reader has to refuse the file."""


def lines_of(content):
    """The lines of bytes that are not blank, as Latin-1, which keeps each byte."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return [line for line in text.split("\n") if line.strip(" ")]


def plain(name):
    """A column's name: without its type, in lower case, without signs between words."""
    return re.sub("[ _.#-]", "", name.strip().split(":")[0].lower())


def of_table(separator, names=None):
    """Slow reference of tables: bytes -> [(user, item, rating, time)] as texts."""

    def reference(content):
        if b"\0" in content:
            raise Refused
        if separator == "," and b'"' in content:
            text = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
            try:
                rows = [
                    row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row
                ]
            except csv.Error:
                raise Refused from None
            rows = [row for row in rows if row]
        else:
            lines = lines_of(content)
            signs = [sign for sign in (separator, ",", ";", "|", " ") if sign in "".join(lines[:1])]
            rows = [line.split(signs[0]) for line in lines] if signs else []
        if not rows:
            raise Refused
        order = range(len(rows[0]))
        if names and sum(field.isdigit() for field in rows[0]) < 2:
            header, *rows = rows
            header, spelled = [plain(name) for name in header], header
            known = [{plain(name), re.sub("(id|stamp)$", "", plain(name))} for name in names]
            places = [[n for n, name in enumerate(header) if name in alike] for alike in known]
            if len(places[0]) != 1 or len(places[1]) != 1:
                raise Refused
            order = [place[0] if len(place) == 1 else None for place in places]
            if spelled in rows:
                raise Refused
            if any(len(row) != len(header) for row in rows):
                raise Refused
        elif any(len(row) != len(rows[0]) for row in rows) or (names and names in rows):
            raise Refused
        rows = [[None if place is None else row[place] for place in order] for row in rows]
        if any(not row[0] or not row[1] for row in rows):
            raise Refused
        return [tuple([*row, None, None][:4]) for row in rows]

    return reference


def of_lines(content):
    """Slow reference of LightGCN's lines."""
    rows = []
    for line in lines_of(content):
        if not re.fullmatch(r"[0-9 \t]+", line):
            raise Refused
        user, *items = line.split()
        rows += [(user, item, None, None) for item in items]
    return rows


def of_json(content):
    """Slow reference of JSON lines."""
    rows = []
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_int=str, parse_float=str)
            row = tuple(found.get(name) for name in AMAZON)
        except (ValueError, AttributeError):
            raise Refused from None
        if not all(isinstance(value, str) and value for value in row[:2]):
            raise Refused
        rows.append((*(v.encode().decode("latin-1") for v in row[:2]), *row[2:]))
    return rows


def of_parquet(content):
    """Slow reference of Parquet: pyarrow's table as a whole."""
    try:
        found = pa.parquet.read_table(io.BytesIO(content), page_checksum_verification=True)
        rows = list(zip(*(found.column(name).to_pylist() for name in MOVIELENS), strict=True))
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise Refused from None
    if not all(row[0] and row[1] for row in rows):
        raise Refused
    return [(row[0].encode().decode("latin-1"), row[1], *map(str, row[2:])) for row in rows]


def of_gzip(content):
    """Slow reference of a compressed table."""
    try:
        return of_table(",", MOVIELENS)(gzip.decompress(content))
    except (OSError, EOFError, zlib.error):
        raise Refused from None


TEXT_ROWS = [(f"u{user}", f"i{item}", rating, time) for user, item, rating, time in ROWS]
REVIEWS = [
    (*row, ("good", 'a "must", really', "two\nlines", "", "x,y", "5")[number % 6])
    for number, row in enumerate(TEXT_ROWS)
]
FILES = {
    "u.data": (plain_table(None, ROWS), of_table("\t")),
    "ratings.dat": (plain_table(None, ROWS, "::"), of_table("::")),
    "ratings.csv": (plain_table(MOVIELENS, ROWS, ","), of_table(",", MOVIELENS)),
    "lightgcn": (LIGHTGCN, of_lines),
    "recbole": (plain_table(RECBOLE, ROWS), of_table("\t", RECBOLE)),
    "json": (json_lines(AMAZON, TEXT_ROWS), of_json),
    "parquet": (parquet(MOVIELENS, TEXT_ROWS, write_page_checksum=True), of_parquet),
    "quoted": (table([*MOVIELENS, "review"], REVIEWS), of_table(",", MOVIELENS)),
    "gzip": (gzip.compress(plain_table(MOVIELENS, ROWS, ","), mtime=0), of_gzip),
}


@pytest.mark.parametrize("name", FILES)
def test_mutations(tmp_path, name):
    content, reference = FILES[name]
    rng = random.Random(name)
    read = 0
    for number in range(MUTATIONS):
        damaged = mutated(content, rng)
        read += check(tmp_path / f"{number}", damaged, reference)
    # Damage of compressed bytes, or with a checksum, leaves few files to read.
    assert read > (0 if name in ("gzip", "parquet") else MUTATIONS / 4)


def check(path, content, reference):
    """Whether the file is read; AssertionError if it is read wrong."""
    path.write_bytes(content)
    try:
        (found,) = read_files([path])
        if not len(found):
            return False  # the data set is refused: it has no interaction
    except UserError as error:
        message = str(error)
        assert str(path) in message, message
        assert "\n" not in message, message
        return False
    try:
        right = reference(content)
    except Refused:
        pytest.fail(f"{content!r} was read: {found.about}, {pairs_of(found, 'latin-1')}")
    pairs = [(user, item) for user, item, *_ in right]
    assert pairs_of(found, "latin-1") == pairs, (content, found.about)
    for values, column in ((ratings_in(found), 2), (times_in(found), 3)):
        for value, row in zip(values or (), right if values else (), strict=True):
            text = (row[column] or "").strip()
            if column == 2:  # a decimal comma
                text = re.sub(r"^([-+]?\d*),(\d?\d?)$", r"\1.\2", text)
            number = float(text) if NUMBER.fullmatch(text) else None
            if number is not None and column == 3 and found.unit == "us":
                number *= 1e6
            alike = value is number or value == pytest.approx(number or 0, rel=1e-7, abs=column - 2)
            assert alike, (content, found.about, row, value)
    return True
