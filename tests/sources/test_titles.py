"""Titles and genres by item, from one's own table and from MovieLens' files."""

import gzip

import pytest
from tools import interactions, write

from cli.errors import UserError
from dataloader import load_dataset
from sources.titles import item_titles


def named(data, name, items):
    object.__setattr__(data, "name", name)
    object.__setattr__(data, "item_ids", items)
    return data


@pytest.fixture
def data():
    return named(interactions({(0, 0)}, {(0, 1)}, (1, 3)), "shop", ["b", "a", "c"])


def test_own_table(work, data):
    assert item_titles(data, "datasets") is None
    write(
        work / "datasets/shop/items.csv",
        'Product ID,Title,Genres\na,"One, two",x|y\nb,NA,\na,again,z\n',
    )
    table = item_titles(data, "datasets")
    assert table["title"].tolist() == ["NA", "One, two", ""]
    assert table["genres"].tolist() == ["", "x|y", ""]
    write(work / "datasets/shop/items.csv", "item_id,title\nb,B\n")
    assert item_titles(data, "datasets")["genres"].tolist() == ["", "", ""]
    # fields absent at the end of a row
    write(work / "datasets/shop/items.csv", "item_id,title,genres\nb,B\na\n")
    assert item_titles(data, "datasets").to_numpy().tolist() == [["B", ""], ["", ""], ["", ""]]


@pytest.mark.parametrize(
    "text",
    [
        "item_id,name\na,b\n",
        "a,b\n1,2,3\n",
        "",
        "item_id,title,genres\na,Good, Bad,x\nb,B,y\n",  # a comma too many
        "item_id,title,genres\na,A,x,\nb,B,y,\n",
        "item_id,Title,title\na,B,C\n",
        "item_id,title,genres,Genres\na,B,C,D\n",
    ],
)
def test_broken_table(work, data, text):
    write(work / "datasets/shop/items.csv", text)
    with pytest.raises(UserError, match=r"items\.csv"):
        item_titles(data, "datasets")


def test_movielens(work):
    """Ids of their own: 100k's item 0 is the first item of u.data."""
    folder = work / "datasets/ml-100k"
    write(folder / "u.genre", "unknown|0\nComedy|1\nWar|2\n\n")
    (folder / "u.item").write_bytes(
        "7|Caf\xe9|x||url|0|1|1\n9|War|x||url|0|0|1\n".encode("latin-1")
    )
    write(folder / "u.data", "1\t9\t5\t0\n1\t7\t3\t0\n2\t9\t3\t0\n")
    data = named(interactions({(0, 0)}, {(0, 1)}, (1, 2)), "100k", ["0", "1"])
    assert item_titles(data, "datasets").to_numpy().tolist() == [
        ["War", "War"],
        ["Caf\xe9", "Comedy|War"],
    ]
    data = named(data, "ml-100k", ["9", "7", "8"])
    assert item_titles(data, "datasets")["title"].tolist() == ["War", "Caf\xe9", ""]
    (work / "datasets/ml-1m").mkdir()
    (work / "datasets/ml-1m/movies.dat").write_bytes(b"3::Heat (1995)::Action|Crime\n")
    table = item_titles(named(data, "ml-1m", ["3"]), "datasets")
    assert table.to_numpy().tolist() == [["Heat (1995)", "Action|Crime"]]


MOVIES = (
    "movieId,title,genres\r\n"
    '1,"Amélie, or ""Le Fabuleux Destin"" (2001)",Comedy|Romance\r\n'
    "3,七人の侍 (1954),(no genres listed)\r\n"
)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["movies.csv", "movies.csv.gz"])
def test_movies_csv(work, name, mark):
    """MovieLens' newer files: a header, CSV quotes, UTF-8, also beside ratings.csv in gzip."""
    data = named(interactions({(0, 0)}, {(0, 1)}, (1, 3)), "small", ["3", "1", "2"])
    path = write(work / "datasets/small" / name, "")
    content = (mark + MOVIES).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert item_titles(data, "datasets").to_numpy().tolist() == [
        ["七人の侍 (1954)", ""],
        ['Amélie, or "Le Fabuleux Destin" (2001)', "Comedy|Romance"],
        ["", ""],
    ]
    # a table of one's own comes first
    write(work / "datasets/small/items.csv", "item_id,title\n3,Mine\n")
    assert item_titles(data, "datasets")["title"].tolist() == ["Mine", "", ""]


