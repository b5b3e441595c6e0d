"""Histories: ids and means by slow loops; BARS's data sets that have them, from small files."""

import gzip
from collections import Counter

import numpy as np
import pytest
import torch
from tools import build

from cli.errors import UserError
from engine.tables import value_and_gradients
from families.clicks.bars import DATASETS
from families.clicks.dataset import load_clicks
from families.clicks.histories import LENGTH, NOTHING, split_histories
from parse import parse_args

NAME = "AmazonElectronics_x1"
HEADERS = {  # of the published files; the order of MicroVideo's columns is not known
    NAME: "label,user_id,item_id,cate_id,item_history,cate_history",
    "MicroVideo1.7M_x1": "user_id,item_id,timestamp,is_click,cate_id,clicked_items,"
    "clicked_categories",
    "KuaiVideo_x1": "timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items",
}
MODELS = {"LR": (), "FM": ("--dim", 3), "DeepFM": ("--dim", 3, "--hidden", 5, 4)}
MODELS["DCNv2"] = (*MODELS["DeepFM"], "--layers", 2)


def values_of(text):
    return [value for value in text.split("^") if value][-LENGTH:]


def made_rows(count, seed=0, longest=5):
    """Rows as {column: text}. A click is likely if all of a user's items are of the item's kind."""
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        kind, seen = random.integers(4, size=2)
        items = 4 * random.integers(6, size=random.integers(longest + 1)) + seen
        clicked = int(random.random() < (0.9 if kind == seen else 0.1))
        rows.append(
            {
                **{"label": clicked, "is_click": clicked, "is_like": 0, "is_follow": 0},
                **{"timestamp": number, "user_id": random.integers(9)},
                **{"item_id": 4 * random.integers(6) + kind, "cate_id": kind},
                **dict.fromkeys(("item_history", "clicked_items", "pos_items"), items),
                **dict.fromkeys(("cate_history", "clicked_categories"), items % 4),
                "neg_items": random.integers(24, size=3),
            }
        )
    return [
        {
            name: "^".join(map(str, value)) if isinstance(value, np.ndarray) else str(value)
            for name, value in row.items()
        }
        for row in rows
    ]


def save(folder, name=NAME, header=None, **splits):
    """Write train.csv and test.csv, of lists of rows, as BARS publishes a data set."""
    header = (header or HEADERS[name]).split(",")
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [header, *([row[column] for column in header] for row in rows)]
        text = "".join(",".join(line) + "\n" for line in lines)
        (folder / name / f"{split}.csv").write_text(text)
    return folder


def load(folder, name=NAME, **flags):
    return load_clicks(name, folder, validate=False, **flags)


@pytest.mark.parametrize("longest", [0, 1, 7, 250])
def test_splitting_by_loops(longest):
    random = np.random.default_rng(longest)
    texts = ["", "^", "a", "^^b^^a^", "b^b"]
    texts += [
        "^".join(map(str, random.integers(30, size=n)))
        for n in random.integers(longest + 1, size=9)
    ]
    codes, values = split_histories(np.array([text.encode() for text in texts], object))
    assert (codes.shape, codes.dtype) == ((len(texts), LENGTH), np.int32)
    assert len(set(values)) == len(values)
    for text, row in zip(texts, codes, strict=True):
        own = [values[code].decode() for code in row if code != NOTHING]
        assert own == values_of(text)
        assert (row[: LENGTH - len(own)] == NOTHING).all()
    assert len(split_histories(np.array([b""], object))[1]) <= 1


def often_by_loops(train, threshold):
    """{field: {value: its largest count}} of the values that one of its columns often has."""
    known = {}
    for field, history in (("item_id", "item_history"), ("cate_id", "cate_history")):
        counts = [
            Counter(row[field] for row in train),
            Counter(value for row in train for value in values_of(row[history])),
        ]
        largest = {value: max(c[value] for c in counts) for c in counts for value in c}
        known[field] = {value: n for value, n in largest.items() if n >= threshold}
    return known


