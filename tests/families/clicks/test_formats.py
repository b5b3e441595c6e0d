"""Where clicks come from: columns of a table, MovieLens 1M as clicks, Criteo's log, the demo."""

import gzip
import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
from tools import write

from cli.errors import UserError
from families.clicks import formats
from families.clicks.dataset import load_clicks
from sources.demo import CLICK_FIELDS, demo_clicks


def find(name, folder, **flags):
    return formats.find_clicks(
        name,
        folder,
        **{"label": None, "categorical": None, "numeric": None} | flags,
        download=False,
    )


TABLE = "user_id,when,Clicked,price\n" + "".join(
    f"u{n % 5},{n},{n % 2},{n % 9}\n" for n in range(40)
)


def test_columns_of_a_table(tmp_path):
    path = write(tmp_path / "shop" / "log.csv", TABLE)
    name, folder, files, log = find("SHOP", tmp_path)
    assert (name, folder, files) == ("shop", tmp_path / "shop", [path])
    assert (log.label, log.fields, log.numeric, log.user) == (
        "Clicked",
        ["user_id", "when", "price"],
        set(),
        "user_id",
    )
    log = find("shop", tmp_path, numeric=["price"])[3]
    assert (log.fields, log.numeric) == (["user_id", "when", "price"], {"price"})
    log = find("shop", tmp_path, numeric=["price"], categorical=["when"])[3]
    assert (log.fields, log.numeric, log.user) == (["when", "price"], {"price"}, "user_id")
    log = find("shop", tmp_path, label="price")[3]
    assert (log.label, log.fields) == ("price", ["user_id", "when", "Clicked"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"label": "x"}, "has no column 'x' for --label; it has user_id, when, Clicked, price"),
        ({"numeric": ["price", "y"]}, "no column 'y' for --numeric"),
        ({"categorical": ["z"]}, "no column 'z' for --categorical"),
        ({"categorical": ["when"], "numeric": ["when"]}, "'when' is named twice"),
        ({"numeric": ["Clicked"]}, "'Clicked' is named twice"),
    ],
)
def test_wrong_columns(tmp_path, flags, message):
    write(tmp_path / "shop" / "log.csv", TABLE)
    with pytest.raises(UserError, match=message):
        find("shop", tmp_path, **flags)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a,b,c", "no column is called label or click"),
        ("label,b,b", "two columns have one name"),
        ("label", "no column beside the label"),
        ("", "does not begin with a header"),
    ],
)
def test_wrong_headers(tmp_path, header, message):
    write(tmp_path / "shop" / "log.csv", f"{header}\n1,2,3\n")
    with pytest.raises(UserError, match=message):
        find("shop", tmp_path)


@pytest.mark.parametrize("separator", ["\t", ";", ","])
def test_separators_and_quotes(tmp_path, separator):
    lines = [
        separator.join(['"a, b"', "label"]),
        *(separator.join([f"x{n % 3}", str(n % 2)]) for n in range(40)),
    ]
    write(tmp_path / "shop" / "log.tsv", "\n".join(lines) + "\n")
    data = load_clicks("shop", tmp_path)
    assert (data.fields, data.sizes) == (["a, b"], [4])


def test_which_file(tmp_path):
    with pytest.raises(UserError, match="no data set 'shop'"):
        find("shop", tmp_path)
    (tmp_path / "shop").mkdir()
    with pytest.raises(UserError, match=r"no data in .*shop; put a table with a header there"):
        find("shop", tmp_path)
    write(tmp_path / "shop" / "a.csv", TABLE)
    write(tmp_path / "shop" / "notes.md", "no data")
    assert find("shop", tmp_path)[2] == [tmp_path / "shop" / "a.csv"]
    write(tmp_path / "shop" / "b.txt", TABLE)
    with pytest.raises(UserError, match=r"holds a.csv and b.txt; name only the one to read clicks"):
        find("shop", tmp_path)
    write(tmp_path / "shop" / "clicks.csv", TABLE)
    assert find("shop", tmp_path)[2] == [tmp_path / "shop" / "clicks.csv"]


def test_criteo(tmp_path):
    with pytest.raises(UserError, match=r"get its train\.txt by hand"):
        find("Criteo", tmp_path)
    lines = [
        "\t".join([str(n % 2), *[str(n % 4)] * 13, *["%08x" % (n % 3)] * 26]) for n in range(100)
    ]
    write(tmp_path / "criteo" / "train.txt", "\n".join(lines) + "\n")
    write(tmp_path / "criteo" / "test.txt", "no labels here\n")
    data = load_clicks("criteo", tmp_path)
    assert data.counts() == {
        "rows": 100,
        "fields": 39,
        "values": sum(data.sizes),
        "train": 80,
        "valid": 10,
        "test": 10,
    }
    assert data.sizes == [4] * 13 + [4] * 26  # of 0, 1, 2, 3 the last has the bucket of 1
    assert not data.has_users
    with pytest.raises(UserError, match="--numeric is for a table with a header"):
        find("criteo", tmp_path, numeric=["I1"])


MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Léon (1994)::Crime\n3::No year::Drama\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072-1\n"
RATED = [(2, 1, 5, 300), (1, 2, 3, 100), (1, 1, 4, 200), (2, 3, 1, 200)]


def movielens(folder, times):
    """A small MovieLens 1M.

    times: whether they are with the ratings or, of the latest two, in a file of their own.
    """
    (folder / "ml-1m").mkdir()
    (folder / "ml-1m" / "movies.dat").write_bytes(MOVIES.encode("latin-1"))
    write(folder / "ml-1m" / "users.dat", USERS)
    if times:
        lines = ["::".join(map(str, row)) for row in RATED]
        write(folder / "ml-1m" / "ratings.dat", "\n".join(lines) + "\n")
    else:
        text = "\n".join("::".join(map(str, row[:3])) for row in RATED) + "\n"
        (folder / "ml-1m" / "ratings_only.dat.gz").write_bytes(gzip.compress(text.encode()))
        write(
            folder / "ml-1m" / "latest_with_timestamp.csv",
            "user,item,rating,timestamp,split\n2,1,5,300,x\n1,1,4,200,x\n",
        )


@pytest.mark.parametrize(("times", "order"), [(True, [1, 2, 3, 0]), (False, [1, 3, 2, 0])])
def test_movielens_as_clicks(tmp_path, times, order):
    movielens(tmp_path, times)
    name, folder, files, source = find("ml-1m-ctr", tmp_path)
    assert (name, folder, len(files)) == ("ml-1m-ctr", tmp_path / "ml-1m", 3 + (not times))
    frame = source.make()
    assert frame.columns.tolist() == ["label", *source.fields]
    about = {
        1: ("1", "F", "1", "10", "480"),
        2: ("2", "M", "56", "16", "700"),
    }
    film = {1: ("199", "Animation"), 2: ("199", "Crime"), 3: ("", "Drama")}
    rows = []
    for user, movie, rating, _ in (RATED[place] for place in order):
        own, (decade, genre) = about[user], film[movie]
        rows.append([rating >= 4, own[0], str(movie), *own[1:], decade, genre])
    assert frame.to_numpy().tolist() == rows
    (block,) = source.blocks()
    assert (block.users == block.users[0]).tolist() == [row[1] == rows[0][1] for row in rows]


def test_movielens_without_what_it_takes(tmp_path):
    movielens(tmp_path, True)
    (tmp_path / "ml-1m" / "users.dat").unlink()
    with pytest.raises(UserError, match=r"users.dat is absent; unpack it from ml-1m.zip"):
        find("ml-1m-ctr", tmp_path)
    shutil.rmtree(tmp_path / "ml-1m")
    movielens(tmp_path, False)
    (tmp_path / "ml-1m" / "latest_with_timestamp.csv").unlink()
    with pytest.raises(UserError, match="has no times of ratings"):
        find("ml-1m-ctr", tmp_path)


def test_demo_is_the_same_everywhere():
    frame = demo_clicks()
    assert frame.columns.tolist() == ["label", *CLICK_FIELDS]
    lines = frame.to_csv(index=False, header=False).rstrip("\n")
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest[:16] == "30c1d0ad2b51f7b7"


def test_demo_drifts():
    frame = demo_clicks()
    period = pd.cut(
        np.arange(len(frame)), [0, 102_000, 110_400, 120_000], right=False, labels=False
    )
    rate = frame.pivot_table("label", "genre", period)
    change = rate.diff(axis=1).abs()[[1, 2]]
    assert (change > 0.1).sum().tolist() == [4, 4]
    assert (change < 0.05).sum().tolist() == [8, 8]


def test_real_criteo(real_data, tmp_path):
    shutil.copytree(real_data / "criteo", tmp_path / "criteo", copy_function=shutil.copyfile)
    data = load_clicks("criteo", tmp_path, threshold=10)
    labels = data.rows(0, 137_139)[1]
    assert (data.counts()["rows"], int(labels.sum())) == (137_139, 35_213)
    with gzip.open(next((tmp_path / "criteo").glob("*.gz")), "rt") as file:
        first = [line.split("\t")[16] for line, _ in zip(file, range(109_711), strict=False)]  # C3
    counts = pd.Series(first).value_counts()
    assert data.sizes[15] == 1 + (counts >= 10).sum()
    ids = data.rows(0, 109_711)[0][:, 15] - data.offsets[15]
    assert (np.bincount(ids)[1:] == np.sort(counts[counts >= 10].to_numpy())[::-1]).all()


def test_real_movielens(real_data, tmp_path):
    shutil.copytree(real_data / "ml-1m", tmp_path / "ml-1m", copy_function=shutil.copyfile)
    data = load_clicks("ml-1m-ctr", tmp_path)
    assert data.splits == {
        "train": (0, 800_167),
        "valid": (800_167, 900_188),
        "test": (900_188, 1_000_209),
    }
    assert data.has_users
    assert data.rows(0, 1_000_209)[1].mean() == pytest.approx(575_281 / 1_000_209)
