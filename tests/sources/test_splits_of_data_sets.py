"""Splits of whole data sets by the last of each user and by time; those of real data."""

import gzip
import shutil
from datetime import datetime, timezone

import pytest
from data_tools import slow_last, slow_latest, table
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import write

from cli.errors import UserError
from dataloader import load_dataset
from sources.filters import Choice


def times_of(rows, matrix_, data):
    """Times of the interactions of a split, whose pairs occur once."""
    users, items = matrix_.nonzero()
    return [
        rows[data.user_ids[user], data.item_ids[item]]
        for user, item in zip(users, items, strict=True)
    ]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 4), st.integers(0, 9)), st.integers(10, 30), min_size=9
    ),
    st.sampled_from([{}, {"test_ratio": 0.4}, {"test_from": "20"}]),
    st.sampled_from(["keep", "drop"]),
)
def test_no_leakage_in_a_data_set_split_by_time(tmp_path_factory, made, how, cold):
    """max(train times) <= min(valid times) <= max(valid times) <= min(test times)."""
    folder = tmp_path_factory.mktemp("data")
    rows = {(f"u{user}", f"i{item}"): time for (user, item), time in made.items()}
    lines = [(*pair, time) for pair, time in rows.items()]
    (folder / "d").mkdir()
    (folder / "d/all.csv").write_bytes(table(["user", "item", "time"], lines))
    choice = Choice(split="time", test_from=how.get("test_from"), cold_users=cold, cold_items=cold)
    refused = ""
    try:
        data = load_dataset(
            "d",
            folder,
            validate=True,
            valid_ratio=0.3,
            choice=choice,
            test_ratio=how.get("test_ratio"),
        )
    except UserError as error:
        refused = str(error)  # all at one time, say
    if refused:
        assert " interaction is left " in refused
        return
    train, valid, test = (
        times_of(rows, part, data) for part in (data.train, data.valid, data.test)
    )
    assert max(train) <= min(valid) <= max(valid) <= min(test)
    if "test_from" in how:
        assert max(train + valid) < 20 <= min(test)
    if cold == "keep":
        assert sorted(train + valid + test) == sorted(rows.values())
    else:
        known = set(data.train.nonzero()[0]), set(data.train.nonzero()[1])
        assert known == (set(range(data.shape[0])), set(range(data.shape[1])))


TIMED = "user,item,timestamp\n" + "".join(f"u{n % 7},i{n},{n * 1000 + n % 3}\n" for n in range(70))


def split_of(data, split):
    users, items = getattr(data, split).nonzero()
    return {(data.user_ids[u], data.item_ids[i]) for u, i in zip(users, items, strict=True)}


def test_last_in_a_data_set(tmp_path):
    write(tmp_path / "d/all.csv", TIMED)
    data = load_dataset("d", tmp_path, validate=True, choice=Choice(split="last", test_last=2))
    assert split_of(data, "test") == {(f"u{n % 7}", f"i{n}") for n in range(56, 70)}
    assert split_of(data, "valid") == {(f"u{n % 7}", f"i{n}") for n in range(42, 56)}
    assert split_of(data, "train") == {(f"u{n % 7}", f"i{n}") for n in range(42)}
    assert data.protocol == {
        "split": "test: the last 2 of each user; valid: the last 2 of each user of the rest",
        "unknown to training": "0 users (kept) and 14 items (kept) of the test split are not in "
        "training",
    }
    unvalidated = load_dataset("d", tmp_path, choice=Choice(split="last", test_last=2))
    assert split_of(unvalidated, "test") == split_of(data, "test")


def test_time_in_a_data_set(tmp_path):
    write(tmp_path / "d/all.csv", TIMED)
    data = load_dataset("d", tmp_path, choice=Choice(split="time"))
    assert split_of(data, "test") == {(f"u{n % 7}", f"i{n}") for n in range(56, 70)}
    assert data.protocol["split"] == "test: the latest 0.2"
    data = load_dataset(
        "d", tmp_path, test_ratio=0.5, validate=True, valid_ratio=0.2, choice=Choice(split="time")
    )
    assert split_of(data, "test") == {(f"u{n % 7}", f"i{n}") for n in range(35, 70)}
    assert split_of(data, "valid") == {(f"u{n % 7}", f"i{n}") for n in range(28, 35)}
    data = load_dataset("d", tmp_path, choice=Choice(split="time", test_from="1970-01-01T10:00:00"))
    assert split_of(data, "test") == {(f"u{n % 7}", f"i{n}") for n in range(36, 70)}
    data = load_dataset(
        "d", tmp_path, ratings=False, choice=Choice(split="time", test_from="68002")
    )
    assert split_of(data, "test") == {("u5", "i68"), ("u6", "i69")}
    assert data.protocol["split"] == "test: all from 68002 on"


def test_own_test_file_and_a_validation_split_by_time(tmp_path):
    write(tmp_path / "d/train.csv", TIMED)
    write(tmp_path / "d/test.csv", "user,item\nu1,new\n")  # needs no times
    for split, held_out in (("time", range(63, 70)), ("last", range(63, 70))):
        data = load_dataset("d", tmp_path, validate=True, choice=Choice(split=split))
        assert split_of(data, "valid") == {(f"u{n % 7}", f"i{n}") for n in held_out}
        assert split_of(data, "test") == {("u1", "new")}
        with pytest.raises(
            UserError, match=r"--split does not apply: .*test.csv is the test split"
        ):
            load_dataset("d", tmp_path, choice=Choice(split=split))
    with pytest.raises(
        UserError, match=r"--test_from does not apply: .*test.csv is the test split"
    ):
        load_dataset("d", tmp_path, validate=True, choice=Choice(split="time", test_from="3"))