@pytest.mark.parametrize("piece", [600, 1 << 20])
@pytest.mark.parametrize("threshold", [1, 12, 40])
def test_ids_by_loops(tmp_path, monkeypatch, threshold, piece):
    """Of a field and its history together: equal values have equal ids, also in later splits."""
    monkeypatch.setattr("sources.tables.PIECE", piece)
    train, test = made_rows(120), made_rows(60, seed=1, longest=LENGTH + 20)
    train[7]["item_id"], test[3]["item_history"], test[4]["cate_history"] = "rare", "rare^8", "new"
    data = load(save(tmp_path, train=train, test=test), threshold=threshold)
    assert data.fields == ["item_id", "cate_id"]
    assert data.histories == {"item_history": "item_id", "cate_history": "cate_id"}
    assert data.splits == {"train": (0, 120), "valid": (120, 120), "test": (120, 180)}
    assert (data.width, data.padding) == (2 + 2 * LENGTH, sum(data.sizes))
    assert data.counts()["fields"] == 4

    ids, labels = data.rows(0, 180)
    assert labels.tolist() == [int(row["label"]) for row in [*train, *test]]
    known = often_by_loops(train, threshold)
    assert data.sizes == [1 + len(known[field]) for field in data.fields]
    for field, (name, offset) in enumerate(zip(data.fields, data.offsets, strict=True)):
        history = next(own for own, owner in data.histories.items() if owner == name)
        start = 2 + field * LENGTH
        found = {}
        for row, own in zip([*train, *test], ids, strict=True):
            values = values_of(row[history])
            of_history = own[start : start + LENGTH].tolist()
            assert of_history[: LENGTH - len(values)] == [data.padding] * (LENGTH - len(values))
            last = of_history[LENGTH - len(values) :]
            pairs = [(row[name], own[field]), *zip(values, last, strict=True)]
            for value, number in pairs:
                assert found.setdefault(value, number) == number
                assert (number == offset) == (value not in known[name])
        often = sorted(known[name], key=lambda value: found[value])
        counts = [known[name][value] for value in often]
        assert counts == sorted(counts, reverse=True)
        assert [found[value] for value in often] == list(
            range(offset + 1, offset + data.sizes[field])
        )


def test_a_copy_of_histories_is_checked_and_used_again(tmp_path):
    data = load(save(tmp_path, train=made_rows(50), test=made_rows(20, seed=1)))
    again = load(tmp_path, verify=True)
    assert (again.digest, again.encoded.folder) == (data.digest, data.encoded.folder)
    assert (again.rows(0, 70)[0] == data.rows(0, 70)[0]).all()
    file = data.encoded.folder / "codes.bin"
    with open(file, "r+b") as raw:
        raw.seek(4 * 30)
        raw.write(b"\x01")
    assert (load(tmp_path).rows(0, 70)[0] == data.rows(0, 70)[0]).all()


def model_of(name, folder, *flags, device="cpu", rows=300):
    splits = {"train": made_rows(rows), "test": made_rows(100, seed=1)}
    data = load(save(folder, **splits))
    return build(name, *MODELS[name], "--select", "test", *flags, data=data, device=device)


@pytest.mark.parametrize("name", MODELS)
def test_means_by_loops_and_their_gradient(tmp_path, device, name):
    model = model_of(name, tmp_path, device=device)
    data, generator = model.data, torch.Generator().manual_seed(1)
    weights = {
        key: torch.randn(table.shape, generator=generator).double().to(device)
        for key, table in model.weights.items()
    }
    ids, labels = (torch.tensor(column, device=device) for column in data.rows(0, 30))
    table = weights["embedding"]
    assert len(table) == sum(data.sizes) + 1
    assert (model.weights["embedding"][data.padding] == 0).all()

    # A history counts as a field whose embedding is the mean of those of its values.
    inputs = []
    for row in ids.tolist():
        bags = [row[2 : 2 + LENGTH], row[2 + LENGTH :]]
        bags = [[number for number in bag if number != data.padding] for bag in bags]
        means = [table[bag].mean(0) if bag else torch.zeros_like(table[0]) for bag in bags]
        inputs.append(torch.stack([table[row[0]], table[row[1]], *means]))
    inputs, dim = torch.stack(inputs), model.encoder.dim
    wanted = model.encoder.outputs(weights, inputs[:, :, :dim], inputs[:, :, dim:].flatten(1))
    found = model.encoder(weights, ids.long())
    for column, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(column, expected)

    batch = ids.long(), labels.double()

    def loss(some):
        return model.loss(some, {}, model.rows_of(*batch), *batch)

    _, gradients = value_and_gradients(loss, weights)
    assert (gradients["embedding"][data.padding] == 0).all()
    direction = torch.randn(table.shape, generator=generator).double().to(device)
    ends = [loss(weights | {"embedding": table + s * direction}).item() for s in (1e-5, -1e-5)]
    along = (gradients["embedding"] * direction).sum().item()
    assert along == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_no_value_stays_without_an_effect(tmp_path, device, optimizer):
    flags = ("--optimizer", optimizer, "--l2", 0.1, "--batch_size", 50)
    model = model_of("DeepFM", tmp_path, *flags, device=device)
    before = model.weights["embedding"].clone()
    for _ in range(2):
        model.train_epoch(0.05, lambda: None)
    assert (model.weights["embedding"] != before).any()
    assert (model.weights["embedding"][model.data.padding] == 0).all()


def test_a_model_learns_what_only_histories_tell(tmp_path, device):
    """Whether an item is of the kind that the user has seen: the best AUC is 0.9."""
    model = model_of("FM", tmp_path, "--batch_size", 100, rows=3000, device=device)
    for _ in range(12):
        model.train_epoch(0.05, lambda: None)
    assert model.evaluate("test")["AUC"] > 0.75
    ids = model.data.rows(*model.data.splits["test"])[0]
    ids[:, 2:] = model.data.padding
    blind = model.predict(torch.tensor(ids, device=device).long(), "hidden")[0]
    labels = torch.tensor(model.data.labels(*model.data.splits["test"]), device=device)
    assert abs(blind[labels == 1].mean() - blind[labels == 0].mean()) < 0.1


