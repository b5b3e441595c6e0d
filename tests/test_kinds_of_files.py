"""Files as people have them, from the command line: each kind gives the same data set, or one line.

The same 60 ratings of 12 users and 10 items are written in each kind. What is read must have the
digest of the plain table.
"""

import gzip
import json

import pytest
from data_tools import arrow, parquet
from tools import write

from dataloader import load_dataset
from families import load_data
from parse import parse_args

ROWS = [
    (user, item, 1 + (user + item) % 5, 1_300_000_000 + 1000 * user + item)
    for user in range(12)
    for item in range(10)
    if (user * 7 + item * 3) % 2 == 0
]
PAIRS = {row[:2] for row in ROWS}
OF_USER = {user: " ".join(str(row[1]) for row in ROWS if row[0] == user) for user in range(12)}
NAMES = ["user", "item", "rating", "time"]


def lines(form, rows=ROWS, header=""):
    """A line for each row. form: a format string of u, i, r and t: user, item, rating and time"""
    text = "".join(form.format(u=u, i=i, r=r, t=t) + "\n" for u, i, r, t in rows)
    return header + "\n" * bool(header) + text


def objects(*names):
    """JSON lines of user, item, rating and time by these names, and a text."""
    rows = (dict(zip(names, row, strict=True)) | {"text": "x"} for row in ROWS)
    return "".join(json.dumps(row) + "\n" for row in rows)


# {kind: (name of the file, its content)}, read without a flag
KINDS = {
    "blanks": ("interactions.txt", lines("{u} {i} {r}")),
    "blanks and times": ("interactions.data", lines("{u} {i} {r} {t}")),
    "halves": ("ratings.txt", lines("{u} {i} {r}.5")),
    "count first": ("users.dat", "".join(f"5 {own}\n" for own in OF_USER.values())),
    "tabs": ("u.data", lines("{u}\t{i}\t{r}\t{t}")),
    "tabs with a header": ("a.tsv", lines("{u}\t{i}", header="user_id\titem_id")),
    "RecBole": ("rec.inter", lines("{u}\t{i}", header="user_id:token\titem_id:token")),
    "MovieLens": ("ratings.dat", lines("{u}::{i}::{r}::{t}")),
    "MovieLens 25M": ("ratings.csv", lines("{u},{i},{r},{t}", header="userId,movieId,rating,time")),
    "Kaggle": ("rating.csv", lines("{u},{i},{r}", header="userId,movieId,rating")),
    "pairs": ("interactions.csv", lines("{u},{i}")),
    "Amazon": ("ratings_Books.csv", lines("{u},{i},{r}.0,{t}")),
    "Book-Crossing": ("B.csv", lines('"{u}";"{i}";"{r}"', header='"User-ID";"ISBN";"Book-Rating"')),
    "Excel": ("book.csv", lines("{u};{i};{r},5", header="\ufeffsep=;\nuser;item;rating")),
    "JSON of Amazon": ("a.json", objects("reviewerID", "asin", "overall", "unixReviewTime")),
    "JSON of Yelp": ("review.json", objects("user_id", "business_id", "stars", "date")),
    "check-ins": (
        "c.txt",
        lines("{u}\t2010-10-10T23:55:{i}0Z\t30.23\t-97.8\t{i}").replace(":90", ":09"),
    ),
    "texts for ratings": ("s.csv", lines("{u},{i},Recommended", header="user,item,rating")),
    "pandas' index": ("data.csv", lines("{t},{u},{i}", header=",user,item")),
    "Parquet": ("events.parquet", parquet(NAMES, ROWS)),
    "Arrow": ("events.feather", arrow(NAMES, ROWS)),
}
ALL = [(user, item, int((user, item) in PAIRS), 0) for user in range(12) for item in range(10)]
# {kind: (name, content, flags)}
WITH_FLAGS = {
    "LightGCN": (
        "all.txt",
        "".join(f"{u} {own}\n" for u, own in OF_USER.items()),
        ["--format", "lightgcn"],
    ),
    "Taobao": ("a.csv", lines("{u},{i},7,pv,{t}"), ["--user_column", "1", "--item_column", "2"]),
    "two candidates": (
        "plays.csv",
        lines("{u},0,{i}", header="user_id,artist_id,track_id"),
        ["--item_column", "track_id"],
    ),
    "knowledge graph": ("ratings_final.txt", lines("{u}\t{i}\t{r}", ALL), ["--min_rating", "1"]),
    "labels": ("l.csv", lines("{u},{i},{r}", ALL, "user,item,label"), ["--min_rating", "1"]),
}


@pytest.fixture
def digest(work):
    """Of the plain table."""
    write(work / "datasets/plain/interactions.csv", "user,item\n" + lines("{u},{i}"))
    data = load_dataset("plain", work / "datasets")
    assert data.counts() == {"users": 12, "items": 10, "train": 48, "valid": 0, "test": 12}
    return data.digest


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", KINDS | WITH_FLAGS)
def test_kinds(work, digest, caplog, kind, compressed):
    caplog.set_level("INFO")
    name, content, *flags = (KINDS | WITH_FLAGS)[kind]
    content = content.encode() if isinstance(content, str) else content
    write(work / "datasets/d/x", "").unlink()
    path = work / "datasets/d" / (name + ".gz" * compressed)
    path.write_bytes(gzip.compress(content) if compressed else content)
    args = parse_args(["--dataset", "d", "--model", "Popularity", *(flags or [[]])[0]])
    assert load_data(args).digest == digest
    # The log names the format and the columns.
    (said,) = (text for text in caplog.messages if "-> user" in text or "lines of" in text)
    assert said.startswith(f"{path.relative_to(work)}: ")
    assert said.endswith(" rows")
    assert (": gzip: " in said) == compressed