@pytest.mark.parametrize("split", ["last", "time"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "user,item\na,x\na,y\n",
            "all.csv has no times among its columns user, item; name one by --time_column; or",
        ),
        (
            "user,item,time\na,x,5\na,y,\n",
            "all.csv, line 3: '' is no time; write a number, or 2011-11-21, or 2011-11-21 18:30:00"
            "; or split it by --split random",
        ),
        (
            "user,item,time\na,x,5\na,y,31.12.2020\nb,y,\n",
            r"all.csv, line 3 \(and 1 more\): '31.12.2020' is no time; write a number, or 2011-",
        ),
        (
            "user,item,time,timestamp\na,x,5,5\n",
            "all.csv: several columns could be the time: time, timestamp; name one by --time_col",
        ),
        ("0 1 2 3\n1 2\n", "all.csv has no times; or split it by --split random"),
    ],
)
def test_no_times(tmp_path, split, text, message):
    write(tmp_path / "d/all.csv", text)
    with pytest.raises(UserError, match=message):
        load_dataset("d", tmp_path, choice=Choice(split=split))


@pytest.mark.parametrize("piece", [20, 1 << 23])
def test_seconds_and_milliseconds_in_one_column(tmp_path, monkeypatch, caplog, piece):
    """Refused where a split needs times, whatever block they are in; else a warning."""
    monkeypatch.setattr("sources.tables.PIECE", piece)
    rows = ["a,x,881250949", "a,y,881250950", "b,x,881250949000", "b,y,881250950"]
    path = write(tmp_path / "d/all.csv", "\n".join(["user,item,time", *rows]) + "\n")
    said = (
        f"{path} has times in seconds and milliseconds: 881250949 (line 2) and 881250949000 "
        "(line 4); write all in one unit"
    )
    for _ in range(2):  # from the parsed copy, too
        with pytest.raises(UserError) as error:
            load_dataset("d", tmp_path, choice=Choice(split="last"))
        assert str(error.value) == f"{said}; or split it by --split random"
    caplog.clear()
    load_dataset("d", tmp_path, test_ratio=0.5)
    assert [text for text in caplog.messages if "warning" in text] == [f"warning: {said}"]


# On real data: u.data, and the latest ratings of MovieLens 1M.
def slow_split(rows, choice, test_ratio, valid_ratio):
    """{split: set of (user, item)} in plain Python; rows: (user, item, time), each pair once."""

    def divide(rows, ratio, start):
        if choice.split == "last":
            held_out = slow_last(rows, choice.test_last)
        elif start is not None:
            held_out = {place for place, row in enumerate(rows) if row[2] >= start}
        else:
            held_out = slow_latest(rows, ratio)
        rest = [row for place, row in enumerate(rows) if place not in held_out]
        return rest, {rows[place][:2] for place in held_out}

    start = choice.test_from and datetime.fromisoformat(choice.test_from)
    start = start and start.replace(tzinfo=timezone.utc).timestamp()
    rest, test = divide(rows, test_ratio, start)
    rest, valid = divide(rest, valid_ratio, None)
    return {"train": {row[:2] for row in rest}, "valid": valid, "test": test}


CHOICES = [
    Choice(split="last"),
    Choice(split="last", test_last=5),
    Choice(split="time"),
    Choice(split="time", test_from="1998-03-01"),
]


@pytest.mark.parametrize("choice", CHOICES, ids=["last", "last 5", "time", "date"])
@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_splits_of_real_data_equal_the_slow_reference(real_data, tmp_path, name, choice):
    folder = tmp_path / "real"
    folder.mkdir()
    if name == "ml-100k":
        shutil.copyfile(real_data / "ml-100k/u.data", folder / "u.data")
        lines = [line.split("\t") for line in (folder / "u.data").read_text().splitlines()]
    else:
        latest_fifth = "latest20pct_val_test_with_timestamp.csv.gz"
        shutil.copyfile(real_data / "ml-1m" / latest_fifth, folder / "ratings.csv")
        lines = gzip.decompress((folder / "ratings.csv").read_bytes()).decode().splitlines()[1:]
        lines = [line.split(",") for line in lines]
    rows = [(user, item, int(time)) for user, item, _, time, *_ in lines]
    if choice.test_from and name == "ml-1m":
        choice = Choice(split="time", test_from="2001-06-01")
    ratio = None if choice.split == "last" or choice.test_from else 0.3
    data = load_dataset(
        "real", tmp_path, test_ratio=ratio, validate=True, valid_ratio=0.15, choice=choice
    )
    expected = slow_split(rows, choice, ratio, 0.15)
    for split, pairs in expected.items():
        assert split_of(data, split) == pairs, split


def test_the_published_split_by_time_of_movielens_1m(real_data, tmp_path):
    """The file's own column divides its ratings by time, half and half."""
    (tmp_path / "real").mkdir()
    path = shutil.copyfile(
        real_data / "ml-1m/latest20pct_val_test_with_timestamp.csv.gz", tmp_path / "real/all.csv"
    )
    rows = [
        line.split(",") for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
    ]
    data = load_dataset("real", tmp_path, test_ratio=0.5, choice=Choice(split="time"))
    published = {tuple(row[:2]) for row in rows if row[4] == "test"}
    assert len(published) == data.test.nnz == 100_021
    assert split_of(data, "test") == published
