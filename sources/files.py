"""Read the content of a file of data: plain or compressed. Other kinds of files are named.

A compressed file is recognised by its first bytes, whatever its name.
"""

import bz2
import gzip
import hashlib
import lzma
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cli.errors import UserError
from utils import progress_bar

PIECE = 1 << 23  # bytes of content read at a time
HEAD = 1 << 20  # bytes of content by which a file is recognised
NUL = "a NUL character; this is UTF-16 (save it as UTF-8), or no text, or damaged"
HASHED = 1 << 24  # bytes of a file that are hashed together

# First bytes of files that hold no table, and what to do with them.
_OTHER_KINDS = {
    b"\x93NUMPY": "a NumPy array; see datasets/README.md, Arrays",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "an SQLite data base",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!\x1a": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"Obj\x01": "Avro",
    b"FEA1": "Feather of version 1",
    b"MATLAB 5.0": "a MATLAB file",
    b"%%MatrixMarket": "a MatrixMarket file",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file by git lfs pull",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"\x80\x02": "a Python pickle, which could run code",
    b"\x80\x03": "a Python pickle, which could run code",
    b"\x80\x04": "a Python pickle, which could run code",
    b"\x80\x05": "a Python pickle, which could run code",
}
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
_NOT_UNPACKED = (NotImplementedError, RuntimeError)  # of zip: encrypted, or a method of its own


class Content:
    """The content of a file, decompressed, to be read from its beginning to its end.

    path (Path)
    compression: "gzip", "bzip2", "xz", "zip", or "" of a plain file

    A context manager. Raises UserError for a file that is absent, damaged, or of a kind that holds
    no table.
    """

    def __init__(self, path):
        self.path, self.compression = path, ""

    def __enter__(self):
        try:
            self.raw = open(self.path, "rb")
            self.size = self.path.stat().st_size
            self.stream = self._opened()
        except (*_DAMAGE, *_NOT_UNPACKED, OSError) as error:
            self._explain(error)
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.raw.close()

    def read(self, size=-1):
        """The next `size` bytes: fewer at the end only."""
        try:
            return self.stream.read(size)
        except (*_DAMAGE, *_NOT_UNPACKED, OSError) as error:
            self._explain(error)

    def _opened(self):
        """The stream of the decompressed content."""
        first = self.raw.read(16)
        self.raw.seek(0)
        for magic, (name, open_it) in _COMPRESSED.items():
            if first.startswith(magic):
                self.compression = name
                return open_it(self.raw)
        if first.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            self.compression = "zip"
            return self._only_member()
        return self.raw

    def _only_member(self):
        """The stream of the only file in a zip archive."""
        archive = zipfile.ZipFile(self.raw)
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        names = [name for name in names if not name.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names:
            raise UserError(f"{self.path} is an Excel workbook; save its sheet as CSV")
        if names and all(name.endswith(".npy") for name in names):
            raise UserError(f"{self.path} is a NumPy archive; see datasets/README.md, Arrays")
        if len(names) != 1:
            listed = ", ".join(names[:5]) or "no file"
            raise UserError(f"{self.path} is a zip archive of {listed}; unpack the one to read")
        return archive.open(names[0])

    def _explain(self, error):
        """Raise a UserError for an error of reading."""
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot read {self.path} ({error.strerror})") from None
        if isinstance(error, _NOT_UNPACKED):
            raise UserError(f"cannot unpack {self.path} ({error}); unpack it by hand") from None
        kind = self.compression or "zip"
        raise UserError(f"{self.path} is a damaged {kind} file ({error}); fetch it again") from None


def head_of(path, size=HEAD):
    """The first `size` bytes of a file's content. Raises UserError as Content does.

    A kind of file that holds no table is named.
    """
    with Content(path) as content:
        head = content.read(size)
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            advice = "" if ";" in kind else "; save it as CSV or Parquet"
            raise UserError(f"{path} is {kind}{advice}")
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive; unpack the file to read")
    return head


def pieces(path, size=PIECE):
    """Yield the content of a file by pieces of `size` bytes, with a progress bar."""
    with Content(path) as content, progress_bar("reading", content.size, "B") as bar:
        while piece := content.read(size):
            yield piece
            bar.update(content.raw.tell() - bar.n)


def text_of(path):
    """(text of a file with line ends "\\n", its encoding): UTF-8, or Latin-1 if it is not that.

    Raises UserError as Content does, and for a NUL character.
    """
    with Content(path) as content:
        data = content.read()
    try:
        text, encoding = data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "Latin-1"
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: {NUL}")
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def map_array(path, advice):
    """A file of whole numbers (n,) of any NumPy type of signed ones, mapped into memory.

    advice: what to do, for messages. Raises UserError if it is absent or something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, if it looks for a header of Python 2
            array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}); {advice}") from None
    except Exception as error:  # NumPy parses the header as Python: damage can raise anything
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"cannot read {path} ({reason}); {advice}") from None
    if array.ndim != 1 or array.dtype.kind != "i" or not array.dtype.isnative:
        kind = f"{array.dtype}{'' if array.dtype.isnative else ' of another byte order'}"
        raise UserError(
            f"{path} holds {kind} of {array.ndim} axes, not whole numbers in a row; {advice}"
        )
    return array


def checksum_of_file(path):
    """The CRC-32 of a file, which finds damage: three times as fast as a sha256."""
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def digest_of_file(path):
    """sha256 of the sha256 of each HASHED bytes of a file: two threads share the work."""

    def digest(start):
        with open(path, "rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(HASHED)).digest()

    size = path.stat().st_size
    with ThreadPoolExecutor(2) as threads:
        digests = threads.map(digest, range(0, max(size, 1), HASHED))
        return hashlib.sha256(b"".join(digests)).hexdigest()
