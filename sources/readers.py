"""Read files of interactions: users and items as strings, and ratings.

The format follows from the content, not from the name. Formats, plain or gzip:
  a table with a header that names a user and an item column, and optionally a rating column;
    its separator is a tab, a comma, a semicolon or a space;
  MovieLens, without a header: `user<TAB>item[<TAB>rating[<TAB>time]]` (u.data), or the same with
    `::` (ratings.dat);
  LightGCN: a line per user, `user item item ...`, integers separated by spaces.
"""

import csv
import gzip
import io
import re
import warnings
import zlib
from itertools import chain

import numpy as np
import pandas as pd

from cli.errors import UserError

# Plain names (see `plain_name`) of the columns.
# fmt: off
USER_NAMES = (
    "user", "userid", "uid", "userindex", "useridx", "reviewerid", "customerid", "visitorid",
)
ITEM_NAMES = (
    "item", "itemid", "iid", "itemindex", "itemidx", "movie", "movieid", "product", "productid",
    "parentasin", "asin", "book", "bookid", "isbn", "artist", "artistid", "track", "trackid",
    "song", "songid", "business", "businessid", "place", "placeid", "venue", "venueid", "location",
    "locationid", "poi", "poiid", "article", "articleid",
)
# fmt: on
RATING_NAMES = ("rating", "ratings", "score", "stars", "overall")
EXPECTED = (
    "expected a header with a user and an item column, MovieLens u.data or ratings.dat, "
    "or LightGCN lines"
)


def read_interactions(path):
    """Read one file. Returns (users, items, ratings), an entry per interaction, in file order.

    users and items are object arrays of strings; ratings are float32, or None if the file has
    none. Raises UserError with the file and the line for what cannot be read.
    """
    text = read_text(path)
    first = next((line for line in io.StringIO(text) if line.strip()), None)
    if first is None:
        raise UserError(f"{path} is empty; {EXPECTED}")
    first = first.rstrip("\n")
    if first.startswith(("{", "[", "<")):
        raise UserError(f"{path}: JSON or markup is not read; {EXPECTED}")
    # A header names a user or an item column.
    for separator in (sign for sign in "\t,; " if sign in first):
        columns = [plain_name(name) for name in next(_records(first, separator))]
        if set(columns) & {*USER_NAMES, *ITEM_NAMES}:
            return _read_table(path, text, separator, columns, header=True)
    if "::" in first:
        # The parser takes separators of one character. The ids must not contain a tab then.
        return _read_movielens(path, text.replace("::", "\t"))
    if "\t" in first:
        return _read_movielens(path, text)
    if re.fullmatch(r"[0-9\s]*", first):
        return _read_lightgcn(path, text)
    raise UserError(f"{path}: line 1 ({first[:60]!r}) names no user or item column; {EXPECTED}")


def read_text(path, encoding="utf-8-sig"):
    """The text of a plain or gzip file, with line ends "\\n".

    Raises UserError if the file is absent or damaged, is no text, or has another encoding.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path}, line {line}: a NUL character; this is not a text file, or it is damaged"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def plain_name(name):
    """The letters and digits of a column's name: "userid" for "User_ID" or "user_id:token"."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def _read_movielens(path, text):
    """Read u.data or ratings.dat: user, item, rating, time without a header or quotes."""
    first = next(line for line in text.split("\n") if line.strip())
    columns = ["user", "item", "rating", "time"][: first.count("\t") + 1]
    return _read_table(path, text, "\t", columns, header=False)


def _read_table(path, text, separator, columns, header):
    """Read a table of text. Returns what `read_interactions` returns.

    path: for messages
    text: of the file
    separator: one character
    columns: plain names of the columns
    header: whether the first line is a header, and fields may be quoted
    """
    user, item = _find_column(path, columns, USER_NAMES), _find_column(path, columns, ITEM_NAMES)
    rating = _find_column(path, columns, RATING_NAMES) if {*RATING_NAMES} & {*columns} else None
    quoting = csv.QUOTE_MINIMAL if header else csv.QUOTE_NONE
    with warnings.catch_warnings():
        # Make surplus fields an error: pandas would drop them with a warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(
                io.StringIO(re.sub(r"\A(\s*\n)+", "", text)),
                sep=separator,
                header=None,
                skiprows=int(header),
                names=range(len(columns)),
                index_col=False,
                dtype=str,
                keep_default_na=False,  # an item may be called NA
                quoting=quoting,
            )
        except pd.errors.EmptyDataError:
            table = pd.DataFrame(columns=range(len(columns)), dtype=str)
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            _broken_line(path, text, separator, quoting, columns, error)
    users, items = (table[column].to_numpy(dtype=object) for column in (user, item))
    broken, ratings = (users == "") | (items == ""), None
    if rating is not None:
        # Few values are distinct: convert each of them once.
        codes, values = pd.factorize(table[rating])
        with np.errstate(over="ignore"):  # inf is found below
            values = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(np.float32)
        ratings = values[codes]
        broken |= ~np.isfinite(ratings)
    # Name the line of the first incomplete interaction.
    if broken.any():
        row = int(broken.argmax())
        line = _line_of_record(text, separator, quoting, row + int(header))
        fields = separator.join(table.iloc[row])[:60]
        raise UserError(
            f"{path}, line {line}: {fields!r} lacks a user, an item or a numeric rating; "
            "correct or remove it"
        )
    return users, items, ratings


def _find_column(path, columns, names):
    """Index in `columns` of the first of `names` that occurs there.

    Raises UserError if none occurs, or this one occurs twice.
    """
    found = next((name for name in names if name in columns), None)
    if found is None or columns.count(found) > 1:
        problem = "no" if found is None else "more than one"
        listed = ", ".join(columns)[:80]
        raise UserError(
            f"{path}: {problem} {names[0]} column in the header ({listed}); name one {names[0]}"
        )
    return columns.index(found)


def _broken_line(path, text, separator, quoting, columns, error):
    """Raise UserError for the line at which pandas failed: surplus fields, or an unclosed quote.

    error: pandas'; for the other arguments see _read_table
    """
    reader = _records(text, separator, quoting)
    for record in reader:
        if len(record) > len(columns):
            counts = f"{len(record)} fields instead of {len(columns)}"
            raise UserError(f"{path}, line {reader.line_num}: {counts}; correct or remove it")
    reason = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
    raise UserError(f"{path} cannot be parsed ({reason}); look for an unclosed quote")


def _records(text, separator, quoting=csv.QUOTE_MINIMAL):
    """A csv.reader of a text: slow, but it counts lines. For headers and messages."""
    csv.field_size_limit(2**31 - 1)  # the largest that every platform takes
    return csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting)


def _line_of_record(text, separator, quoting, number):
    """Line, from 1, of the record `number`, from 0. Blank lines are no records."""
    reader = _records(text, separator, quoting)
    records = (reader.line_num for record in reader if any(field.strip() for field in record))
    return next(line for index, line in enumerate(records) if index == number)


def _read_lightgcn(path, text):
    """Read lines of a user and its items. A user without items is allowed."""
    if broken := re.search(r"[^0-9\s]", text):
        line = text.count("\n", 0, broken.start()) + 1
        raise UserError(
            f"{path}, line {line}: {broken.group()!r} in a line of integers "
            "(user item item ...); correct it"
        )
    lines = [tokens for line in text.split("\n") if (tokens := line.split())]
    users = np.array([tokens[0] for tokens in lines], dtype=object)
    items = np.array(list(chain.from_iterable(tokens[1:] for tokens in lines)), dtype=object)
    return np.repeat(users, [len(tokens) - 1 for tokens in lines]), items, None
