"""Data sets by name: their own files, ratios, ratings; the demo; the real files, where at hand."""

import gzip
import shutil
import time

import numpy as np
import pytest
from tools import random_matrix, write

from cli.errors import UserError
from dataloader import load_dataset
from families import load_data
from parse import parse_args
from sources.interactions import SPLITS

TRAIN, TEST = "user,item\nbob,x\namy,y\nbob,10\nbob,x\n", "user,item\namy,x\nzoe,new\n"


def pairs(data, part):
    users, items = getattr(data, part).nonzero()
    return {
        (data.user_ids[user], data.item_ids[item]) for user, item in zip(users, items, strict=True)
    }


def test_own_files(tmp_path):
    write(tmp_path / "Mine/train.csv", TRAIN)
    write(tmp_path / "Mine/test.csv", TEST)
    data = load_dataset("mine", tmp_path)  # any case
    assert data.name == "Mine"
    assert (data.user_ids, data.item_ids) == (["amy", "bob", "zoe"], ["10", "new", "x", "y"])
    # the duplicate counts once
    assert pairs(data, "train") == {("bob", "x"), ("amy", "y"), ("bob", "10")}
    assert pairs(data, "test") == {("amy", "x"), ("zoe", "new")}  # zoe and new are only here
    assert data.counts() == {"users": 3, "items": 4, "train": 3, "valid": 0, "test": 2}
    assert "1 users and 1 items without training" in data.describe()
    assert (data.train.data == 1).all()


def test_numeric_ids_are_numbered_as_numbers(tmp_path):
    huge = "7" * 5000
    write(tmp_path / "d/train.txt", f"10 2 30 {huge}\n9 2\n")
    write(tmp_path / "d/test.txt", "9 30 02\n")
    data = load_dataset("d", tmp_path)
    assert (data.user_ids, data.item_ids) == (["9", "10"], ["02", "2", "30", huge])


def test_digest_is_of_the_split_not_of_the_spelling(tmp_path):
    write(tmp_path / "a/train.csv", "user,item\n1,5\n0,3\n0,4\n")
    write(tmp_path / "b/train.txt", "0 4 3\n1 5\n")
    write(tmp_path / "c/train.txt", "0 4 3\n1 6\n")
    for name in "abc":
        write(tmp_path / f"{name}/test.txt", "0 5\n1 3\n")
    a, b, c = (load_dataset(name, tmp_path).digest for name in "abc")
    assert a == b != c


def test_one_file_is_split_and_validation_comes_from_training(tmp_path):
    whole = random_matrix()
    lines = "".join(f"u{user},i{item}\n" for user, item in zip(*whole.nonzero(), strict=True))
    write(tmp_path / "d/interactions.csv", "user,item\n" + lines)
    plain = load_dataset("d", tmp_path)
    assert plain.valid.nnz == 0
    assert plain.test.nnz / whole.nnz == pytest.approx(0.2, abs=0.01)
    valid = load_dataset("d", tmp_path, validate=True, valid_ratio=0.3)
    assert pairs(valid, "test") == pairs(plain, "test")
    assert pairs(valid, "train") | pairs(valid, "valid") == pairs(plain, "train")
    assert valid.valid.nnz / plain.train.nnz == pytest.approx(0.3, abs=0.01)
    assert len({plain.digest, valid.digest, load_dataset("d", tmp_path, split_seed=1).digest}) == 3


def test_given_validation_file(tmp_path):
    write(tmp_path / "d/train.csv", TRAIN)
    write(tmp_path / "d/valid.csv", "user,item\nbob,y\n")
    write(tmp_path / "d/test.csv", TEST)
    data = load_dataset("d", tmp_path, validate=True)
    assert pairs(data, "valid") == {("bob", "y")}
    with pytest.raises(UserError, match=r"--valid_ratio does not apply: .*valid.csv"):
        load_dataset("d", tmp_path, validate=True, valid_ratio=0.1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {},
            "no data set 'd': .*absent; put files there, or choose one of demo, 100k, 1M, Gowal",
        ),
        ({"notes.md": "x"}, "no data in .*; put a table of interactions there, or train"),
        ({"train.csv": TRAIN}, "no test interaction is left"),
        (
            {"train.csv": TRAIN, "test.csv": TEST + "bob,x\nbob,10\n"},
            r"'bob' with item '10' \(and 1 more\) is in both .*train.csv and .*test.csv; keep each "
            "pair in one of them, or leave them out of the second by --overlap drop",
        ),
        (
            {"train.csv": TRAIN, "valid.csv": "user,item\namy,y\n", "test.csv": TEST},
            "'amy' with item 'y' is in both .*valid",
        ),
        ({"train.csv": TRAIN, "test.csv": "user,item\n"}, "no test interaction"),
        ({"train.csv": "user,item\n", "test.csv": TEST}, "no train interaction"),
        ({"interactions.csv": "user,item\na,x\nb,y\n"}, "no test interaction"),
        ({"train.csv": "", "test.csv": TEST}, "train.csv is empty"),
        (
            {"train.csv": TRAIN, "test.csv": "user,item\n1,x\n1.0,y\n"},
            "test.csv.* may be one, spelled",
        ),
        ({"notes.txt": "x\n"}, r"notes.txt: line 1 \('x'\) has one column only"),
    ],
)
def test_wrong_data(tmp_path, files, message):
    for name, text in files.items():
        write(tmp_path / "d" / name, text)
    with pytest.raises(UserError, match=message) as error:
        load_dataset("d", tmp_path)
    assert "\n" not in str(error.value)


