"""Number the users and items of a data set from 0, in the order of their ids.

Shapes: n interactions of a file, d distinct ids.
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cli.errors import UserError

log = logging.getLogger("onebp")


def number_ids(columns, what, files, as_spelled=False):
    """Number ids over all files of a data set.

    columns: for each file a list of pyarrow arrays of type sources.tables.TEXT
    what: "user" or "item", for messages
    files: name of each file, for messages
    as_spelled: whether "1" and "1.0" are two ids; else they are refused

    Returns (the ids, sorted; for each file their numbers (n,) int32). Ids are sorted as numbers if
    each has digits only, else as text. Raises UserError for ids that are not clear.
    """
    chunks = [chunk for column in columns for chunk in column]
    if not chunks:
        return [], [np.empty(0, np.int32) for _ in columns]
    unified = pa.chunked_array(chunks).unify_dictionaries()
    codes = [chunk.indices.to_numpy() for chunk in unified.chunks]

    # A dictionary may hold values that no row has.
    known = unified.chunk(0).dictionary
    used = np.zeros(len(known), bool)
    for part in codes:
        used[part] = True
    used = np.flatnonzero(used)
    texts = decoded(known.take(pa.array(used)), what)
    if not as_spelled and (two := _two_spellings(texts)):
        owners = np.repeat(np.arange(len(columns)), list(map(len, columns)))  # file of each chunk
        spelled = []
        for place in two:
            has_it = [bool((part == used[place]).any()) for part in codes]
            spelled.append(f"{texts[place].as_py()!r} ({files[owners[has_it.index(True)]]})")
        raise UserError(
            f"the {what}s {' and '.join(spelled)} may be one, spelled in two ways: write them "
            "alike; or say --format (csv, say) to take them for two"
        )
    order = _order(texts)
    position = np.empty(len(known), np.int32)
    position[used[order]] = np.arange(len(texts), dtype=np.int32)

    # Divide the numbers among the files again.
    numbers, first = [], 0
    for column in columns:
        own = codes[first : first + len(column)]
        first += len(column)
        numbers.append(np.concatenate([np.empty(0, np.int32), *(position[part] for part in own)]))
    return texts.take(pa.array(order)).to_pylist(), numbers


def sort_ids(ids):
    """Sort a list of ids as `number_ids` does."""
    texts = pa.array(ids, pa.string())
    return texts.take(pa.array(_order(texts))).to_pylist() if ids else []


def decoded(values, what):
    """Texts of bytes (d,): UTF-8, or Latin-1 with a warning if none of them is UTF-8 beyond ASCII.

    Raises UserError if some are UTF-8 and others are not.
    """
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        beyond = [value for value in values.to_pylist() if not value.isascii()]
    broken = [value for value in beyond if not _is_utf8(value)]
    if len(broken) < len(beyond):
        good = next(value for value in beyond if _is_utf8(value)).decode()
        raise UserError(
            f"the id {broken[0]!r} of a {what} is not UTF-8 text, as {good!r} is; "
            "convert the file to UTF-8"
        )
    text = "warning: the ids of %ss are not UTF-8; they are read as Latin-1, for example %r"
    log.warning(text, what, broken[0].decode("latin-1"))
    return pa.array([value.decode("latin-1") for value in values.to_pylist()], pa.string())


def _is_utf8(value):
    """Whether bytes are UTF-8 text."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _two_spellings(texts):
    """Places of two texts (d,) that are one number spelled in two ways, "1" and "1.0"; or ()."""
    decimal = texts.filter(pc.match_substring_regex(texts, r"^-?[0-9]+\.0+$"))
    if not len(decimal):
        return ()
    whole = pc.replace_substring_regex(decimal, r"\.0+$", "")
    both = decimal.filter(pc.is_in(whole, value_set=texts))
    if not len(both):
        return ()
    one = both[0].as_py()
    return pc.index(texts, one.split(".")[0]).as_py(), pc.index(texts, one).as_py()


def warn_of_unknown(ids, known, tested, what, sources):
    """Warn if the training file lacks most users or items of the test file: both may be one.

    ids: all users or items
    known, tested: masks (d,) of those of the training file and of the test file
    what: "user" or "item"
    sources: {split: file}
    """
    unknown = np.flatnonzero(tested & ~known)
    if 2 * len(unknown) <= tested.sum() or not known.any():
        return
    plain = {_plain(ids[place]): ids[place] for place in np.flatnonzero(known)[::-1]}
    alike = (ids[place] for place in unknown if _plain(ids[place]) in plain)
    example = next(alike, ids[unknown[0]])
    other = plain.get(_plain(example), ids[np.flatnonzero(known)[0]])
    text = (
        "warning: %d of %d %ss of %s are not in %s: the one has %r, the other %r; if they are "
        "spelled in two ways, write them alike"
    )
    files = sources["test"], sources["train"]
    log.warning(text, len(unknown), tested.sum(), what, *files, example, other)


def _plain(text):
    """An id without what programs may add or leave out: blanks, leading zeros, capitals."""
    return text.strip().lower().lstrip("0")


def _order(texts):
    """Indices (d,) that sort ids: as numbers if each has digits only, of any length; or as text."""
    if not pc.all(pc.match_substring_regex(texts, "^[0-9]+$")).as_py():
        return pc.sort_indices(texts).to_numpy()
    # Compare the number of digits without leading zeros, then the digits, then the spelling.
    digits = pc.utf8_ltrim(texts, "0")
    table = pa.table({"length": pc.binary_length(digits), "digits": digits, "text": texts})
    keys = [(name, "ascending") for name in table.column_names]
    return pc.sort_indices(table, sort_keys=keys).to_numpy()
