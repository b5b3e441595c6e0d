"""Data sets of arrays on disk: what they say, what is refused, and a rank's part of them."""

import random

import numpy as np
import pytest
from tools import on_ranks, save_arrays, toy_data, train_on_ranks

from cli.errors import UserError
from distributed import collectives
from sources.arrays import find_arrays, load_arrays


def test_what_is_loaded(tmp_path):
    folder = save_arrays(tmp_path / "made")
    assert find_arrays("MADE", tmp_path) == folder
    assert find_arrays("demo", tmp_path) is None
    data, expected = load_arrays(folder, validate=False), toy_data()
    for part in ("train", "valid", "test"):
        assert (getattr(data, part) != getattr(expected, part)).nnz == 0
    assert data.user_ids == [str(user) for user in range(32)]
    assert data.counts() == expected.counts()


def shares(folder):
    data = load_arrays(folder, validate=False)
    return (
        data.first,
        data.shape[0],
        data.train.toarray(),
        data.digest,
        data.counts(),
        data.describe(),
    )


def test_ranks_load_their_users(tmp_path):
    folder = save_arrays(tmp_path / "made")
    data = load_arrays(folder, validate=False)
    found = on_ranks(shares, folder)
    assert [first for first, *_ in found] == [0, 16]
    np.testing.assert_array_equal(
        np.concatenate([train for _, _, train, *_ in found]), data.train.toarray()
    )
    for *_, digest, counts, description in found:
        assert (digest, counts) == (data.digest, data.counts())
        assert description == f"{data.describe()}; users divided among 2 ranks"


def own_copy(folders):
    return load_arrays(folders[collectives.rank()], validate=False)


def test_copies_that_are_divided_at_other_users_are_told(tmp_path):
    """The second one has only the first 8 of 32 users."""
    some = {
        "train_indptr": np.minimum(train_array("indptr"), 56),
        "train_indices": train_array("indices")[:56],
    }
    folders = (
        save_arrays(tmp_path / "one" / "made"),
        save_arrays(tmp_path / "other" / "made", **some),
    )
    for error in on_ranks(own_copy, folders):
        assert "rank 1 has made divided at users [0, 4, 32], the first one [0, 16, 32]" in str(
            error
        )


def test_the_digest_is_of_the_pairs(tmp_path):
    first = load_arrays(save_arrays(tmp_path / "a"), validate=False).digest
    indices = toy_data().train.indices.copy()
    indices[[0, 7]] = 8, 15  # another user's pairs
    indices[:7].sort()
    indices[7:14].sort()
    assert (
        load_arrays(save_arrays(tmp_path / "b", train_indices=indices), validate=False).digest
        != first
    )
    assert load_arrays(save_arrays(tmp_path / "c"), validate=False).digest == first


def train_array(name):
    return getattr(toy_data().train, name).copy()


def with_fifth(number):
    return np.where(np.arange(33) == 5, number, train_array("indptr"))


def reversed_items():
    return train_array("indices")[::-1].copy()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"train_indices": reversed_items()},
            r"train.indices.npy: a user's items are not in ascending order",
        ),
        (
            {"train_indices": train_array("indices") + 1},
            r"train.indices.npy: items from 0 to 31 belong there",
        ),
        (
            {"train_indices": train_array("indices")[:-1]},
            r"train.indptr.npy has 33 numbers from \[0\] to \[224\]",
        ),
        ({"train_indptr": train_array("indptr")[:-1]}, r"train.indptr.npy has 32 numbers"),
        ({"train_indptr": with_fifth(2**40)}, r"train.indptr.npy must hold non-decreasing numbers"),
        ({"train_indptr": with_fifth(-9)}, r"train.indptr.npy must hold non-decreasing numbers"),
        (
            {"train_indices": train_array("indices") * 1.0},
            r"holds float64 of 1 axes, not whole numbers",
        ),
        ({"test_indices": train_array("indices")[::7].copy()}, r"pairs are in both train and test"),
        (
            {"test_indices": np.zeros(0, np.int32), "test_indptr": np.zeros(33, np.int32)},
            "no test interaction",
        ),
    ],
)
def test_what_is_wrong_with_arrays(tmp_path, parts, message):
    with pytest.raises(UserError, match=message):
        load_arrays(save_arrays(tmp_path / "made", **parts), validate=False)