@pytest.mark.parametrize("name", DATASETS)
def test_files_as_bars_publishes_them(tmp_path, caplog, name):
    splits = {"train": made_rows(80), "test": made_rows(40, seed=1)}
    with caplog.at_level("INFO"):
        data = load(save(tmp_path, name, **splits), name.upper())
    assert data.name == name
    published = DATASETS[name]
    assert (data.fields, data.histories) == (list(published.fields), published.histories)
    assert data.has_users
    assert {*published.columns} <= {*HEADERS[name].split(",")}
    assert len(set(data.users(0, 80).tolist())) == len({row["user_id"] for row in splits["train"]})
    assert data.splits["test"] == (80, 120)
    first, *others = [line for line in caplog.messages if line.startswith(str(tmp_path / name))]
    histories = ", ".join(f"{own} (of {field})" for own, field in published.histories.items())
    assert (
        f"user_id -> user (for gAUC), {len(data.fields)} categorical fields, histories {histories}"
        in first
    )
    assert len(others) == 1
    left_out = f"{name}: the visual embeddings of items, {published.left_out}, are not used"
    assert (left_out in caplog.text) == bool(published.left_out)
    assert sum(data.sizes) == sum(load(tmp_path, name).sizes)


def test_other_forms_of_the_same_files(tmp_path):
    """Gzipped, with the columns in another order, with valid.csv; labels 1.0 and 0.0."""
    rows = made_rows(90)
    plain = load(save(tmp_path / "plain", train=rows, valid=rows[:30], test=rows[30:60]))
    for row in rows:
        row["label"] += ".0"
    header = ["cate_history", "item_history", "cate_id", "item_id", "label", "user_id", "other"][:6]
    save(tmp_path / "other", header=",".join(header), train=rows, valid=rows[:30], test=rows[30:60])
    for file in (tmp_path / "other" / NAME).iterdir():
        (file.parent / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    other = load(tmp_path / "other")
    assert (
        other.splits == plain.splits == {"train": (0, 90), "valid": (90, 120), "test": (120, 150)}
    )
    for column, expected in zip(other.rows(0, 150), plain.rows(0, 150), strict=True):
        assert (column == expected).all()


def test_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=rf"unpack {NAME}\.zip there: https://huggingface\.co"):
        load(tmp_path)
    header = HEADERS[NAME].replace(",cate_history", "")
    save(tmp_path, header=header, train=made_rows(9), test=made_rows(9))
    message = (
        f"train.csv has no column 'cate_history'; {NAME} has label, user_id, item_id, cate_id, "
        "item_history, cate_history"
    )
    with pytest.raises(UserError, match=message):
        load(tmp_path)
    with pytest.raises(UserError, match="the columns of KuaiVideo_x1 are known"):
        load(tmp_path, "kuaivideo_x1", columns=parse_columns())


def parse_columns():
    from families.clicks.columns import Columns

    return Columns(label="is_like")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (NAME, (1024, 5e-3, 5e-4, 2, 1, [9, 14], 180, 0.9)),
        ("MicroVideo1.7M_x1", (2048, 1e-3, 5e-4, 3, 1, [4, 14], 70, 0.4)),
        ("KuaiVideo_x1", (8192, 1e-4, 1e-3, 2, 10, [8, 10], 100, 0.3)),
    ],
)
def test_published_settings(name, values):
    args = parse_args(["--model", "DCNv2", "--dataset", name.lower(), "--preset", "x1"])
    flags = ["batch_size", "l2", "lr", "layers", "threshold", "lr_dc_epoch"]
    flags += ["memory_k", "memory_lambda"]
    assert tuple(getattr(args, flag) for flag in flags) == values
    assert (args.dim, args.hidden, args.lr_dc) == (64, [1024, 512, 256], 0.1)
    assert (args.select, args.memory, args.memory_key, args.memory_gamma) == (
        *("test", "knn", "hidden"),
        1.0,
    )
    assert args.dataset == name


def test_one_command(cli, work):
    save(work / "datasets", train=made_rows(400), test=made_rows(100, seed=1))
    small = ("--hidden", 8, "--dim", 4, "--epochs", 2, "--batch_size", 64)
    flags = ("--model", "DCNv2", "--dataset", NAME, "--preset", "x1", *small)
    status, stdout, stderr = cli(*flags)
    assert (status, stderr) == (0, "")
    assert "base + knn" in stdout
    assert "gAUC" in stdout
    assert "memory_k=180" in stdout
    status, stdout, stderr = cli("--like", f"{NAME}-DCNv2", "--run_name", "again")
    assert (status, stderr) == (0, "")
    for file in ("last.pt", "best.pt", "stream.pt"):
        first, again = (work / "checkpoints" / run / file for run in (f"{NAME}-DCNv2", "again"))
        assert first.read_bytes() == again.read_bytes()
    status, stdout, stderr = cli("--mode", "describe", "--model", "DCNv2", "--dataset", NAME)
    assert (status, stderr) == (0, "")
    assert "item_history" in stdout
