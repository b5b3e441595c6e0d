"""Histories: columns whose text holds several values, as the items that a user clicked before.

A history shares its values, ids and embeddings with a field, for example with that of the item. Of
each history there are LENGTH codes (or ids) a row, however many values it has.
Shapes: n texts, t values of all texts.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SEPARATOR = "^"  # between two values
LENGTH = 100  # the last values of a history, which are kept; as in BARS
NOTHING = -1  # code where a history has fewer values


def split_histories(texts):
    """Split the texts of histories into their values.

    texts (n,): object array of bytes

    Returns codes (n, LENGTH) int32, each an index into values or NOTHING, and the values, an object
    array of bytes. The values of a history are on the right. Empty values are left out.
    """
    lists = pc.split_pattern(pa.array(texts, pa.binary()), SEPARATOR)
    values = lists.values.dictionary_encode()
    text = np.repeat(np.arange(len(texts)), np.diff(lists.offsets))  # (t,) whose value it is
    code = values.indices.to_numpy()  # (t,)
    values = values.dictionary.to_numpy(zero_copy_only=False).astype(object)

    is_value = (values != b"")[code]
    text, code = text[is_value], code[is_value]
    end = np.bincount(text, minlength=len(texts)).cumsum()  # (n,) place of the value after its last
    place = LENGTH - (end[text] - np.arange(len(text)))
    is_kept = place >= 0
    codes = np.full((len(texts), LENGTH), NOTHING, np.int32)
    codes[text[is_kept], place[is_kept]] = code[is_kept]
    return codes, values


def columns_of(fields, histories):
    """The columns of each field, then of each history, among those of all rows: a list of slices.

    fields, histories: their names
    """
    first = len(fields)
    starts = range(first, first + LENGTH * len(histories), LENGTH)
    of_fields = [slice(place, place + 1) for place in range(first)]
    return of_fields + [slice(start, start + LENGTH) for start in starts]