def test_interactions_are_no_titles(work, data):
    """A table with users and without titles, whatever its name."""
    write(work / "datasets/shop/items.csv", "user,item\nu,a\n")
    assert item_titles(data, "datasets") is None
    write(work / "datasets/shop/movies.csv", "movieId,title\na,A\n")
    assert item_titles(data, "datasets")["title"].tolist() == ["", "A", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_movielens_in_either_encoding(work, encoding):
    """Published in Latin-1; copies converted to UTF-8 are about."""
    data = named(interactions({(0, 0)}, {(0, 1)}, (1, 2)), "old", ["1", "2"])
    folder = work / "datasets/old"
    write(folder / "u.genre", "unknown|0\nDrama|1\n")
    item = "1|Léon (1994)|x|0|1\n2|unknown||1|0\n".encode(encoding)
    (folder / "u.item.gz").write_bytes(gzip.compress(item))
    expected = [["Léon (1994)", "Drama"], ["unknown", ""]]
    assert item_titles(data, "datasets").to_numpy().tolist() == expected
    (folder / "u.item.gz").unlink()
    movies = "1::Léon (1994)::Drama\n2::unknown::(no genres listed)\n"
    (folder / "movies.dat").write_bytes(movies.encode(encoding))
    assert item_titles(data, "datasets").to_numpy().tolist() == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("u.item", b"1\n2\n"),
        ("movies.dat", b"1::Heat\n"),
        ("items.csv", b"\xff\xfe\x00"),
        ("movies.csv", b"movieId,genres\n1,Drama\n"),
        ("movies.csv.gz", b"\x1f\x8b\x08"),
        ("movies.csv", b'movieId,title\n1,Heat\n2,"Up\n3,Alien\n4,Brazil\n5,Her"\n'),
        ("items.csv", b'item_id,title\n1,"Heat\n2,Up\n'),
    ],
)
def test_broken_files(work, data, name, content):
    write(work / "datasets/shop/u.genre", "unknown|0\n")
    (work / "datasets/shop" / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        item_titles(data, "datasets")


def test_ratings_cut_off(work):
    write(work / "datasets/ml-1m/movies.dat", "1::Heat::Crime\n")
    (work / "datasets/ml-1m/ratings.dat.gz").write_bytes(gzip.compress(b"1::1::5\n" * 1000)[:-20])
    with pytest.raises(UserError, match=r"ratings\.dat\.gz"):
        item_titles(named(interactions({(0, 0)}, {(0, 1)}, (1, 2)), "1M", ["0", "1"]), "datasets")


@pytest.mark.parametrize(("name", "original"), [("100k", "ml-100k"), ("1M", "ml-1m")])
def test_the_authors_numbering(real_data, name, original):
    """Against the maps that were derived from the rows themselves."""
    import csv

    with open(real_data / name / "item_map.csv") as file:
        numbers = dict(list(csv.reader(file))[1:])
    own = item_titles(load_dataset(name, real_data), real_data)["title"]
    first = {"100k": "Kolya (1996)", "1M": "One Flew Over the Cuckoo's Nest (1975)"}[name]
    assert own[0] == first
    data = named(interactions({(0, 0)}, {(0, 1)}, (1, 2)), original, list(numbers.values()))
    expected = item_titles(data, real_data)["title"]
    assert own.tolist() == [
        expected[list(numbers).index(item)] for item in load_dataset(name, real_data).item_ids
    ]
