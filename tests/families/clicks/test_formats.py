"""Where clicks come from: columns of a table, MovieLens 1M as clicks, Criteo's log, the demo."""

import gzip
import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tools import write

from cli.errors import UserError
from families.clicks import formats
from families.clicks.columns import Columns
from families.clicks.dataset import load_clicks
from sources.columns import Wanted
from sources.demo import CLICK_FIELDS, demo_clicks
from sources.readers import WANTED


def find(name, folder, wanted=WANTED, **flags):
    return formats.find_clicks(name, folder, Columns(**flags), wanted, download=False)


TABLE = "user_id,when,Clicked,price\n" + "".join(
    f"u{n % 5},{n},{n % 2},{n % 9}\n" for n in range(40)
)


def test_columns_of_a_table(tmp_path):
    path = write(tmp_path / "shop" / "log.csv", TABLE)
    found = find("SHOP", tmp_path)
    assert (found.name, found.folder) == ("shop", tmp_path / "shop")
    assert found.files == {"interactions": path}
    log = found.source
    assert (log.label, log.fields, log.numeric, log.user) == (
        "Clicked",
        ["user_id", "when", "price"],
        [],
        "user_id",
    )
    log = find("shop", tmp_path, numeric=["price", "user_id", "when"]).source
    assert log.fields == log.numeric == ["user_id", "when", "price"]
    log = find("shop", tmp_path, numeric=["price"], categorical=["when"]).source
    assert (log.fields, log.numeric, log.user) == (["when", "price"], ["price"], "user_id")
    log = find("shop", tmp_path, label="price").source
    assert (log.label, log.fields) == ("price", ["user_id", "when", "Clicked"])


def test_the_log_says_what_is_taken_for_what(tmp_path, caplog):
    """The first time, and when the encoded copy is read."""
    path = write(tmp_path / "shop" / "log.csv", TABLE.replace(",", ";"))
    columns = Columns(label="price", above=3, numeric=["when"], categorical=["user_id"])
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("INFO"):
            load_clicks("shop", tmp_path, columns=columns, validate=False, test_ratio=0.5)
        assert caplog.messages[0] == (
            f"{path}: table with a header, separator semicolon, quotation marks enclose fields: "
            "price -> label (a click if above 3), user_id -> user (for gAUC), 1 numeric field, "
            "1 categorical field, not used: Clicked"
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"label": "x"}, "has no column 'x' for --label; it has user_id, when, Clicked, price"),
        ({"numeric": ["price", "y"]}, "no column 'y' for --numeric"),
        ({"categorical": ["z"]}, "no column 'z' for --categorical"),
        ({"numeric": ["price,when"]}, "; separate names by blanks, as --numeric price when"),
        ({"categorical": ["when"], "numeric": ["when"]}, "'when' is named twice"),
        ({"numeric": ["Clicked"]}, "'Clicked' is named twice"),
        ({"wanted": Wanted(user="v")}, "no column 'v' for --user_column"),
        ({"wanted": Wanted(format="lightgcn")}, "--format lightgcn is for interactions"),
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
        ("label", "has one column only"),
        ("", "no column is called label or click .* --label: 1, 2, 3"),
        ("label,click,b", "several columns could be the label: label, click; name one by --label"),
        (
            "uid,label,user_id",
            "several columns could be the user: uid, user_id; name one by --user_column",
        ),
    ],
)
def test_wrong_headers(tmp_path, header, message):
    write(tmp_path / "shop" / "log.csv", f"{header}\n1,2,3\n")
    with pytest.raises(UserError, match=message):
        find("shop", tmp_path)