def test_ratio_for_a_data_set_that_is_split_already(tmp_path):
    write(tmp_path / "d/train.csv", TRAIN)
    write(tmp_path / "d/test.csv", TEST)
    with pytest.raises(UserError, match=r"--test_ratio does not apply: .*test.csv"):
        load_dataset("d", tmp_path, test_ratio=0.5)


def test_named_data_set_that_is_not_the_published_one(tmp_path, caplog):
    write(tmp_path / "100k/train.csv", TRAIN)
    write(tmp_path / "100k/test.csv", TEST)
    load_dataset("100k", tmp_path)
    assert "published: 943 users, 1682 items, 80000 train, 20000 test" in caplog.text


def test_demo_is_the_same_everywhere():
    data = load_dataset("demo", "nowhere")
    assert data.digest == "1c79019311c4c857f743bbdb127e2dac203779640adbef23597c0948a1cd4310"
    assert (
        load_dataset("demo", "nowhere", ratings=True).digest
        == "f3df9d5036feb869c2e8c5caaf65718d3dab70ff178dd6131d62d0f1e0ef8fe7"
    )
    assert data.shape == (600, 900)
    assert 35_000 < sum(getattr(data, part).nnz for part in SPLITS) < 45_000
    popularity = np.sort(np.asarray(data.train.sum(axis=0)))
    # a tenth of the items outweighs the tail
    assert popularity[-90:].sum() > 2 * popularity[:450].sum()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("100k", (943, 1682, 80_000, 20_000)),
        ("1M", (6040, 3706, 800_193, 200_016)),
        ("Gowalla", (29_858, 40_981, 810_128, 217_242)),
        ("Yelp2018", (31_668, 38_048, 1_237_259, 324_147)),
    ],
)
def test_real_data(real_data, tmp_path, caplog, name, counts):
    shutil.copytree(real_data / name, tmp_path / name, copy_function=shutil.copyfile)
    (tmp_path / name).chmod(0o755)
    data = load_dataset(name.lower(), tmp_path, download=False)
    begin = time.process_time()
    cached = load_dataset(name, tmp_path, download=False)
    assert time.process_time() - begin < 2  # 0.1 s, where a processor is quiet
    assert (*data.shape, data.train.nnz, data.test.nnz) == counts
    assert cached.digest == data.digest
    assert "warning" not in caplog.text


def rated(data, part):
    matrix = getattr(data, part).tocoo()
    users, items = matrix.coords
    ids = (
        (data.user_ids[user], data.item_ids[item]) for user, item in zip(users, items, strict=True)
    )
    return dict(zip(ids, matrix.data.tolist(), strict=True))


# 0 is a rating
RATINGS = "user,item,rating\n" + "".join(f"u{n % 7},i{n},{n % 5}\n" for n in range(40))


def test_ratings_are_split_at_random_over_all_users(tmp_path):
    write(tmp_path / "d/interactions.csv", RATINGS)
    data = load_dataset("d", tmp_path, ratings=True)
    assert (data.train.nnz, data.valid.nnz, data.test.nnz) == (36, 0, 4)  # a tenth
    assert rated(data, "train") | rated(data, "test") == {
        (f"u{n % 7}", f"i{n}"): n % 5 for n in range(40)
    }
    again, other = (load_dataset("d", tmp_path, ratings=True, split_seed=seed) for seed in (0, 1))
    assert rated(data, "test") == rated(again, "test") != rated(other, "test")
    assert data.digest == again.digest != other.digest
    third = load_dataset(
        "d", tmp_path, ratings=True, test_ratio=0.5, validate=True, valid_ratio=0.2
    )
    assert (third.train.nnz, third.valid.nnz, third.test.nnz) == (16, 4, 20)
    assert not rated(third, "train").keys() & (rated(third, "valid") | rated(third, "test")).keys()
    # The test split does not depend on whether there is a validation split.
    assert rated(load_dataset("d", tmp_path, ratings=True, test_ratio=0.5), "test") == rated(
        third, "test"
    )


