"""The named data sets: where their files come from, how a download is checked, what the published split holds."""

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


ONEBP = "https://raw.githubusercontent.com/studentcej/OneBP/8ad479b982ebbbbdb384704d27795465be170d97/data"
LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b/data"
GROUPLENS = "https://files.grouplens.org/datasets/movielens"
TIMEOUT_S = 30  # without a byte from the server


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set: its name in the data set's folder, its address, its digest.

    The digest is `sha256:...` of the content, or `git:...`, the id as a git blob: sha1 of `blob <length>\\0` + content.
    Of a zip archive, whose name is that of the folder in it, the `members` are kept and not the archive.
    """

    name: str
    url: str
    digest: str
    members: tuple[str, ...] = ()

    @property
    def pattern(self):
        """What files may be called that stand for this one."""
        return f"{self.name.split('.')[0]}.*"


@dataclass(frozen=True)
class Published:
    """A published data set: its files, and the counts that every paper on it quotes: of users, items, train, ..."""

    files: tuple[RemoteFile, ...]
    counts: dict[str, int]


def _published(base, files, counts):
    """`files`: (name in the folder, name at `base`, digest) of each; counts: of users, items, train and test."""
    named = dict(zip(("users", "items", "train", "test"), counts, strict=True))
    return Published(
        tuple(RemoteFile(name, f"{base}/{remote}", digest) for name, remote, digest in files), named
    )


def _movielens(name, sha256, members, counts):
    """A data set of GroupLens: an archive; counts: of users, items and interactions."""
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
            *(f"u{fold}.{part}" for fold in range(1, 6) for part in ("base", "test")),
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
    """Download one RemoteFile into `folder` (a Path): first its digest is checked, then files get their names.

    Raises UserError, always with the address and with the place where the file can be put by hand, when `allowed` is
    false, on a wrong digest, an HTTP error, a server that does not answer, and a disk that refuses.
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
                f"{remote.url} has digest {found}, not {remote.digest}: cut off or changed; {by_hand}"
            )
        for name, data in _files(remote, content):
            with atomic_file(folder / name) as file:
                file.write(data)
    except requests.RequestException as error:  # an OSError too, so it comes first
        raise UserError(
            f"cannot download {remote.url} ({_reason(error)}); try again, or {by_hand}"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}); make room, then {by_hand} or run again"
        ) from None


def _files(remote, content):
    """Yield (name, bytes) of what to keep of a download; a member is read by its name, whatever else an archive has."""
    if not remote.members:
        yield remote.name, content.getvalue()
        return
    with zipfile.ZipFile(content) as archive:
        for member in remote.members:
            yield member, archive.read(f"{remote.name}/{member}")


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
