"""Which column is the user, the item, the rating and the time: by name, by content, by flag."""

import re

import pytest
from data_tools import json_lines, read, table
from tools import write

from cli.errors import UserError
from sources.columns import Wanted
from sources.readers import read_files


def columns_of(path, **wanted):
    """What is said about the columns of a file."""
    return (
        read_files([path], Wanted(**wanted))[0].about.split("fields: ")[-1].split("letters: ")[-1]
    )


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "Id,ProductId,UserId,ProfileName,Score,Time",
            "UserId -> user, ProductId -> item, Score -> rating, Time -> time",
        ),
        ("userID,artistID,weight", "userID -> user, artistID -> item, weight -> rating"),
        ("User-ID,ISBN,Book-Rating", "User-ID -> user, ISBN -> item, Book-Rating -> rating"),
        ("user_id,username,anime_id,my_score", "user_id -> user, anime_id -> item"),
        (
            "timestamp,visitorid,event,itemid",
            "visitorid -> user, itemid -> item, timestamp -> time",
        ),
        (
            "user_id,item_id,click,label,date",
            "user_id -> user, item_id -> item, label -> rating, date -> time",
        ),
        ("user_id,item_id,month,day", "user_id -> user, item_id -> item"),
        (
            "USER,ITEM,RATING,TIMESTAMP,label,date",
            "USER -> user, ITEM -> item, RATING -> rating, TIMESTAMP -> time",
        ),
        (
            "user_id:token,item_id:token,rating:float",
            "user_id:token -> user, item_id:token -> item, rating:float -> rating",
        ),
    ],
)
def test_by_name(tmp_path, header, said):
    rows = [[str(number)] * len(header.split(",")) for number in (1, 2)]
    path = tmp_path / "file"
    path.write_bytes(table(header.split(","), rows))
    assert columns_of(path) == said


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "user_id,timestamp,artist_id,track_id",
            "several columns could be the item: artist_id, track_id; name one by --item_column",
        ),
        (
            "user,uid,item",
            "several columns could be the user: user, uid; name one by --user_column",
        ),
        (
            "user,item,Item",
            "several columns could be the item: item, Item; name one by --item_column",
        ),
        (
            "user,title",
            "no column is known to be the item; it has user, title; name one by --item_column",
        ),
        (
            "order_id,item",
            "no column is known to be the user; it has order_id, item; name one by --user_column",
        ),
    ],
)
def test_refused_names(tmp_path, header, message):
    path = write(
        tmp_path / "file", header + "\n" + re.sub("[a-z_]+", "a", header, flags=re.I) + "\n"
    )
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value) == f"{path}: {message}"


def test_two_columns_for_the_rating_matter_only_if_one_is_needed(tmp_path):
    path = write(tmp_path / "file", "user,item,rating,stars,time,timestamp\na,x,1,2,3,4\n")
    (rows,) = read_files([path])
    assert rows.ratings is rows.times is None
    assert rows.gaps == {
        role: f": several columns could be the {role}: {names}; name one by --{role}_column"
        for role, names in (("rating", "rating, stars"), ("time", "time, timestamp"))
    }
    (rows,) = read_files([path], Wanted(rating="stars", time="6"))
    assert (rows.ratings.tolist(), rows.times.tolist(), rows.gaps) == ([2.0], [4], {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,x\nb,y\na,z\n", "column 1 -> user, column 2 -> item"),
        # Users with large numbers: too early, not in order, or beside a time.
        (
            "151603712,10,3\n251603713,20,4\n",
            "column 1 -> user, column 2 -> item, column 3 -> rating",
        ),
        (
            "1496861869,10,3\n1396861870,20,4\n",
            "column 1 -> user, column 2 -> item, column 3 -> rating",
        ),
        (
            "1396861869,10,1396861870\n1396861870,20,1396861870\n",
            "column 1 -> user, column 2 -> item, column 3 -> time",
        ),
        (
            "A00000XQ,B00000009,5.0,1300000000\n",
            "column 1 -> user, column 2 -> item, column 3 -> rating, column 4 -> time",
        ),
        (
            "0001713353,A1C6M8LCIX4M6M,5.0,1123804800\n",
            "column 2 -> user, column 1 -> item, column 3 -> rating, column 4 -> time",
        ),
        (
            "1488844,1,3,2005-09-06\n822109,1,5,2005-05-13\n",
            "column 1 -> user, column 2 -> item, column 3 -> rating, column 4 -> time",
        ),
        (
            "a,x,2005-09-06,3\nb,y,2005-05-13,5\n",
            "column 1 -> user, column 2 -> item, column 4 -> rating, column 3 -> time",
        ),
        (
            "151603712,10,1396861869\n51603713,20,1396861870\n",
            "column 1 -> user, column 2 -> item, column 3 -> time",
        ),
        (
            "1,2,3,4\n1,3,4,5\n",
            "column 1 -> user, column 2 -> item, column 3 -> rating, column 4 -> time",
        ),
        (
            "0\t2010-10-19T23:55:27Z\t30.23\t-97.79\t22847\n0\t2010-10-18T22:17:43Z\t30.26\t-97.7\t42\n",
            "column 1 -> user, column 5 -> item, column 2 -> time",
        ),
    ],
    ids=[
        "pairs",
        "early",
        "no order",
        "beside",
        "Amazon",
        "Amazon 2018",
        "Netflix",
        "time first",
        "time",
        "four",
        "check-ins",
    ],
)
def test_by_content(tmp_path, text, said):
    assert columns_of(write(tmp_path / "file", text)) == said