def test_refit_data_is_training_and_validation_part_together(tmp_path):
    write(tmp_path / "d/interactions.csv", RATINGS)
    for ratings in (True, False):
        data = load_dataset("d", tmp_path, ratings=ratings, validate=True)
        merged, whole = data.with_valid_in_train(), load_dataset("d", tmp_path, ratings=ratings)
        assert (
            rated(merged, "train")
            == rated(data, "train") | rated(data, "valid")
            == rated(whole, "train")
        )
        assert (merged.valid.nnz, rated(merged, "test")) == (0, rated(data, "test"))
        assert merged.digest == whole.digest != data.digest
        assert merged.train.dtype == data.train.dtype


def loaded(*flags):
    return load_data(parse_args(["--regularizer", "lambdaopt", *map(str, flags)]))


def test_parts_for_strengths_that_tune_themselves():
    """Of each user's interactions 60, 20 and 20 %; of validation 90 % tune and the rest chooses."""
    whole = load_dataset("demo", "nowhere")
    degree = np.diff((whole.train + whole.test).indptr)
    data = loaded()
    parts = {name: getattr(data, name) for name in (*SPLITS, "tune")}
    degrees = {name: np.diff(part.indptr) for name, part in parts.items()}
    assert (degrees["test"] == np.floor(0.2 * degree + 0.5)).all()
    assert (
        degrees["valid"] + degrees["tune"] == np.floor(0.25 * (degree - degrees["test"]) + 0.5)
    ).all()
    together = sum(parts.values())
    assert together.max() == 1  # no pair is in two splits
    assert ((whole.train + whole.test) != together).nnz == 0
    shares = {name: part.nnz / together.nnz for name, part in parts.items()}
    assert shares == pytest.approx(
        {"train": 0.6, "valid": 0.02, "test": 0.2, "tune": 0.18}, abs=0.005
    )
    assert data.valid.nnz == round(0.1 * (data.valid.nnz + data.tune.nnz))
    assert data.counts()["tune"] == data.tune.nnz
    assert f"{data.tune.nnz:,} tune" in data.describe()


def test_tuning_part_is_seeded_and_may_be_all_of_the_validation_part():
    data, again, other, all_of_it = (
        loaded(),
        loaded(),
        loaded("--split_seed", 1),
        loaded("--select", "test"),
    )
    assert (data.tune != again.tune).nnz == 0 != (data.tune != other.tune).nnz
    assert data.digest == again.digest
    assert (
        len({data.digest, other.digest, all_of_it.digest, load_dataset("demo", "nowhere").digest})
        == 4
    )
    assert all_of_it.valid.nnz == 0
    assert (all_of_it.tune != data.tune + data.valid).nnz == 0
    assert (all_of_it.test != data.test).nnz == 0
    assert loaded("--valid_ratio", 0.5).train.nnz < 0.42 * sum(
        data.counts()[part] for part in (*SPLITS, "tune")
    )


def test_parts_that_a_ranking_leaves_out():
    data = loaded()
    assert [id(part) for part in data.seen("valid")] == [id(data.train), id(data.tune)]
    assert [id(part) for part in data.seen("test")] == [
        id(data.train),
        id(data.tune),
        id(data.valid),
    ]
    plain = load_dataset("demo", "nowhere")
    assert [id(part) for part in plain.seen("test")] == [id(plain.train), id(plain.valid)]


def test_a_validation_part_too_small_to_divide(cli, work):
    # of five interactions each: 3, 1, 1
    lines = "".join(f"u{n // 5},i{n % 5}\n" for n in range(25))
    write(work / "datasets/d/interactions.csv", "user,item\n" + lines)
    data = load_dataset("d", work / "datasets", validate=True, valid_ratio=0.25, suggested=True)
    assert (data.train.nnz, data.valid.nnz, data.test.nnz) == (15, 5, 5)
    with pytest.raises(
        UserError, match="data set d: 5 validation interactions are too few to divide"
    ):
        data.with_tuning_split(0.9, 0)
    status, _, stderr = cli("--dataset", "d", "--regularizer", "lambdaopt")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "are too few to divide" in stderr
    assert data.with_tuning_split(1, 0).tune.nnz == 5