def test_ratings_of_a_kind(work):
    """Decimal commas, in a table by semicolons, are ratings."""
    write(work / "datasets/d/book.csv", KINDS["Excel"][1])
    data = load_data(parse_args(["--dataset", "d", "--model", "SVD"]))
    assert data.train.nnz + data.test.nnz == 60
    assert sorted(set(data.train.data.tolist())) == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_latin_1(work, caplog):
    (work / "datasets/d").mkdir(parents=True)
    text = "user;item\n" + "".join(f"{row[0]};é{row[1]}\n" for row in ROWS)
    (work / "datasets/d/all.csv").write_bytes(text.encode("latin-1"))
    data = load_data(parse_args(["--dataset", "d", "--model", "Popularity"]))
    assert data.item_ids == [f"é{item}" for item in range(10)]
    assert "warning: the ids of items are not UTF-8; they are read as Latin-1" in caplog.text


@pytest.mark.parametrize("name", ["val", "validation", "dev", "VALID"])
def test_a_validation_file_of_any_name(work, name):
    for split, part in (("train", ROWS[:40]), (name, ROWS[40:50]), ("test", ROWS[50:])):
        write(work / f"datasets/d/{split}.csv", "user,item\n" + lines("{u},{i}", part))
    data = load_data(parse_args(["--dataset", "d", "--model", "Popularity", "--select", "valid"]))
    assert (data.train.nnz, data.valid.nnz, data.test.nnz) == (40, 10, 10)


def test_users_and_items_that_two_files_spell_in_two_ways(work, caplog):
    """Said once of the users, and of the items, which only blanks divide."""
    write(work / "datasets/d/train.csv", "user,item\n" + lines("{u},{i}"))
    test = [(user, item + 1, 0, 0) for user, item, *_ in ROWS if item < 9]
    write(work / "datasets/d/test.csv", "user,item\n" + lines("{u:04},{i} ", test))
    load_data(parse_args(["--dataset", "d", "--model", "Popularity"]))
    warnings = [text for text in caplog.messages if text.startswith("warning")]
    assert len(warnings) == 2
    assert (
        "warning: 12 of 12 users of datasets/d/test.csv are not in datasets/d/train.csv"
        in (warnings[0])
    )
    assert warnings[0].endswith(
        "the one has '0000', the other '0'; if they are spelled in two ways, write them alike"
    )
    assert "the one has '1 ', the other '1'" in warnings[1]


def test_a_folder_spelled_like_a_published_data_set(work):
    for name, own in (("gowalla", OF_USER), ("demo", OF_USER), ("Gowalla", {0: "1 2", 1: "2"})):
        text = "".join(f"{user} {items}\n" for user, items in own.items())
        write(work / f"datasets/{name}/train.txt", text)
        write(work / f"datasets/{name}/test.txt", "0 77\n1 78 79\n")
    for name, users in (("gowalla", 12), ("demo", 12), ("Gowalla", 2)):
        data = load_data(parse_args(["--dataset", name, "--model", "Popularity", "--no_download"]))
        assert (data.name, data.shape[0]) == (name, users)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (
            "user_id,artist_id,track_id\n1,2,3\n",
            [],
            "all.csv: several columns could be the item: artist_id, track_id; name one by --item_c",
        ),
        ("1,9,7,pv,3\n1,8,7,pv,4\n", [], "which is which, as --user_column 1 --item_column 2"),
        (
            "user,item,rating\n1,2,good\n1,3,\n",
            ["--model", "SVD"],
            "line 2 (and 1 more): 'good' is no rating; correct it, or take another --model",
        ),
        (
            "user,item\n1,2\n1,3\n",
            ["--model", "SVD"],
            "has no ratings among its columns user, item; name one by --rating_column, or take "
            "another --model",
        ),
        (
            "user,item\n1,2\n",
            ["--min_rating", 3],
            "columns user, item; name one by --rating_column",
        ),
        (
            "user,item\n1,2\n1,3\n",
            ["--split", "last"],
            "has no times among its columns user, item; name one by --time_column; or split it by "
            "--split random",
        ),
        (
            "user,item\n1,2\n1.0,3\n",
            [],
            "all.csv) and '1.0' (datasets/d/all.csv) may be one, spelled",
        ),
        ("0 5 6\n1 7 8\n", [], "(--format lightgcn), or a table (--format table)"),
        ("user,item\n1,2\n1\n", [], "line 3: 1 fields instead of 2"),
        ("user,item\n1,2\n,\n,\n", [], "line 3: is empty, or has separators only; remove such"),
    ],
)
def test_refused_in_one_line(cli, work, text, flags, message):
    write(work / "datasets/d/all.csv", text)
    status, stdout, stderr = cli("--dataset", "d", "--model", "Popularity", *flags)
    assert (status, stderr.count("\n")) == (2, 1)
    assert message in stderr
    assert "Traceback" not in stdout + stderr
    assert not (work / "runs").exists()
    assert not (work / "checkpoints").exists()