def test_what_is_wrong_with_files(tmp_path):
    folder = save_arrays(tmp_path / "made")
    whole = (folder / "test.indices.npy").read_bytes()
    (folder / "test.indices.npy").write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"cannot read .*test.indices.npy"):
        load_arrays(folder, validate=False)
    (folder / "test.indices.npy").write_bytes(whole)
    wrong = ['{"users": 32.0, "items": 32}', '{"users": true, "items": 32}', "[" * 100_000, "{}"]
    wrong += [f'{{"users": 32, "items": {number}}}' for number in ("Infinity", 5 * 10**12)]
    for text in wrong:
        (folder / "about.json").write_text(text)
        with pytest.raises(UserError, match=r"cannot read .*about.json"):
            load_arrays(folder, validate=False)


@pytest.mark.parametrize("name", ["about.json", "train.indptr.npy", "test.indices.npy"])
def test_damaged_files_are_one_line(tmp_path, name):
    """Bytes of the header above all: NumPy parses it as Python."""
    folder, rng, lines = save_arrays(tmp_path / "made"), random.Random(name), []
    whole = (folder / name).read_bytes()
    for _ in range(160):
        content = bytearray(whole)
        place = rng.randrange(min(len(content), 140))
        new = rng.choice([b"(", b"'", b"9", b"\n", b"\0", b""])
        content[place : place + rng.randrange(3)] = new
        (folder / name).write_bytes(content)
        try:
            data = load_arrays(folder, validate=False)
        except UserError as error:
            lines.append(str(error))
        else:
            assert data.train.indices.max() < data.shape[1]
    assert len(lines) > 40
    assert not [line for line in lines if "\n" in line or "made" not in line]


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--test_ratio 0.5", "--test_ratio does not apply"), ("--model SVD", "has no ratings")],
)
def test_flags_that_do_not_apply(cli, work, flags, message):
    save_arrays(work / "datasets" / "made")
    status, _, errors = cli("--dataset", "made", *flags.split())
    assert status == 2
    assert message in errors


def test_one_process_and_two_train_and_recommend(cli, work):
    save_arrays(work / "datasets" / "made")
    status, output, _ = cli("--dataset", "made", "--epochs", 2, "--dim", 8)
    assert status == 0
    assert "made: 32 users, 32 items" in output
    train_on_ranks("--dataset", "made", "--epochs", 2, "--dim", 8, "--run_name", "two")
    for name in ("made-OneBP-MF", "two"):
        status, output, _ = cli(
            "--mode", "recommend", "--run_name", name, "--users", "3", "--dataset", "made"
        )
        assert status == 0
        assert [line.split()[0] for line in output.splitlines()].count("3") == 10


def test_with_a_validation_part(cli, work):
    """It chooses a strength, a refit trains on it, and the checkpoint serves the same data."""
    valid = {f"valid_{name}": getattr(toy_data().test, name) for name in ("indptr", "indices")}
    others = {"test_indptr": np.minimum(np.arange(33), 8), "test_indices": np.arange(8, 16)}
    save_arrays(work / "datasets" / "made", **valid, **others)
    flags = ("--dataset", "made", "--epochs", 2, "--dim", 8, "--select", "valid")
    status, output, errors = cli(*flags, "--regularizer", "l2", "--l2_grid", 1, 0.1)
    assert status == 0, errors
    assert cli(*flags, "--refit", "--run_name", "own")[0] == 0
    status, output, errors = cli(
        "--dataset", "made", "--mode", "evaluate", "--run_name", "own-refit"
    )
    assert status == 0, errors
    assert "Recall@20" in output


def test_a_rank_without_interactions_is_told(tmp_path):
    own = toy_data().train.indices[:7].copy()
    folder = save_arrays(
        tmp_path / "made", train_indptr=np.array([0] + [7] * 32), train_indices=own
    )
    for error in on_ranks(shares, folder):
        assert "data set made has fewer users to train on than the 2 ranks" in str(error)


def damaged_for_the_second(folder):
    return load_arrays(folder if collectives.rank() == 0 else folder / "absent", validate=False)


def test_what_a_rank_cannot_read_is_told_by_all(tmp_path):
    for error in on_ranks(damaged_for_the_second, save_arrays(tmp_path / "made")):
        assert "rank 1: cannot read" in str(error)