def test_a_given_validation_file_is_divided(tmp_path):
    """And the suggested ratio, unlike a given one, is no mistake."""
    write(tmp_path / "d/train.csv", "user,item\n" + "".join(f"u{n},i{n}\n" for n in range(20)))
    write(tmp_path / "d/valid.csv", "user,item\n" + "".join(f"u{n},i{n + 20}\n" for n in range(20)))
    write(tmp_path / "d/test.csv", "user,item\nu1,i30\n")
    data = loaded("--dataset", "d", "--data_dir", tmp_path)
    assert (data.train.nnz, data.tune.nnz, data.valid.nnz, data.test.nnz) == (20, 18, 2, 1)
    with pytest.raises(UserError, match=r"--valid_ratio does not apply: .*valid.csv"):
        loaded("--dataset", "d", "--data_dir", tmp_path, "--valid_ratio", 0.25)


def test_the_last_of_repeated_ratings_counts(tmp_path, caplog):
    write(tmp_path / "d/train.csv", "user,item,rating\na,x,1\nb,y,3\na,x,5\na,x,4\n")
    write(tmp_path / "d/test.csv", "user,item,rating\nb,x,2\n")
    data = load_dataset("d", tmp_path, ratings=True)
    assert rated(data, "train") == {("a", "x"): 4.0, ("b", "y"): 3.0}
    assert "2 ratings are replaced by later ones of their pairs" in caplog.text
    other = load_dataset("d", tmp_path)
    assert (other.train.data == 1).all()
    assert other.digest != data.digest


def test_rating_of_zero_in_two_parts(tmp_path):
    write(tmp_path / "d/train.csv", "user,item,rating\na,x,0\nb,y,3\n")
    write(tmp_path / "d/test.csv", "user,item,rating\na,x,0\n")
    with pytest.raises(UserError, match="user 'a' with item 'x' is in both"):
        load_dataset("d", tmp_path, ratings=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "1\t10\t3\t0\n1\t20\t4\t0\n"),
        ("ratings.dat.gz", "1::10::3::0\n1::20::4::0\n"),
        ("ratings.csv", "userId,movieId,rating\n1,10,3\n1,20,4\n"),
    ],
)
def test_movielens_own_names(tmp_path, name, text):
    write(tmp_path / "d/u.item", "10|Title\n")
    content = text.encode()
    (tmp_path / "d" / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    data = load_dataset("d", tmp_path, ratings=True, test_ratio=0.5)
    assert rated(data, "train") | rated(data, "test") == {("1", "10"): 3.0, ("1", "20"): 4.0}


def test_own_names_go_before_movielens(tmp_path):
    write(tmp_path / "d/train.csv", TRAIN)
    write(tmp_path / "d/test.csv", TEST)
    write(tmp_path / "d/ratings.csv", "user,item\n1,2\n")
    assert load_dataset("d", tmp_path).test.nnz == 2


def test_folds(tmp_path):
    write(tmp_path / "d/u.data", "1\t10\t3\n1\t20\t4\n2\t20\t4\n")
    write(tmp_path / "d/u2.base", "1\t10\t3\n1\t20\t4\n")
    write(tmp_path / "d/u2.test", "2\t20\t4\n")
    data = load_dataset("d", tmp_path, ratings=True, fold=2)
    assert rated(data, "test") == {("2", "20"): 4.0}
    with pytest.raises(UserError, match="has no fold 1"):  # and nothing is fetched that has none
        load_dataset("ml-1m", tmp_path, fold=1)
    with pytest.raises(UserError, match="--fold does not apply: demo"):
        load_dataset("demo", tmp_path, fold=1)


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ({"name": "ml-1m"}, (6040, 3706, 900_188, 100_021)),
        ({"name": "ml-100k", "fold": 1}, (943, 1682, 80_000, 20_000)),
        ({"name": "ml-100k", "fold": 5}, (943, 1682, 80_000, 20_000)),
    ],
)
def test_real_ratings(real_data, caplog, flags, counts):
    data = load_dataset(data_dir=real_data, ratings=True, **flags)
    assert (*data.shape, data.train.nnz, data.test.nnz) == counts
    assert sorted(set(data.train.data)) == [1, 2, 3, 4, 5]
    assert "published" not in caplog.text
