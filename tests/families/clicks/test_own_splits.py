"""Click data that come split: train.*, test.* and perhaps valid.*, in any format."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from tools import write

from cli.errors import UserError
from families.clicks.columns import Columns
from families.clicks.dataset import load_clicks

SIZES = {"train": 60, "valid": 10, "test": 20}


def made(seed=0):
    """{split: table} of clicks."""
    random = np.random.default_rng(seed)
    return {
        split: pd.DataFrame(
            {
                "label": np.arange(size) % 2,
                "user_id": [f"u{user}" for user in random.integers(5, size=size)],
                "a": random.integers(4, size=size),
                "x": random.integers(50, size=size),
            }
        )
        for split, size in SIZES.items()
    }


def save(folder, tables, names=("train", "valid", "test")):
    folder.mkdir(exist_ok=True)
    for name, table in zip(names, tables.values(), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder.parent


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "dev"])
def test_files_are_the_splits(tmp_path, valid):
    tables = made()
    data = load_clicks("shop", save(tmp_path / "shop", tables, ("train", valid, "test")))
    assert data.splits == {"train": (0, 60), "valid": (60, 70), "test": (70, 90)}
    every = pd.concat(tables.values())
    ids, labels = data.rows(0, 90)
    assert labels.tolist() == every["label"].tolist()
    # Equal ids for equal values, over all files; values that training does not know share one.
    known = every["x"].isin(tables["train"]["x"]).to_numpy()
    assert (ids[~known, 2] == data.offsets[2]).all()
    pairs = set(zip(ids[known, 2].tolist(), every["x"][known].tolist(), strict=True))
    assert len(pairs) == len({number for number, _ in pairs}) == tables["train"]["x"].nunique()


def test_without_validation_the_validation_file_is_not_trained_on(tmp_path):
    save(tmp_path / "shop", made())
    assert load_clicks("shop", tmp_path, validate=False).splits["train"] == (0, 60)


def test_the_end_of_the_training_rows_validates(tmp_path):
    save(tmp_path / "shop", made())
    (tmp_path / "shop" / "valid.csv").unlink()
    data = load_clicks("shop", tmp_path)
    assert data.splits == {"train": (0, 54), "valid": (54, 60), "test": (60, 80)}
    data = load_clicks("shop", tmp_path, valid_ratio=0.25)
    assert data.splits == {"train": (0, 45), "valid": (45, 60), "test": (60, 80)}
    assert data.protocol["split"].startswith("by files: train.csv, test.csv; a validation split is")
    data = load_clicks("shop", tmp_path, validate=False)
    assert data.splits == {"train": (0, 60), "valid": (60, 60), "test": (60, 80)}


def test_ratios_do_not_apply(tmp_path):
    save(tmp_path / "shop", made())
    what = r"{}_ratio does not apply: .*{}\.csv is the {} split; leave the flag out"
    with pytest.raises(UserError, match=what.format("test", "test", "test")):
        load_clicks("shop", tmp_path, test_ratio=0.2)
    with pytest.raises(UserError, match=what.format("valid", "valid", "validation")):
        load_clicks("shop", tmp_path, valid_ratio=0.2)
    assert load_clicks("shop", tmp_path, valid_ratio=0.2, suggested=True).splits["valid"] == (
        60,
        70,
    )


def test_each_file_in_a_format_and_an_order_of_columns_of_its_own(tmp_path):
    tables = made()
    wanted = load_clicks("shop", save(tmp_path / "shop", tables))
    folder = tmp_path / "other"
    folder.mkdir()
    tables["train"].to_parquet(folder / "train.parquet")
    text = tables["valid"][["x", "a", "label", "user_id"]].to_csv(index=False, sep="\t")
    (folder / "dev.gz").write_bytes(gzip.compress(text.encode()))
    rows = tables["test"].assign(more=1).to_dict("records")
    write(folder / "test.jsonl", "\n".join(map(json.dumps, rows)))
    data = load_clicks("other", tmp_path)
    assert (data.fields, data.sizes, data.splits) == (wanted.fields, wanted.sizes, wanted.splits)
    for mine, others in zip(data.rows(0, 90), wanted.rows(0, 90), strict=True):
        assert (mine == others).all()
    assert (data.users(0, 90) == wanted.users(0, 90)).all()
    assert data.digest == wanted.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="x"), "test.csv has no column 'x', which train.csv has"),
        (lambda table: table.drop(columns="user_id"), "test.csv has no column 'user_id'"),
        (lambda table: table.drop(columns="label"), "test.csv has no column 'label', the label"),
        (lambda table: table[:0], "0 rows are too few; none is left for the test split"),
        (
            lambda table: table.assign(label=1),
            "all 20 labels of its test split are 1; AUC needs .* or take rows with both$",
        ),
        (lambda table: table.assign(label=table["label"] * 5), "test.csv, line 3: label is '5'"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, message):
    tables = made()
    save(tmp_path / "shop", tables | {"test": change(tables["test"])})
    with pytest.raises(UserError, match=message):
        load_clicks("shop", tmp_path)


def test_a_column_that_is_not_wanted_may_be_absent(tmp_path):
    tables = made()
    save(tmp_path / "shop", tables | {"test": tables["test"].drop(columns="x")})
    assert load_clicks("shop", tmp_path, columns=Columns(categorical=["a"])).fields == ["a"]


def test_several_files_of_a_split(tmp_path):
    save(tmp_path / "shop", made())
    write(tmp_path / "shop" / "clicks.csv", "label,a\n1,2\n")
    with pytest.raises(UserError, match=r"holds clicks\.csv, and train\.csv and valid\.csv and"):
        load_clicks("shop", tmp_path)
    (tmp_path / "shop" / "clicks.csv").unlink()
    (tmp_path / "shop" / "test.csv").unlink()
    with pytest.raises(UserError, match=r"holds train.csv, valid.csv; a split needs train.\* and"):
        load_clicks("shop", tmp_path)


def test_broken_lines_are_counted_for_each_file(tmp_path, caplog):
    folder = save(tmp_path / "shop", made())
    for name, lines in (("train", "2,u,1,1\n1,u\n"), ("test", "?,u,1,1\n")):
        with open(folder / "shop" / f"{name}.csv", "a") as file:
            file.write(lines)
    for _ in range(2):  # when the copy is made, and when it is read
        caplog.clear()
        data = load_clicks("shop", tmp_path, skip_bad_lines=True)
        assert data.skipped == 3
        assert "train.csv: 2 broken lines are left out, line 62 first" in caplog.text
        assert "test.csv: 1 broken lines are left out, line 22 first" in caplog.text


def test_a_run_says_how_the_data_are_split(tmp_path, cli):
    tables = made()
    tables["test"].loc[:9, "user_id"] = ""
    save(tmp_path / "shop", tables)
    words = ["--model", "LR", "--epochs", 1, "--data_dir", tmp_path, "--dataset", "shop"]
    status, stdout, _ = cli(*words)
    assert status == 0
    assert "90 rows, 3 fields" in stdout
    assert "60 train, 10 valid, 20 test" in stdout
    summary = json.loads((tmp_path / "runs" / "shop-LR" / "summary.json").read_text())
    assert summary["protocol"]["split"] == "by files: train.csv, valid.csv, test.csv"
    assert summary["protocol"]["users"].startswith("gAUC leaves out 10 of 20 rows")
    status, _, stderr = cli(*words, "--test_ratio", 0.3)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "--test_ratio does not apply" in stderr
    status, _, stderr = cli(*words, "--label", "x")
    assert status == 2
    assert "--label_above X" in stderr
    status, stdout, _ = cli(*words, "--label", "x", "--label_above", 25)
    assert "x -> label (a click if above 25)" in stdout