@pytest.mark.parametrize(
    "text",
    [
        "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n",  # Taobao
        '151603712,"The Elder Scrolls V",purchase,1.0,0\n151603712,Fallout,play,87,0\n',  # Steam
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09Z,214536500,0\n",  # Yoochoose
        "1396861869,12,13\n1396861870,12,14\n",  # the time first
        "2020-01-01,x,3\n2020-01-02,y,4\n",
        "00c2\t3bd7\tbetty blowtorch\t2137\n00c2\tf2fb\tdie Arzte\t1099\n",  # Last.fm
        "3,0,5,1,0,0\n0,0,1,2,2,0\n",  # a matrix
        "1\t2\t3\t4\t\n1\t3\t3\t4\t\n",
    ],
)
def test_columns_without_a_header_that_are_not_known(tmp_path, text):
    path = write(tmp_path / "file", text)
    with pytest.raises(UserError) as error:
        read(path)
    assert "columns and no header (first row " in str(error.value)
    assert str(error.value).endswith("say which is which, as --user_column 1 --item_column 2")
    sign = "\t" if "\t" in text else ","
    second = [line.replace('"', "").split(sign)[1] for line in text.splitlines()]
    assert [item for _, item in read(path, user="1", item="2")] == second


def test_by_flag(tmp_path):
    path = write(tmp_path / "file", "user,artist,track,plays\na,x,1,5\nb,y,2,6\n")
    assert read(path, item="track") == [("a", "1"), ("b", "2")]
    assert (
        columns_of(path, item="3", rating="plays") == "user -> user, track -> item, plays -> rating"
    )
    assert (
        columns_of(path, user="artist", item="track", rating="4")
        == "artist -> user, track -> item, plays -> rating"
    )
    path = write(tmp_path / "file", "a,play,x,5\nb,buy,y,6\n")
    assert (
        columns_of(path, user="1", item="3", time="4")
        == "column 1 -> user, column 3 -> item, column 4 -> time"
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"user": "who"}, " has no column 'who' for --user_column; it has user, item, user_id"),
        ({"user": "4"}, " has no column '4' for --user_column; it has user, item, user_id"),
        ({"user": "0"}, " has no column '0' for --user_column; it has user, item, user_id"),
        ({"user": "user", "item": "user"}, ": column 'user' is named as user and item"),
        (
            {"user": "user", "item": "item", "rating": "item"},
            ": column 'item' is named as item and rating",
        ),
    ],
)
def test_wrong_flags(tmp_path, wanted, message):
    path = write(tmp_path / "file", "user,item,user_id\na,x,1\n")
    with pytest.raises(UserError) as error:
        read(path, **wanted)
    assert str(error.value) == f"{path}{message}"


def test_a_field_of_json_that_all_objects_have_goes_before(tmp_path):
    """Steam's reviews: username and product_id always, user_id sometimes; so may be the rating."""
    path = tmp_path / "file"
    whole, part = ["username", "user_id", "product_id", "rating"], ["username", "product_id"]
    path.write_bytes(
        json_lines(part, [("a", "x")])
        + json_lines(whole, [("b", "7", "y", 4)])
        + json_lines(part, [("c", "z")])
    )
    (rows,) = read_files([path])
    assert rows.about == "JSON lines: username -> user, product_id -> item, rating -> rating"
    assert read(path) == [("a", "x"), ("b", "y"), ("c", "z")]
    assert rows.ratings[1] == 4
    assert rows.gaps["rating"] == ", line 1 (and 1 more): '' is no rating; correct it"
