"""Finding the folder and the files of a data set."""

from pathlib import Path

import pytest
from tools import write

from cli.errors import UserError
from sources.folders import find_folder, find_sources


def found(folder, *names, **how):
    """{split: name of its file} of a folder with files of these names."""
    for name in names:
        write(folder / name, "x")
    sources = find_sources(folder.name, folder, download=False, **how)
    assert all(path.parent == folder for path in sources.values())
    return {split: path.name for split, path in sources.items()}


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (["train.csv", "test.csv"], {"train": "train.csv", "test": "test.csv"}),
        (
            ["train.parquet", "valid.json.gz", "Test.TXT"],
            {"train": "train.parquet", "valid": "valid.json.gz", "test": "Test.TXT"},
        ),
        (
            ["train.csv", "val.csv", "test.csv"],
            {"train": "train.csv", "valid": "val.csv", "test": "test.csv"},
        ),
        (
            ["train", "validation.tsv", "test"],
            {"train": "train", "valid": "validation.tsv", "test": "test"},
        ),
        (
            ["train.csv", "dev.csv", "test.csv"],
            {"train": "train.csv", "valid": "dev.csv", "test": "test.csv"},
        ),
        (["interactions.csv"], {"interactions": "interactions.csv"}),
        (["u.data", "u.item", "u.user", "u.genre", "u.info", "README"], {"interactions": "u.data"}),
        (["u.data", "u1.base", "u1.test", "ua.base", "ua.test"], {"interactions": "u.data"}),
        (["ratings.dat", "movies.dat", "users.dat"], {"interactions": "ratings.dat"}),
        (
            ["ratings.csv", "movies.csv", "tags.csv", "links.csv", "genome-tags.csv"],
            {"interactions": "ratings.csv"},
        ),
        (["ratings.txt", "trust.txt"], {"interactions": "ratings.txt"}),
        (
            ["ratings_without_timestamp.dat.gz", "movies.dat"],
            {"interactions": "ratings_without_timestamp.dat.gz"},
        ),
        (["Ratings.csv", "Books.csv"], {"interactions": "Ratings.csv"}),
        (["rating.csv", "movie.csv", "tag.csv"], {"interactions": "rating.csv"}),
        (["ml-100k.inter", "ml-100k.item", "ml-100k.user"], {"interactions": "ml-100k.inter"}),
        (["BX-Book-Ratings.csv"], {"interactions": "BX-Book-Ratings.csv"}),
        (["users.dat", "README"], {"interactions": "users.dat"}),  # citeulike
        (
            ["events.parquet", "about.json", "readme.md", ".DS_Store"],
            {"interactions": "events.parquet"},
        ),
        (["train.csv", "test.csv", "ratings.csv"], {"train": "train.csv", "test": "test.csv"}),
        (["train.csv", "test.csv", "train.indptr.npy"], {"train": "train.csv", "test": "test.csv"}),
        (["interactions.csv", "events.csv", "ratings.csv"], {"interactions": "interactions.csv"}),
        (["train.csv", "readme.txt"], {"interactions": "train.csv"}),
    ],
)
def test_files_of_a_folder(tmp_path, names, sources):
    assert found(tmp_path / "shop", *names) == sources


NEEDS = r"no data in .*shop; put a table of interactions there, or train.\* and test.\*"
CALL = r"a split needs train.\* and test.\*; else call the table to read interactions.\*"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], NEEDS),
        (["train.csv", "valid.csv"], f"shop holds train.csv, valid.csv; {CALL}"),
        (
            ["train.csv", "test.csv", "interactions.csv"],
            "shop holds interactions.csv, and train.csv and test.csv; move the one or the others",
        ),
        (
            ["train.csv", "train.txt", "test.csv"],
            "shop holds train.csv and train.txt; move all but one of them away",
        ),
        (
            ["train.csv", "val.csv", "dev.csv", "test.csv"],
            "shop holds dev.csv and val.csv; move all",
        ),
        (
            ["ratings.csv", "ratings.dat"],
            "shop holds ratings.csv and ratings.dat; move all but one",
        ),
        (["a.csv", "b.csv"], f"shop holds a.csv, b.csv; {CALL}"),
        (["readme.txt"], NEEDS),
    ],
)
def test_wrong_folders(tmp_path, names, message):
    (tmp_path / "shop").mkdir()
    with pytest.raises(UserError, match=message):
        found(tmp_path / "shop", *names)


def test_folds(tmp_path):
    names = "u.data", "u2.base", "u2.test.gz", "u3.base"
    assert found(tmp_path / "d", *names, fold=2) == {"train": "u2.base", "test": "u2.test.gz"}
    with pytest.raises(
        UserError, match=r"d has no fold 3: it needs u3.base and u3.test; leave --fold out"
    ):
        found(tmp_path / "d", fold=3)


def test_a_folder_is_found_as_spelled_before_any_other(tmp_path):
    """Also before a published name that differs in case."""
    (tmp_path / "gowalla").mkdir()
    assert find_folder("gowalla", tmp_path).name == "gowalla"
    assert find_folder("GOWALLA", tmp_path).name in ("gowalla", "Gowalla")
    (tmp_path / "Gowalla").mkdir()
    assert find_folder("gowalla", tmp_path).name == "gowalla"
    assert find_folder("Gowalla", tmp_path).name == "Gowalla"
    (tmp_path / "Shop").mkdir()
    assert find_folder("shop", tmp_path).name == "Shop"
    assert find_folder("YELP2018", tmp_path).name == "Yelp2018"  # a download will make it


def test_no_folder(tmp_path):
    (tmp_path / "shop").mkdir()
    message = (
        r"no data set 'shpo': .*absent; put files there, or choose one of demo, 100k, 1M, .*, shop$"
    )
    with pytest.raises(UserError, match=message):
        find_folder("shpo", tmp_path)


@pytest.mark.parametrize("name", ["../d", "d/", "", "..", "/d"])
def test_a_name_is_no_path(tmp_path, name):
    write(tmp_path / "d/train.csv", "x")
    with pytest.raises(UserError, match="is a path; give the folder's name only, and its place by"):
        find_folder(name, tmp_path)


@pytest.mark.parametrize("name", ["shop", "shop.csv", "data/shop.csv"])
def test_a_file_is_no_folder(work, name):
    write(work / "data/shop.csv", "user,item\na,x\n")
    said = "; data/shop.csv is a file: move it into a folder, as data/shop"
    with pytest.raises(UserError, match=said):
        find_folder(name, Path("data"))
