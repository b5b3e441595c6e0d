"""The parsed copy: as the files were read, made again when they change, never trusted blindly."""

import os
import shutil

import numpy as np
import pytest
from tools import write

from sources.cache import read_cached
from sources.columns import Wanted
from sources.readers import WANTED

TRAIN = "user,item,rating,timestamp\nbob,x,3,1.5\namy,y,,\nbob,10,5,2\nbob,x,1,9\n"
TEST = "user,item,rating,timestamp\namy,x,1,2020-01-01\nzoe,new,2,2020-01-02\n"


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "d/train.csv", TRAIN)
    write(tmp_path / "d/test.csv", TEST)
    return tmp_path / "d"


def read(folder, wanted=WANTED):
    return read_cached(folder, {"train": folder / "train.csv", "test": folder / "test.csv"}, wanted)


def same(first, second):
    """Assert that two Parsed are equal."""
    for name in ("user_ids", "item_ids", "unit", "about", "gaps"):
        assert getattr(first, name) == getattr(second, name), name
    assert first.pairs.keys() == second.pairs.keys()
    for split, pairs in first.pairs.items():
        for name, array in vars(pairs).items():
            other = getattr(second.pairs[split], name)
            np.testing.assert_array_equal(array, other, err_msg=f"{split} {name}")
            assert np.asarray(array).dtype == np.asarray(other).dtype


def copies(folder):
    return sorted((folder / ".cache").iterdir())


def test_what_is_parsed(folder):
    parsed = read(folder)
    assert (parsed.user_ids, parsed.item_ids) == (["amy", "bob", "zoe"], ["10", "new", "x", "y"])
    train = parsed.pairs["train"]
    assert (train.indptr.tolist(), train.items.tolist()) == ([0, 1, 4, 4], [3, 0, 2, 2])
    assert train.places.tolist() == [1, 2, 0, 3]
    assert parsed.unit == "us"  # dates in one of the files
    assert train.times.tolist()[1:] == [2_000_000, 1_500_000, 9_000_000]
    np.testing.assert_array_equal(train.ratings, [np.nan, 5, 3, 1])
    assert parsed.about["train"].endswith("timestamp -> time; 4 rows")
    assert parsed.gaps["train"]["rating"] == ", line 3: '' is no rating; correct it"


def test_the_copy_is_used_and_is_the_same(folder, monkeypatch, caplog):
    caplog.set_level("INFO")
    first = read(folder)
    said = list(caplog.messages)
    assert said == [f"{folder / f'{split}.csv'}: {text}" for split, text in first.about.items()]
    caplog.clear()
    monkeypatch.setattr("sources.cache.read_files", None)  # reading the files would fail
    again = read(folder)
    same(first, again)
    assert caplog.messages == said  # also of a copy
    assert isinstance(again.pairs["train"].items.base, np.memmap)
    again.pairs["train"].items[0] = 7  # whoever writes gets a page of its own
    same(first, read(folder))


@pytest.mark.parametrize(
    "name", ["about.json", "user_ids.json", "train.items.npy", "test.times.npy"]
)
def test_a_damaged_copy_is_made_again(folder, caplog, name):
    first = read(folder)
    (copy,) = copies(folder)
    whole = (copy / name).read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damage in (whole[:middle], flipped, b"", b"[]"):
        (copy / name).write_bytes(damage)
        same(first, read(folder))
        assert (copy / name).read_bytes() == whole
    (copy / name).unlink()
    same(first, read(folder))
    assert caplog.text.count(f"the parsed copy {copy} is damaged (") == 5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train.items.npy", lambda array: array + 1),
        ("train.items.npy", lambda array: array - 1),
        ("train.items.npy", lambda array: array[:-1]),
        ("train.items.npy", lambda array: array * 1.0),
        ("train.indptr.npy", lambda array: array[::-1]),
        ("train.indptr.npy", lambda array: array[1:]),
        ("test.places.npy", lambda array: array + 1),
        ("test.times.npy", lambda array: array[:1]),
        ("test.ratings.npy", lambda array: array.astype(int)),
    ],
)
def test_a_copy_that_contradicts_itself(folder, caplog, monkeypatch, name, change):
    """Also where its checksums are right."""
    whole, numpy_save = read(folder), np.save
    (copy,) = copies(folder)
    shutil.rmtree(copy)

    def save(path, array, **how):
        numpy_save(path, change(array) if path.name == name else array, **how)

    with monkeypatch.context() as patch:
        patch.setattr("sources.cache.np.save", save)
        read(folder)
    same(whole, read(folder))
    assert f"the parsed copy {copy} is damaged (" in caplog.text
    assert " does not fit the others); reading the files again" in caplog.text
    caplog.clear()
    same(whole, read(folder))
    assert "damaged" not in caplog.text


def test_the_copy_follows_the_content_of_the_files(folder):
    first = read(folder)
    (copy,) = copies(folder)
    status = (folder / "train.csv").stat()
    write(folder / "train.csv", TRAIN.replace("bob", "bib"))
    os.utime(folder / "train.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read(folder).user_ids == ["amy", "bib", "zoe"]
    assert copies(folder) != [copy]
    assert len(copies(folder)) == 1  # the outdated copy is gone
    write(folder / "train.csv", TRAIN)
    same(first, read(folder))


def test_a_copy_for_each_way_to_read(folder):
    first = read(folder)
    turned = read(folder, Wanted(user="item", item="user"))
    assert turned.user_ids == first.item_ids
    assert len(copies(folder)) == 2
    same(first, read(folder))
    write(folder / "train.csv", TRAIN + "zoe,x,1,2\n")
    read(folder)
    assert len(copies(folder)) == 1


def test_an_older_copy_of_the_same_files_is_removed(folder):
    write(folder / ".cache/train.csv+test.csv.0123456789abcdef.npz", "of an earlier version")
    write(folder / ".cache/train.csv+other.csv.0123456789abcdef/about.json", "of other files")
    read(folder)
    names = [path.name for path in copies(folder)]
    assert "train.csv+test.csv.0123456789abcdef.npz" not in names
    assert "train.csv+other.csv.0123456789abcdef" in names


def test_a_folder_where_no_copy_can_be_written(folder, caplog):
    write(folder / ".cache", "a file where the folder would be")
    assert read(folder).user_ids == ["amy", "bob", "zoe"]
    assert "no parsed copy kept" in caplog.text


def test_copies_of_a_folder_that_has_moved(folder, tmp_path, monkeypatch):
    first = read(folder)
    shutil.copytree(folder, tmp_path / "other")
    monkeypatch.setattr("sources.cache.read_files", None)
    same(first, read(tmp_path / "other"))