@pytest.mark.parametrize("names", ["label,a", "a,label", "label,0", "a b,label"])
def test_the_first_line_is_a_header(tmp_path, names):
    """Though its names occur among the values, or are numbers."""
    place = names.split(",").index("label")
    rows = [[str(n % 2), ("a", "b", "0", "1")[n % 4]] for n in range(40)]
    lines = [names, *(",".join(row if place == 0 else row[::-1]) for row in rows)]
    write(tmp_path / "shop" / "log.csv", "\n".join(lines) + "\n")
    data = load_clicks("shop", tmp_path)
    assert data.counts()["rows"] == 40
    assert data.fields == [name for name in names.split(",") if name != "label"]


def test_a_row_is_no_header(tmp_path):
    write(tmp_path / "shop" / "log.csv", "1,u5,3\n0,u6,4\n")
    with pytest.raises(UserError, match=r"the first line .* holds values; put a header"):
        find("shop", tmp_path, label="1")


def test_the_flag_chooses_the_user(tmp_path):
    write(tmp_path / "shop" / "log.csv", "uid,label,user_id\n1,0,3\n")
    assert find("shop", tmp_path, Wanted(user="user_id")).source.user == "user_id"
    assert find("shop", tmp_path, Wanted(user="1")).source.user == "uid"
    write(tmp_path / "shop" / "log.csv", "session_id,label\n1,0\n")
    assert find("shop", tmp_path).source.user is None


@pytest.mark.parametrize("separator", ["\t", ";", ",", "|"])
def test_separators_and_quotes(tmp_path, separator):
    name = "a_b" if separator == "\t" else '"a, b"'
    lines = [
        separator.join([name, "label"]),
        *(separator.join([f"x{n % 3}", str(n % 2)]) for n in range(40)),
    ]
    write(tmp_path / "shop" / "log.tsv", "\n".join(lines) + "\n")
    data = load_clicks("shop", tmp_path)
    assert (data.fields, data.sizes) == ([name.strip('"')], [4])


def test_recboles_table(tmp_path):
    lines = ["user_id:token\tx:float\tlabel:float", *(f"u{n}\t{n}\t{n % 2}.0" for n in range(40))]
    write(tmp_path / "shop" / "shop.inter", "\n".join(lines) + "\n")
    source = find("shop", tmp_path, numeric=["x"]).source
    assert (source.label, source.user) == ("label:float", "user_id:token")
    assert source.numeric == ["x:float"]
    assert load_clicks("shop", tmp_path).counts()["rows"] == 40


