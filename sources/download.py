"""Download the named data sets: the addresses, digests and published counts of their files."""

import hashlib
import io
import logging
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


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set that can be downloaded.

    name: in the data set's folder; of a zip archive, the name of the folder in it
    url: its address
    digest: "sha256:...", of the content, or "git:...", its id as a git blob: sha1 of
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


def _movielens(name, sha256, members, counts):
    """A data set of GroupLens: a zip archive.

    name: of the data set
    sha256: of the archive
    members: files of the archive that are kept
    counts: number of users, items and interactions
    """
    archive = RemoteFile(name, f"{GROUPLENS}/{name}.zip", f"sha256:{sha256}", members)
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
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
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
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ("README", "movies.dat", "users.dat", "ratings.dat"),
        counts=(6040, 3706, 1_000_209),
    ),
}


def fetch(remote, folder, allowed=True):
    """Download a file of a data set. Nothing is written before the digest is checked.

    remote (RemoteFile)
    folder (Path): of the data set
    allowed: False raises instead of downloading

    Raises UserError for a wrong digest, an HTTP error, a server that does not answer, and a disk
    that refuses. Its text gives the address, and where to put the file by hand.
    """
    target = folder / remote.name
    by_hand = f"get {remote.url} by hand and save it as {target}"
    if remote.members:
        target = folder / remote.members[-1]
        by_hand = f"get {remote.url} by hand and unpack it into {folder.parent}"
    if not allowed:
        raise UserError(f"{target} is absent and --no_download is set: {by_hand}")
    log.info("downloading %s", remote.url)
    try:
        content = io.BytesIO()
        pooch.HTTPDownloader(progressbar=on_terminal(), timeout=TIMEOUT_S)(
            remote.url, content, None
        )
        found = _digest(content.getvalue(), remote.digest)
        if found != remote.digest:
            raise UserError(
                f"{remote.url} has digest {found}, not {remote.digest}: cut off or changed; "
                f"{by_hand}"
            )
        for name, data in _files(remote, content):
            with atomic_file(folder / name) as file:
                file.write(data)
    except requests.RequestException as error:  # is an OSError too, so it comes first
        raise UserError(
            f"cannot download {remote.url} ({_reason(error)}); try again, or {by_hand}"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}); make room, then {by_hand} or run again"
        ) from None


def _files(remote, content):
    """Yield (name, bytes) of each file to keep.

    Of an archive, these are the named members only: no other path in it is ever written.

    remote (RemoteFile)
    content (BytesIO): the download
    """
    if not remote.members:
        yield remote.name, content.getvalue()
        return
    with zipfile.ZipFile(content) as archive:
        for member in remote.members:
            yield member, archive.read(f"{remote.name}/{member}")


def _digest(content, like):
    """Digest of bytes, of the kind of `like`; see RemoteFile."""
    if like.startswith("git:"):
        return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _reason(error):
    """The cause of an error of requests, in few words."""
    if error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {TIMEOUT_S} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return str(error).splitlines()[0][:80]
