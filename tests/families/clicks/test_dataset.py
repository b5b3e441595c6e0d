"""The encoded copy: ids by a slow reference, nothing of later splits in them; whole or absent."""

import hashlib
import os
import platform
import tempfile
from collections import Counter

import numpy as np
import pytest
import torch

from cli.errors import UserError
from families.clicks import cache, reader
from families.clicks.columns import Columns
from families.clicks.dataset import RowRange, load_clicks

FIELDS = ("city", "colour")


def random_rows(count=200, seed=0):
    """(label, city, colour) of rows; most cities are rare, and some occur late alone."""
    random = np.random.default_rng(seed)
    cities = np.minimum(random.geometric(0.15, count), 20) + (np.arange(count) > 0.9 * count) * 3
    return [(int(random.random() < 0.4), f"c{city}", f"k{random.integers(4)}") for city in cities]


def folder_of(tmp_path, rows, name="shop"):
    """A data folder whose data set `name` has these rows as a table."""
    lines = ["click,city,colour", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / "clicks.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def ids_by_loops(rows, train, threshold):
    """(id of each field of each row, sizes), equal counts in the order of the hash."""
    ids, sizes, offset = [], [], 0
    for place in (1, 2):
        counts = Counter(row[place] for row in rows[:train])
        kept = [value for value, count in counts.items() if count >= threshold]
        kept.sort(
            key=lambda value: (
                -counts[value],
                int(reader.hash_values(np.array([value.encode()], object))[0]),
            )
        )
        number = {value: offset + 1 + position for position, value in enumerate(kept)}
        ids.append([number.get(row[place], offset) for row in rows])
        sizes.append(len(kept) + 1)
        offset += len(kept) + 1
    return list(map(list, zip(*ids, strict=True))), sizes


@pytest.mark.parametrize("block", [64, 1 << 20])
@pytest.mark.parametrize("threshold", [1, 2, 9])
def test_ids_by_loops(tmp_path, monkeypatch, threshold, block):
    monkeypatch.setattr("sources.tables.PIECE", block)
    rows = random_rows()
    data = load_clicks("shop", folder_of(tmp_path, rows), threshold=threshold)
    assert data.splits == {"train": (0, 160), "valid": (160, 180), "test": (180, 200)}
    wanted, sizes = ids_by_loops(rows, 160, threshold)
    ids, labels = data.rows(0, 200)
    assert ids.tolist() == wanted
    assert ids.dtype == np.int32
    assert labels.tolist() == [row[0] for row in rows]
    assert (data.sizes, data.offsets.tolist()) == (sizes, [0, sizes[0]])
    assert data.rows(7, 19)[0].tolist() == wanted[7:19]
    assert data.clicks == pytest.approx(np.mean([row[0] for row in rows[:160]]))


def test_counts_are_merged_in_any_order():
    counts, slow, random = cache.Counts(), Counter(), np.random.default_rng(1)
    for _ in range(30):
        hashes = random.choice(2**40, 9000, replace=False).astype(np.uint64) % np.uint64(20_000)
        hashes = np.unique(hashes)
        numbers = random.integers(0, 3, len(hashes))
        counts.add(hashes, numbers)
        slow.update(dict(zip(hashes.tolist(), numbers.tolist(), strict=True)))
    hashes, numbers = counts.total()
    assert dict(zip(hashes.tolist(), numbers.tolist(), strict=True)) == {
        h: n for h, n in slow.items() if n
    }
    assert (np.diff(hashes.astype(np.int64)) > 0).all()


def test_what_is_not_trained_on_shapes_no_vocabulary(tmp_path):
    rows = random_rows()
    before = load_clicks("shop", folder_of(tmp_path / "", rows), threshold=2)
    later = [*rows[:160], *((label, "elsewhere", "k0") for label, _, _ in rows[160:])]
    after = load_clicks("shop", folder_of(tmp_path, later), threshold=2)
    assert before.sizes == after.sizes
    assert (before.rows(0, 160)[0] == after.rows(0, 160)[0]).all()
    assert (after.rows(160, 200)[0][:, 0] == 0).all()
    assert before.digest != after.digest


def test_the_same_bytes_twice(tmp_path):
    copies = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        data = load_clicks("shop", folder_of(tmp_path / name, random_rows()))
        copies.append({path.name: path.read_bytes() for path in data.encoded.folder.iterdir()})
        copies[-1]["digest"] = data.digest
    assert copies[0] == copies[1]
    assert {"codes.bin", "labels.bin", "users.bin", "about.json"} <= copies[0].keys()
    assert "values.bin" not in copies[0]


def test_a_copy_is_used_until_something_changes(tmp_path, monkeypatch):
    folder_of(tmp_path, random_rows())
    made = []
    monkeypatch.setattr(
        "families.clicks.dataset.encode", lambda *args: made.append(1) or cache.encode(*args)
    )
    flags = [
        {},
        {},
        {"threshold": 3},
        {"validate": False},
        {"test_ratio": 0.2},
        {"columns": Columns(numeric=["colour"])},
        {},
    ]
    for flag, copies in zip(flags, [1, 1, 2, 3, 4, 5, 5], strict=True):
        if "columns" in flag:
            with pytest.raises(UserError, match="not a number"):
                load_clicks("shop", tmp_path, **flag)
        else:
            load_clicks("shop", tmp_path, **flag)
            assert len(made) == copies


def test_a_copy_goes_by_the_content(tmp_path):
    """Labels that are mended in place, with the time kept, make another copy; a time does not."""
    folder_of(tmp_path, random_rows())
    path = tmp_path / "shop" / "clicks.csv"
    before, stat = load_clicks("shop", tmp_path), path.stat()
    os.utime(path, ns=(1, stat.st_mtime_ns + 1))
    assert load_clicks("shop", tmp_path).encoded.folder == before.encoded.folder
    text = path.read_text()
    path.write_text(text.replace("\n1,", "\nX,").replace("\n0,", "\n1,").replace("\nX,", "\n0,"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    after = load_clicks("shop", tmp_path)
    assert (after.rows(0, 200)[1] == 1 - before.rows(0, 200)[1]).all()
    assert after.digest != before.digest


@pytest.mark.parametrize("where", ["_write_blocks", "_number_values", "_digest"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_done_stays(tmp_path, monkeypatch, where, error):
    folder_of(tmp_path, random_rows())
    with monkeypatch.context() as patch:
        real = getattr(cache, where)

        def fail(*args):
            real(*args)
            raise error

        patch.setattr(cache, where, fail)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
            load_clicks("shop", tmp_path)
    assert list((tmp_path / "shop" / ".cache").iterdir()) == []
    assert len(load_clicks("shop", tmp_path).rows(0, 200)[0]) == 200


def test_what_a_kill_left_is_removed(tmp_path):
    cache = folder_of(tmp_path, random_rows()) / "shop" / ".cache"
    machine = platform.node()
    dead = cache / f".shop.aaaa.{machine}.4194304.tmp"
    alive = cache / f".shop.aaaa.{machine}.{os.getppid()}.tmp"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "codes.bin").write_bytes(b"1234")
    load_clicks("shop", tmp_path)
    assert (dead.exists(), alive.exists()) == (False, True)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    folder_of(tmp_path, random_rows())

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    data = load_clicks("shop", tmp_path)
    assert "no encoded copy kept" in caplog.text
    assert tmp_path not in data.encoded.folder.parents
    assert data.digest == load_clicks("shop", tmp_path).digest


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (
            random_rows(8),
            {"test_ratio": 0.05},
            "8 rows are too few; none is left for the test split",
        ),
        (
            random_rows(4),
            {"test_ratio": 0.9},
            "4 rows are too few; none is left for the train split",
        ),
        ([], {}, "0 rows are too few"),
        (
            [(1, "a", "b")] * 90 + [(0, "a", "b")] * 10,
            {},
            r"shop \(clicks.csv\): all 80 labels of its train split are 1; AUC needs 0 and 1: see",
        ),
        (
            [(1, "a", "b"), (0, "a", "b")] * 40 + [(0, "a", "b")] * 20,
            {},
            r"all 10 labels of its valid split are 0; .* with both \(a larger --valid_ratio\)",
        ),
    ],
)
def test_too_little(tmp_path, rows, flags, message):
    with pytest.raises(UserError, match=message):
        load_clicks("shop", folder_of(tmp_path, rows), **flags)
    assert list((tmp_path / "shop" / ".cache").iterdir()) == []


def test_broken_lines_are_counted(tmp_path, caplog):
    rows = random_rows(100)
    folder = folder_of(tmp_path, [*rows[:50], ("?", "a", "b"), *rows[50:]])
    data = load_clicks("shop", folder, skip_bad_lines=True)
    assert "1 broken lines are left out, line 52 first" in caplog.text
    assert (data.skipped, data.counts()["rows"]) == (1, 100)
    assert "1 broken lines left out" in data.describe()
    assert data.rows(0, 100)[1].tolist() == [row[0] for row in rows]


def test_counts_and_description(tmp_path):
    data = load_clicks("shop", folder_of(tmp_path, random_rows()), validate=False, test_ratio=0.25)
    assert data.counts() == {
        **{"rows": 200, "fields": 2, "values": sum(data.sizes)},
        **{"train": 150, "valid": 0, "test": 50},
    }
    assert "shop: 200 rows, 2 fields" in data.describe()
    assert data.digest[:12] in data.describe()


def test_rows_by_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("families.clicks.dataset.READ_ROWS", 7)
    data = load_clicks("shop", folder_of(tmp_path, random_rows()))
    rows = RowRange(data, 13, 60, torch.device("cpu"))
    blocks = list(rows.blocks())
    assert [len(labels) for _, labels in blocks] == [7] * 6 + [5]
    assert torch.cat([ids for ids, _ in blocks]).tolist() == data.rows(13, 60)[0].tolist()
    assert (rows.users(), len(rows)) == (None, 47)
    slots = rows.divide(4)
    assert [(slot.start, slot.stop) for slot in slots] == [(13, 24), (24, 36), (36, 48), (48, 60)]
    assert torch.cat([slot.labels() for slot in slots]).tolist() == rows.labels().tolist()


def test_digest_is_of_ids_labels_and_splits(tmp_path):
    rows = random_rows()
    digests = {
        load_clicks("shop", folder_of(tmp_path, rows), test_ratio=ratio).digest
        for ratio in (0.1, 0.2)
    }
    other = [(1 - rows[0][0], *rows[0][1:]), *rows[1:]]
    digests.add(load_clicks("shop", folder_of(tmp_path, other)).digest)
    assert len(digests) == 3
    assert all(len(digest) == len(hashlib.sha256().hexdigest()) for digest in digests)
