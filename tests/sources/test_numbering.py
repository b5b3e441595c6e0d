"""Numbers of users and items: in the order of their ids, over all files of a data set."""

import numpy as np
import pyarrow as pa
import pytest

from cli.errors import UserError
from sources.numbering import number_ids, warn_of_unknown
from sources.tables import TEXT

FILES = ["one.csv", "two.csv", "three.csv"]


def texts(*values):
    return pa.array([v if isinstance(v, bytes) else v.encode() for v in values]).cast(TEXT)


def test_ids_are_numbered_over_files_and_blocks():
    ids, numbers = number_ids(
        [[texts("b", "a", "b"), texts("c")], [], [texts("a", "d")]], "user", FILES
    )
    assert ids == ["a", "b", "c", "d"]
    assert [part.tolist() for part in numbers] == [[1, 0, 1, 2], [], [0, 3]]
    assert number_ids([[], []], "user", FILES)[0] == []


def test_values_of_a_dictionary_that_no_row_has_are_no_ids():
    block = pa.DictionaryArray.from_arrays(
        pa.array([2, 2], pa.int32()), pa.array([b"a", b"b", b"c"])
    )
    ids, numbers = number_ids([[block]], "user", FILES)
    assert (ids, numbers[0].tolist()) == (["c"], [0, 0])


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["10", "9", "007", "7", "18446744073709551616", "0", "00", "7" * 5000],
         ["0", "00", "007", "7", "9", "10", "18446744073709551616", "7" * 5000]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["10", "9", "-1"], ["-1", "10", "9"]),
        (["é", "z", "日本", "Z", " a"], [" a", "Z", "z", "é", "日本"]),
        (["NA", "nan", "None", "true"], ["NA", "None", "nan", "true"]),
    ],
)  # fmt: skip
def test_order(given, ordered):
    """As numbers if each has digits only, else as text."""
    assert number_ids([[texts(*given)]], "user", FILES)[0] == ordered
    assert sorted(given) == ordered or all(text.isdigit() for text in given)


def test_one_number_in_two_spellings():
    with pytest.raises(
        UserError,
        match=r"the users '1' \(one.csv\) and '1.0' \(two.csv\) may be one, spelled in .*--format",
    ):
        number_ids([[texts("1", "2")], [texts("1.0")]], "user", FILES)
    assert number_ids([[texts("1", "1.0")]], "user", FILES, as_spelled=True)[0] == ["1", "1.0"]
    assert number_ids([[texts("1.0", "2.0", "1.5", "10")]], "user", FILES)[0] == [
        "1.0",
        "1.5",
        "10",
        "2.0",
    ]


def test_latin_1_is_said_and_a_mix_is_refused(caplog):
    assert number_ids([[texts(b"\xe9", b"a")]], "item", FILES)[0] == ["a", "é"]
    assert (
        "warning: the ids of items are not UTF-8; they are read as Latin-1, for example 'é'"
        in caplog.text
    )
    with pytest.raises(
        UserError, match=r"the id b'\\xe9' of a item is not UTF-8 text, as 'é' is; convert"
    ):
        number_ids([[texts(b"\xe9", "é")]], "item", FILES)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["3", "5"], ["0004", "0005", "0009"], "the one has '0005', the other '5'"),
        (["u1", "u2"], ["zz", "u2 "], "the one has 'u2 ', the other 'u2'"),
        (["a", "b"], ["c", "d", "e", "a"], "3 of 4 users of test.csv are not in train.csv: the on"),
        (["a", "b"], ["c", "a"], None),
        (["a", "b"], [], None),
        ([], ["a"], None),
    ],
)
def test_users_that_training_may_spell_otherwise(caplog, train, test, said):
    ids = sorted({*train, *test})
    masks = (np.array([one in part for one in ids], bool) for part in (train, test))
    warn_of_unknown(ids, *masks, "user", {"train": "train.csv", "test": "test.csv"})
    assert len(caplog.messages) == bool(said)
    assert (said or "") in caplog.text
