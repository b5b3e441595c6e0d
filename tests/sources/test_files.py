"""Content of files: compressed or not, damaged, or of a kind that holds no table."""

import gzip
import hashlib
import io
import tarfile
import zipfile

import pytest
from data_tools import COMPRESSIONS, arrow, parquet, read

from cli.errors import UserError
from sources.files import HASHED, digest_of_file, head_of, pieces

PAIRS = [(f"u{n % 7}", f"i{n * n}") for n in range(100)]
TABLE = b"user,item\n" + b"".join(f"{user},{item}\n".encode() for user, item in PAIRS)


def archive(files):
    """A zip archive of {name: content}."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return sink.getvalue()


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize(
    "content", [TABLE, parquet(["user", "item"], PAIRS), arrow(["user", "item"], PAIRS)]
)
def test_compression_is_recognised_by_content_whatever_the_name(tmp_path, compress, content):
    (tmp_path / "data.csv").write_bytes(compress(content))
    assert read(tmp_path / "data.csv") == PAIRS


def test_content_comes_in_pieces(tmp_path):
    (tmp_path / "file").write_bytes(gzip.compress(TABLE))
    found = list(pieces(tmp_path / "file", 100))
    assert b"".join(found) == TABLE
    assert {len(piece) for piece in found[:-1]} == {100}
    assert head_of(tmp_path / "file", 10) == TABLE[:10]


def test_zip_with_one_file_of_data(tmp_path):
    files = {"data/": b"", "data/x": TABLE, "__MACOSX/data/x": b"?"}
    (tmp_path / "file").write_bytes(archive(files))
    assert read(tmp_path / "file") == PAIRS


def test_encrypted_zip(tmp_path):
    made = bytearray(archive({"x": TABLE}))
    made[6] |= 1  # the flag of encryption, in both places
    made[made.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "file").write_bytes(made)
    with pytest.raises(UserError, match=r"cannot unpack .*encrypted"):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": TABLE, "b": TABLE}, "is a zip archive of a, b; unpack the one to read"),
        ({}, "is a zip archive of no file"),
        ({"[Content_Types].xml": b"", "xl": b""}, "is an Excel workbook; save its sheet as CSV"),
        ({"a.npy": b"", "b.npy": b""}, "is a NumPy archive; see datasets/README.md"),
    ],
)
def test_other_zip_archives(tmp_path, files, message):
    (tmp_path / "file").write_bytes(archive(files))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "file")


@pytest.mark.parametrize("name", list(COMPRESSIONS)[1:])
def test_damage_is_named(tmp_path, name):
    whole = COMPRESSIONS[name](TABLE)
    half = len(whole) // 2
    for damaged in (whole[:half], whole[:-5], whole[:half] + b"?!" + whole[half + 2 :]):
        (tmp_path / "file").write_bytes(damaged)
        with pytest.raises(UserError, match=rf"file is a damaged {name} file \(.*; fetch it again"):
            read(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x93NUMPY\x01\x00", "a NumPy array; see datasets/README.md, Arrays$"),
        (b"\x89HDF\r\n\x1a\n", "HDF5; save it as CSV or Parquet"),
        (b"SQLite format 3\0", "an SQLite data base;"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
        (b"\x80\x04\x95", "a Python pickle, which could run code;"),
        ("user,item\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"%%MatrixMarket matrix coordinate real general\n3 4 5\n1 1 3\n", "a MatrixMarket file"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "a pointer of Git LFS; fetch"),
        (b'[{"user": 1, "item": 2}]', "a JSON array; write a JSON object a line"),
        (b'["ann", "tea", 5]\n["bob", "tea", 4]\n', "a JSON array;"),
        (b"<!DOCTYPE html><html>", "markup;"),
        (b"FEA1\0\0", "Feather of version 1"),
    ],
)
def test_other_kinds_are_named(tmp_path, content, kind):
    (tmp_path / "data.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"data.csv is {kind}"):
        read(tmp_path / "data.csv")


def test_tar_is_named(tmp_path):
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as made:
        made.add(__file__, "file")
    with pytest.raises(UserError, match=r"data.tar.gz is a tar archive; unpack the file to read"):
        read(tmp_path / "data.tar.gz")


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none.csv \(No such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"cannot read .*\(Is a directory\)"):
        read(tmp_path)


def test_digest_is_of_all_bytes_in_their_order(tmp_path):
    def digest(content):
        (tmp_path / "file").write_bytes(content)
        return digest_of_file(tmp_path / "file")

    large = bytes(HASHED) + b"end"
    blocks = hashlib.sha256(bytes(HASHED)).digest() + hashlib.sha256(b"end").digest()
    assert digest(large) == hashlib.sha256(blocks).hexdigest()
    assert len({digest(made) for made in (b"", b"a", b"ab", b"ba", large, large[:-1])}) == 6
