"""A damaged encoded copy is made anew, or is one line: no wrong id, label or user is trained on."""

import json
import random
import shutil

import numpy as np
import pytest

from cli.errors import UserError
from families.clicks import encoded
from families.clicks.dataset import load_clicks

FILES = ("codes.bin", "labels.bin", "users.bin", "about.json")
ROWS = 300


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with clicks of users in several blocks, whose copy is made."""
    monkeypatch.setattr(encoded, "BLOCK", 64)
    draw = random.Random(0)
    lines = [
        f"{draw.randint(0, 1)},c{draw.randint(1, 9)},u{draw.randint(1, 20)}\n" for _ in range(ROWS)
    ]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/clicks.csv").write_text("click,city,user\n" + "".join(lines))
    load_clicks("shop", tmp_path)
    return tmp_path


def read(data):
    """All that is in a data set."""
    ids, labels = data.rows(0, ROWS)
    return data.digest, ids.tolist(), labels.tolist(), data.users(0, ROWS).tolist()


def flip(path, place):
    """Turn one bit of the byte at a place, given as a share of the file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_copy_is_made_anew(shop, caplog, name):
    data = load_clicks("shop", shop)
    whole, path = read(data), data.encoded.folder / name
    bytes_of = path.read_bytes()
    damages = [lambda place=place: flip(path, place) for place in (0, 0.3, 0.77, 1)]
    damages += [path.unlink, lambda: path.write_bytes(bytes_of[:-1]), lambda: path.write_text("{}")]
    damages += [lambda: path.write_bytes(bytes_of + b"0")]
    for number, damage in enumerate(damages, 1):
        damage()
        assert read(load_clicks("shop", shop)) == whole
        assert path.read_bytes() == bytes_of
        assert caplog.text.count(f"the encoded copy {path.parent} is damaged ({name}") == number


@pytest.mark.parametrize("name", FILES[:3])
def test_a_large_copy_is_checked_when_it_is_read(shop, monkeypatch, name):
    monkeypatch.setattr(encoded, "SMALL", 0)
    data = load_clicks("shop", shop)
    whole, path = read(data), data.encoded.folder / name
    flip(path, 0.5)  # in the block of the rows from 128 to 191
    data = load_clicks("shop", shop)
    part = name.split(".")[0]
    assert len(data.encoded.read(part, 0, 128)) == 128
    assert len(data.encoded.read(part, 192, 300)) == 108
    with pytest.raises(UserError, match=rf"damaged \({name}, rows 128 to 191\); run again"):
        data.encoded.read(part, 100, 200)
    assert len(data.encoded.take(part, np.array([1, 127, 192, 299]))) == 4
    with pytest.raises(UserError, match="rows 128 to 191"):
        data.encoded.take(part, np.array([1, 150, 299]))
    assert read(load_clicks("shop", shop)) == whole

    flip(path, 0.5)
    assert read(load_clicks("shop", shop, verify=True)) == whole  # before anything is read


@pytest.mark.parametrize(("name", "value"), [("codes", -1), ("codes", 10), ("labels", 2)])
def test_ids_and_labels_out_of_range(shop, caplog, name, value):
    """Also where the checksum is that of the wrong rows."""
    data = load_clicks("shop", shop)
    whole, folder = read(data), data.encoded.folder
    first = encoded.map_rows(folder, name, 0, 1, data.encoded.widths[name], "r+")
    assert data.sizes[0] == 10
    first[0, 0] = value
    first.flush()
    encoded.write_metadata(folder, data.encoded.metadata)
    assert read(load_clicks("shop", shop)) == whole
    assert f"is damaged ({name}.bin, rows 0 to 63); making it anew" in caplog.text


def test_checksums_are_those_of_zlib(shop):
    folder = load_clicks("shop", shop).encoded.folder
    sums = json.loads((folder / "about.json").read_text())["checksums"]
    users = np.fromfile(folder / "users.bin", "<i8")
    assert sums["users"][1] == encoded.zlib.crc32(users[64:128].tobytes())
    assert [len(sums[name]) for name in ("codes", "labels", "users")] == [5, 5, 5]


def test_a_damaged_copy_in_a_run_is_one_line(shop, cli, monkeypatch):
    monkeypatch.setattr(encoded, "SMALL", 0)
    flags = ("--model", "LR", "--dataset", "shop", "--data_dir", shop, "--epochs", 1)
    shutil.rmtree(shop / "shop/.cache")
    assert cli(*flags)[0] == 0
    (codes,) = shop.glob("shop/.cache/*/codes.bin")
    flip(codes, 0.5)
    status, _, stderr = cli(*flags)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "is damaged (codes.bin, rows" in stderr
    status, stdout, stderr = cli(*flags, "--verify_data")
    assert (status, stderr) == (0, "")
    assert "is damaged (about.json: No such file or directory); making it anew" in stdout
