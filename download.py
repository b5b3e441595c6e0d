"""The named data sets: where their files come from, how a download is checked, what the published split holds."""

import hashlib
import logging
from dataclasses import dataclass

import pooch
import requests

from errors import UserError
from utils import atomic_file, on_terminal

log = logging.getLogger("onebp")

ONEBP = "https://raw.githubusercontent.com/studentcej/OneBP/8ad479b982ebbbbdb384704d27795465be170d97/data"
LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b/data"
TIMEOUT_S = 30  # without a byte from the server


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set: its name in the data set's folder, its address, its digest.

    The digest is `sha256:...` of the content, or `git:...`, the id as a git blob: sha1 of `blob <length>\\0` + content.
    """

    name: str
    url: str
    digest: str


@dataclass(frozen=True)
class Published:
    """A published split: its files, and the counts that every paper on it quotes: users, items, train, test."""

    files: tuple[RemoteFile, ...]
    counts: tuple[int, int, int, int]


def _published(base, files, counts):
    """`files`: (name in the folder, name at `base`, digest) of each."""
    return Published(tuple(RemoteFile(name, f"{base}/{remote}", digest) for name, remote, digest in files), counts)


REGISTRY = {
    "100k": _published(
        ONEBP,
        [
            ("train.csv", "100k_train.csv", "sha256:8a3625f58b6e88fca5e70690f3d89990ff81a46b631705acbbe5c6a2e51822e8"),
            ("test.csv", "100k_test.csv", "sha256:39de7a693911ccae580852feab0631f2919767fdfbd4b2450a2f9352f9c6c174"),
        ],
        counts=(943, 1682, 80_000, 20_000),
    ),
    "1M": _published(
        ONEBP,
        [
            ("train.csv", "1m1_train.csv", "sha256:73255cce6b5a4b961c3e2abe259520d7db0bc3c881e046dbe21209431c668ef5"),
            ("test.csv", "1m1_test.csv", "sha256:c827b5346d1e4d874da648037799e40dce781951935ccfe8b843acfdb61ba228"),
        ],
        counts=(6040, 3706, 800_193, 200_016),
    ),
    "Gowalla": _published(
        f"{LIGHTGCN}/gowalla",
        [
            ("train.txt", "train.txt", "git:a27782bd7a1d4d0744148dc0460ea94da74763f2"),
            ("test.txt", "test.txt", "sha256:099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3"),
        ],
        counts=(29_858, 40_981, 810_128, 217_242),
    ),
    "Yelp2018": _published(
        f"{LIGHTGCN}/yelp2018",
        [
            ("train.txt", "train.txt", "git:cda12361055ba448ae4bd1070f6000c16dea8f22"),
            ("test.txt", "test.txt", "sha256:9cd9b37926cd1447a06625ffa7914527573fb097c10cb0bbdb1d1b8ded3742fe"),
        ],
        counts=(31_668, 38_048, 1_237_259, 324_147),
    ),
}


def fetch(remote, folder, allowed=True):
    """Download one RemoteFile into `folder` (a Path): a temporary file first, then its digest, then the rename.

    Raises UserError, always with the address and with the place where the file can be put by hand, when `allowed` is
    false, on a wrong digest, an HTTP error, a server that does not answer, and a disk that refuses.
    """
    target = folder / remote.name
    by_hand = f"get {remote.url} by hand and save it as {target}"
    if not allowed:
        raise UserError(f"{target} is absent and --no_download is set: {by_hand}")
    log.info("downloading %s", remote.url)
    try:
        with atomic_file(target, "w+b") as file:
            pooch.HTTPDownloader(progressbar=on_terminal(), timeout=TIMEOUT_S)(remote.url, file, None)
            file.seek(0)
            found = _digest(file.read(), remote.digest)
            if found != remote.digest:
                raise UserError(f"{remote.url} has digest {found}, not {remote.digest}: cut off or changed; {by_hand}")
    except requests.RequestException as error:  # an OSError too, so it comes first
        raise UserError(f"cannot download {remote.url} ({_reason(error)}); try again, or {by_hand}") from None
    except OSError as error:
        raise UserError(f"cannot write {target} ({error.strerror}); make room, then {by_hand} or run again") from None


def _digest(content, like):
    """Digest of bytes in the form of `like` (see RemoteFile)."""
    if like.startswith("git:"):
        return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _reason(error):
    """The few words of a requests error that a person can use."""
    if error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {TIMEOUT_S} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return str(error).splitlines()[0][:80]