def test_fields_that_some_objects_lack_are_columns(tmp_path):
    rows = [{"clicked": n % 2 == 0, "ad": {"id": n}} for n in range(9)]
    rows[4]["x"] = 3
    write(tmp_path / "shop" / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    source = find("shop", tmp_path, numeric=["x"]).source
    assert (source.label, source.fields) == ("clicked", ["ad.id", "x"])
    (block,) = source.blocks()
    assert block.labels.tolist() == [1, 0] * 4 + [1]


def test_which_file(tmp_path):
    with pytest.raises(UserError, match="no data set 'shop'"):
        find("shop", tmp_path)
    (tmp_path / "shop").mkdir()
    with pytest.raises(UserError, match=r"no data in .*shop; put a table with a header there"):
        find("shop", tmp_path)
    write(tmp_path / "shop" / "a.csv", TABLE)
    write(tmp_path / "shop" / "notes.md", "no data")
    assert find("shop", tmp_path).files == {"interactions": tmp_path / "shop" / "a.csv"}
    write(tmp_path / "shop" / "b.txt", TABLE)
    with pytest.raises(UserError, match=r"holds a.csv, b.txt; .*call the table to read clicks\.\*"):
        find("shop", tmp_path)
    write(tmp_path / "shop" / "clicks.csv", TABLE)
    assert find("shop", tmp_path).files == {"interactions": tmp_path / "shop" / "clicks.csv"}


def test_a_file_of_any_name(tmp_path):
    """As Avazu's train.gz, which Kaggle gives without an ending that names a table."""
    (tmp_path / "avazu").mkdir()
    (tmp_path / "avazu" / "train.gz").write_bytes(gzip.compress(TABLE.encode()))
    write(tmp_path / "avazu" / "README", "about")
    assert load_clicks("avazu", tmp_path).counts()["rows"] == 40
    (tmp_path / "avazu" / "sampleSubmission.gz").write_bytes(gzip.compress(b"id,click\n"))
    without_labels = gzip.compress(TABLE.replace("Clicked", "C").encode())
    (tmp_path / "avazu" / "test.gz").write_bytes(without_labels)
    with pytest.raises(
        UserError, match=r"test\.gz has no column 'Clicked', the label, .*move it away: then train"
    ):
        load_clicks("avazu", tmp_path)


@pytest.mark.parametrize("name", ["demo", "ml-1m-ctr"])
def test_an_own_folder_goes_before_a_published_name(tmp_path, caplog, name):
    path = write(tmp_path / name / "log.csv", TABLE)
    with caplog.at_level("INFO"):
        assert load_clicks(name, tmp_path).counts()["rows"] == 40
    assert f"{path.parent} is read, not " in caplog.text
    assert find("DEMO", tmp_path).folder is None  # spelled otherwise


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
    for flag, columns in (("numeric", {"numeric": ["I1"]}), ("label_above", {"above": 0.0})):
        with pytest.raises(UserError, match=f"--{flag} is for a table with a header"):
            find("criteo", tmp_path, **columns)
    with pytest.raises(UserError, match="--separator is for a table with a header"):
        find("criteo", tmp_path, Wanted(separator=","))


MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Léon (1994)::Crime\n3::No year::Drama\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072-1\n"
RATED = [(2, 1, 5, 300), (1, 2, 3, 100), (1, 1, 4, 200), (2, 3, 1, 200)]


def movielens_1m(folder, times):
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
    movielens_1m(tmp_path, times)
    found = find("ml-1m-ctr", tmp_path)
    assert (found.name, found.folder) == ("ml-1m-ctr", tmp_path / "ml-1m")
    assert len(found.files) == len(found.about) == 3 + (not times)
    source = found.source
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
    movielens_1m(tmp_path, True)
    (tmp_path / "ml-1m" / "users.dat").unlink()
    with pytest.raises(UserError, match=r"users.dat is absent; unpack it from ml-1m.zip"):
        find("ml-1m-ctr", tmp_path)
    shutil.rmtree(tmp_path / "ml-1m")
    movielens_1m(tmp_path, False)
    (tmp_path / "ml-1m" / "latest_with_timestamp.csv").unlink()
    with pytest.raises(UserError, match="has no times of ratings"):
        find("ml-1m-ctr", tmp_path)


@pytest.mark.parametrize(
    ("times", "name", "change", "message"),
    [
        (True, "ratings.dat", ("::5::", "::five::"), r"ratings.dat: 'five' is no rating"),
        (True, "ratings.dat", ("::300", "::¹00"), r"ratings.dat: '.*¹00' is no time"),
        (False, "latest_with_timestamp.csv", (",300", ",2003"), None),
        (False, "latest_with_timestamp.csv", (",300", ",2e3"), r"timestamp.csv: '2e3' is no time"),
        (False, "latest_with_timestamp.csv", ("1,1,4", "2,1,4"), r"user '2' and movie '1' twice"),
        (True, "users.dat", ("2::M", "1::M"), r"users.dat has user '1' twice; remove one"),
        (True, "movies.dat", ("2::", "3::"), r"movies.dat has movie '3' twice; remove one"),
    ],
)
def test_movielens_with_mistakes(tmp_path, times, name, change, message):
    """A user who is there twice would have each rating twice."""
    movielens_1m(tmp_path, times)
    path = tmp_path / "ml-1m" / name
    path.write_bytes(path.read_bytes().replace(*(text.encode() for text in change), 1))
    source = find("ml-1m-ctr", tmp_path).source
    if message is None:
        assert len(source.make()) == 4
        return
    with pytest.raises(UserError, match=message):
        source.make()


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
