"""Data of arrays, split: as a table of the same interactions, and alike on any number of ranks."""

import numpy as np
import pytest
from scipy.sparse import vstack
from tools import save_arrays, write

from cli.errors import UserError
from dataloader import load_dataset
from families import load_data
from parse import parse_args
from sources import arrays
from sources.filters import Choice
from sources.interactions import SPLITS
from sources.share import balanced_cuts
from sources.split_arrays import OwnSplitter

USERS, ITEMS = 90, 40
CHOICES = [
    (Choice(), None),
    (Choice(split="last", test_last=2), None),
    (Choice(split="time"), 0.3),
    (Choice(split="time", test_from="1000000300"), None),
    (Choice(split="time", test_from="2001-09-09T01:50:00"), None),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of arrays `made`, and `table`, a table of the same interactions; many ties."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    rows = [np.sort(random.choice(ITEMS, size, replace=False)) for size in range(1, 31)] * 3
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    items = np.concatenate(rows)
    times = random.integers(1_000_000_000, 1_000_000_400, len(items))
    users = np.repeat(np.arange(USERS), np.diff(indptr))
    lines = (
        f"{user},{item},{time}\n" for user, item, time in zip(users, items, times, strict=True)
    )
    write(folder / "table/interactions.csv", "user,item,timestamp\n" + "".join(lines))
    (folder / "made").mkdir()
    (folder / "made/about.json").write_text(f'{{"users": {USERS}, "items": {ITEMS}}}')
    for name, array in {"indptr": indptr, "indices": items, "times": times}.items():
        np.save(folder / f"made/interactions.{name}.npy", array)
    return folder


@pytest.mark.parametrize(("choice", "test_ratio"), CHOICES)
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_rank_splits_its_users_as_a_table_is_split(
    folder, monkeypatch, choice, test_ratio, ranks
):
    table = load_dataset(
        "table", folder, validate=True, choice=choice, test_ratio=test_ratio, split_seed=4
    )
    cuts = balanced_cuts(np.load(folder / "made/interactions.indptr.npy"), ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(arrays, "user_cuts", lambda name, indptr: cuts)
        monkeypatch.setattr(arrays, "own_span", lambda cuts, rank=rank: cuts[rank : rank + 2])
        splitter = OwnSplitter(folder / "made", choice, test_ratio, None, 4)
        parts.append(arrays.read_splits(folder / "made", True, splitter)[3])
    for split in SPLITS:
        whole = vstack([part[split] for part in parts])
        assert whole.nnz > 0
        assert (whole != getattr(table, split)).nnz == 0, split


def test_the_log_counts_each_split_by_time(folder, caplog):
    """As for a table: the validation split's count is without the test split's."""
    caplog.set_level("INFO")
    said = []
    for name in ("made", "table"):
        caplog.clear()
        words = f"--dataset {name} --split time --select valid".split()
        load_data(parse_args(["--data_dir", str(folder), *words]))
        said.append([text.split(";")[0] for text in caplog.messages if text.startswith("split: ")])
    assert said[0] == said[1]
    assert [line.split()[1] for line in said[0]] == ["279", "112"]  # 0.2, and 0.1 of the rest


def test_validation_is_made_of_train_where_there_is_no_file(tmp_path):
    save_arrays(tmp_path / "made")
    whole = arrays.load_arrays(tmp_path / "made", False, Choice())
    data = arrays.load_arrays(tmp_path / "made", True, Choice(), valid_ratio=0.3)
    assert ((data.train + data.valid) != whole.train).nnz == 0
    assert (np.diff(data.valid.indptr) == 2).all()  # 0.3 of 7
    assert (data.test != whole.test).nnz == 0
    assert (
        data.protocol["split"]
        == "train and test as the files have them; valid: a random 0.3 (seed 0) of the rest"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--split time", "--split does not apply: .* has its splits"),
        ("--test_ratio 0.3", "--test_ratio does not apply: .* has its splits"),
        ("--min_rating 3", "--min_rating does not apply: .* holds arrays"),
        ("--split last --select valid", "cannot read .*train.times.npy"),
        ("--user_column u", "--user_column does not apply: .* holds arrays"),
    ],
)
def test_flags_that_do_not_apply(tmp_path, flags, message):
    save_arrays(tmp_path / "made")
    words = ["--data_dir", str(tmp_path), "--dataset", "made", *flags.split()]
    with pytest.raises(UserError, match=message):
        load_data(parse_args(words))


def test_times_that_do_not_fit(tmp_path):
    save_arrays(tmp_path / "made", train_times=np.arange(3))
    with pytest.raises(UserError, match=r"train.times.npy holds 3 times; write 224 whole numbers"):
        arrays.load_arrays(tmp_path / "made", True, Choice(split="last"))
    save_arrays(tmp_path / "made", train_times=np.arange(224) + np.iinfo(np.int64).min)
    with pytest.raises(UserError, match=r"train.times.npy holds times above 2\^62"):
        arrays.load_arrays(tmp_path / "made", True, Choice(split="time"))
