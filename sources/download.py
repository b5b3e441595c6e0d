"""Download the named data sets: the addresses, digests and published counts of their files."""

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import zipfile
from dataclasses import dataclass

import pooch
import requests

from cli.errors import UserError
from utils import atomic_file, on_terminal

log = logging.getLogger("onebp")


GITHUB = "https://raw.githubusercontent.com"
ONEBP = f"{GITHUB}/studentcej/OneBP/8ad479b982ebbbbdb384704d27795465be170d97/data"
LIGHTGCN = f"{GITHUB}/gusye1234/LightGCN-PyTorch/947ca2b/data"
GROUPLENS = "https://files.grouplens.org/datasets/movielens"
TIMEOUT_S = 30  # seconds without a byte from the server
LONGEST_S = 7200  # seconds that a download may last: 300 MB at 40 kB/s
LARGEST = 1 << 30  # bytes of a download; the largest archive has 262 MB
PIECE = 1 << 20  # bytes in memory at a time: archives have hundreds of MB


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set that can be downloaded.

    name: in the data set's folder; of a zip archive, the name of the folder in it
    url: its address
    digest: "sha256:..." or "md5:...", of the content, or "git:...", its id as a git blob: sha1 of
        `blob <length>\\0` + content
    members: the files of a zip archive that are kept; the archive is not
    """

    name: str
    url: str
    digest: str
    members: tuple[str, ...] = ()

    @property
    def pattern(self):
        """Pattern of the names of files that can replace this one."""
        return f"{self.name.split('.')[0]}.*"


@dataclass(frozen=True)
class Published:
    """A published data set: its files, and the published {"users": count, "items": count, ...}."""

    files: tuple[RemoteFile, ...]
    counts: dict[str, int]


def _published(base, files, counts):
    """A data set with a train and a test file.

    base: address of their folder
    files: (name here, name there, digest) of each
    counts: number of users, items, training and test interactions
    """
    named = dict(zip(("users", "items", "train", "test"), counts, strict=True))
    return Published(
        tuple(RemoteFile(name, f"{base}/{remote}", digest) for name, remote, digest in files), named
    )


def _movielens(name, digest, members, counts, inside=None):
    """A data set of GroupLens: a zip archive.

    name: of the data set
    digest: of the archive, see RemoteFile
    members: files of the archive that are kept
    counts: number of users, items (with a rating) and interactions
    inside: name of the folder in the archive; None: the data set's
    """
    archive = RemoteFile(inside or name, f"{GROUPLENS}/{name}.zip", digest, members)
    return Published((archive,), dict(zip(("users", "items", "interactions"), counts, strict=True)))


REGISTRY = {
    "100k": _published(
        ONEBP,
        [
            (
                "train.csv",
                "100k_train.csv",
                "sha256:8a3625f58b6e88fca5e70690f3d89990ff81a46b631705acbbe5c6a2e51822e8",
            ),
            (
                "test.csv",
                "100k_test.csv",
                "sha256:39de7a693911ccae580852feab0631f2919767fdfbd4b2450a2f9352f9c6c174",
            ),
        ],
        counts=(943, 1682, 80_000, 20_000),
    ),
    "1M": _published(
        ONEBP,
        [
            (
                "train.csv",
                "1m1_train.csv",
                "sha256:73255cce6b5a4b961c3e2abe259520d7db0bc3c881e046dbe21209431c668ef5",
            ),
            (
                "test.csv",
                "1m1_test.csv",
                "sha256:c827b5346d1e4d874da648037799e40dce781951935ccfe8b843acfdb61ba228",
            ),
        ],
        counts=(6040, 3706, 800_193, 200_016),
    ),
    "Gowalla": _published(
        f"{LIGHTGCN}/gowalla",
        [
            ("train.txt", "train.txt", "git:a27782bd7a1d4d0744148dc0460ea94da74763f2"),
            (
                "test.txt",
                "test.txt",
                "sha256:099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
            ),
        ],
        counts=(29_858, 40_981, 810_128, 217_242),
    ),
    "Yelp2018": _published(
        f"{LIGHTGCN}/yelp2018",
        [
            ("train.txt", "train.txt", "git:cda12361055ba448ae4bd1070f6000c16dea8f22"),
            (
                "test.txt",
                "test.txt",
                "sha256:9cd9b37926cd1447a06625ffa7914527573fb097c10cb0bbdb1d1b8ded3742fe",
            ),
        ],
        counts=(31_668, 38_048, 1_237_259, 324_147),
    ),
    "ml-100k": _movielens(
        "ml-100k",
        "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        (
            "README",
            "u.item",
            "u.genre",
            *(f"u{fold}.{kind}" for fold in range(1, 6) for kind in ("base", "test")),
            "u.data",
        ),
        counts=(943, 1682, 100_000),
    ),
    "ml-1m": _movielens(
        "ml-1m",
        "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ("README", "movies.dat", "users.dat", "ratings.dat"),
        counts=(6040, 3706, 1_000_209),
    ),
    # The MD5 sums are those that GroupLens publishes beside the archives, as <name>.zip.md5.
    "ml-10m": _movielens(
        "ml-10m",
        "md5:ce571fd55effeba0271552578f2648bd",
        ("README.html", "movies.dat", "ratings.dat"),
        counts=(69_878, 10_677, 10_000_054),
        inside="ml-10M100K",
    ),
    "ml-20m": _movielens(
        "ml-20m",
        "md5:cd245b17a1ae2cc31bb14903e1204af3",
        ("README.txt", "movies.csv", "ratings.csv"),
        counts=(138_493, 26_744, 20_000_263),
    ),
    "ml-25m": _movielens(
        "ml-25m",
        "md5:6b51fb2759a8657d3bfcbfc42b592ada",
        ("README.txt", "movies.csv", "ratings.csv"),
        counts=(162_541, 59_047, 25_000_095),
    ),
    "ml-32m": _movielens(
        "ml-32m",
        "md5:d472be332d4daa821edc399621853b57",
        ("README.txt", "movies.csv", "ratings.csv"),
        counts=(200_948, 84_432, 32_000_204),
    ),
    # GroupLens may replace this one; its archive has been that of September 2018 since then.
    "ml-latest-small": _movielens(
        "ml-latest-small",
        "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        ("README.txt", "movies.csv", "ratings.csv"),
        counts=(610, 9_724, 100_836),
    ),
}


def fetch(remote, folder, allowed=True):
    """Download a file of a data set. Nothing is kept before the digest is checked.

    remote (RemoteFile)
    folder (Path): of the data set
    allowed: False raises instead of downloading

    Raises UserError for a wrong digest, an archive that lacks a file, an HTTP error, a server that
    does not answer or does not end (LARGEST, LONGEST_S), and a disk that refuses. Its text gives
    the address, and where to put the file by hand.
    """
    target = folder / remote.name
    by_hand = f"get {remote.url} by hand and save it as {target}"
    if remote.members:
        target = folder / remote.members[-1]
        by_hand = f"get {remote.url} by hand and unpack its folder {remote.name} as {folder}"
    if not allowed:
        raise UserError(f"{target} is absent and --no_download is set: {by_hand}")
    log.info("downloading %s", remote.url)
    try:
        # A file without a name, on the disk of the data set: it is gone however this block ends.
        place = next(path for path in (folder, *folder.parents) if path.is_dir())
        with tempfile.TemporaryFile(dir=place) as content:
            _download(remote.url, content)
            found = _digest(content, remote.digest)
            if found != remote.digest:
                raise UserError(
                    f"{remote.url} has digest {found}, not {remote.digest}: cut off or changed; "
                    f"{by_hand}"
                )
            _keep(remote, content, folder)
    except zipfile.BadZipFile as error:
        raise UserError(f"{remote.url} is no zip archive ({error}); {by_hand}") from None
    except (requests.RequestException, _Refused) as error:  # the first is an OSError, too
        raise UserError(
            f"cannot download {remote.url} ({_reason(error)}); try again, or {by_hand}"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}); make room, then {by_hand} or run again"
        ) from None


class _Refused(Exception):
    """What is wrong with an answer of a server."""


class _Limited:
    """A file to write a download into. Raises _Refused for more than LARGEST bytes."""

    def __init__(self, file):
        self.file, self.flush = file, file.flush

    def write(self, piece):
        if self.file.tell() + len(piece) > LARGEST:
            raise _Refused(f"more than {LARGEST >> 20} MiB")
        return self.file.write(piece)


def _download(url, content):
    """Download into an open file. Raises _Refused, or an error of requests or of the disk."""
    get = pooch.HTTPDownloader(progressbar=on_terminal(), chunk_size=PIECE, timeout=TIMEOUT_S)
    errors = []

    def download():
        try:
            get(url, _Limited(content), None)
        except ValueError as error:  # pooch's; that of requests for a wrong address is one, too
            is_known = isinstance(error, requests.RequestException)
            errors.append(error if is_known else _Refused("its Content-Length is no number"))
        except Exception as error:
            errors.append(error)

    # A server that sends a byte now and then is never late: only who waits beside it can give up.
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(LONGEST_S)
    if thread.is_alive():
        raise _Refused(f"not complete after {LONGEST_S} s")
    if errors:
        raise errors[0]


def _keep(remote, content, folder):
    """Write a download into the folder of its data set.

    Of an archive, the named members only: no other path in it is ever written. The file of ratings
    comes last, so that without it the archive is fetched again.

    remote (RemoteFile)
    content: the download, an open file
    folder (Path)

    Raises UserError, with nothing written, if the archive lacks a member.
    """
    if not remote.members:
        content.seek(0)
        with atomic_file(folder / remote.name) as file:
            shutil.copyfileobj(content, file, PIECE)
        return
    with zipfile.ZipFile(content) as archive:
        names = {member: f"{remote.name}/{member}" for member in remote.members}
        if absent := set(names.values()) - set(archive.namelist()):
            raise UserError(
                f"{remote.url} lacks {min(absent)}; correct the REGISTRY in sources/download.py"
            )
        for member, name in names.items():
            with archive.open(name) as packed, atomic_file(folder / member) as file:
                shutil.copyfileobj(packed, file, PIECE)


def _digest(file, like):
    """Digest of an open file, of the kind of `like`; see RemoteFile."""
    kind = like.split(":")[0]
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    length = file.seek(0, os.SEEK_END)
    if kind == "git":
        digest.update(b"blob %d\0" % length)
    file.seek(0)
    while piece := file.read(PIECE):
        digest.update(piece)
    return f"{kind}:{digest.hexdigest()}"


def _reason(error):
    """The cause of an error of requests, in few words."""
    if isinstance(error, _Refused):
        return str(error)
    if error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {TIMEOUT_S} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return (str(error) or type(error).__name__).splitlines()[0][:80]
