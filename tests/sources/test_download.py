"""Downloads against a server on this machine that behaves well, badly, slowly or not at all."""

import contextlib
import hashlib
import io
import resource
import signal
import threading
import time
import tracemalloc
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.errors import UserError
from dataloader import load_dataset
from sources import download
from sources.download import REGISTRY, Published, RemoteFile, fetch

FILES = {"train.csv": b"user,item\na,x\nb,y\n" + b"c,z\n" * 5000, "test.csv": b"user,item\na,y\n"}

WAYS = ("good", "short", "slow", "stall", "drops", "words", "endless")


class Server(BaseHTTPRequestHandler):
    """/WAY/NAME, or 404.

    The ways: good; short (cut off); slow (in pieces); stall (silent after ten bytes); drops (a byte
    now and then); words (a Content-Length that is no number); endless (without any).
    """

    def do_GET(self):
        way, name = self.path.strip("/").split("/")
        content = FILES.get(name)
        if content is None or way not in WAYS:
            self.send_error(404)
            return
        self.send_response(200)
        if way != "endless":
            self.send_header("Content-Length", "many" if way == "words" else str(len(content)))
        self.end_headers()
        if way == "endless":
            with contextlib.suppress(OSError):  # until the program closes the connection
                while True:
                    self.wfile.write(bytes(1 << 16))
        elif way == "drops":
            with contextlib.suppress(OSError):
                for place in range(len(content)):
                    self.wfile.write(content[place : place + 1])
                    time.sleep(0.1)
        elif way in ("good", "words"):
            self.wfile.write(content)
        elif way == "slow":
            for position in range(0, len(content), 4000):
                self.wfile.write(content[position : position + 4000])
                time.sleep(0.1)
        else:
            self.wfile.write(content[:10])
            if way == "stall":
                time.sleep(1.5)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT_S", 0.5)


@pytest.fixture
def limits(monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 4 << 20)
    monkeypatch.setattr(download, "LONGEST_S", 2)


def remote(base, name="train.csv", digest=None):
    return RemoteFile(
        name, f"{base}/{name}", digest or "sha256:" + hashlib.sha256(FILES[name]).hexdigest()
    )


@pytest.mark.parametrize("way", ["good", "slow"])
def test_good_and_slow(server, tmp_path, way):
    fetch(remote(f"{server}/{way}"), tmp_path / "new")
    assert (tmp_path / "new/train.csv").read_bytes() == FILES["train.csv"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train.csv"]


@pytest.mark.parametrize(
    "digest",
    [
        "git:c0f19e167f54b6970b531007b7fbf9d6507b648c",  # printf ... | git hash-object --stdin
        "md5:c5b1025afc0e9a99437545e61fd27b60",  # printf ... | md5sum
    ],
)
def test_kinds_of_digests(server, tmp_path, digest):
    fetch(remote(f"{server}/good", "test.csv", digest), tmp_path)
    assert (tmp_path / "test.csv").read_bytes() == FILES["test.csv"]


@pytest.mark.parametrize(
    ("way", "digest", "reason"),
    [
        ("short", None, "the connection broke off"),
        ("stall", None, "no answer within 0.5 s"),
        ("none", None, "HTTP 404"),
        ("drops", None, "not complete after 2 s"),
        ("words", None, "its Content-Length is no number"),
        ("endless", None, "more than 4 MiB"),
        ("good", "sha256:" + "0" * 64, "has digest sha256:.*cut off or changed"),
        ("good", "git:" + "0" * 40, "has digest git:.*cut off or changed"),
        ("good", "md5:" + "0" * 32, "has digest md5:.*cut off or changed"),
    ],
)
def test_failures_say_where_and_leave_nothing(server, limits, tmp_path, way, digest, reason):
    wanted = remote(f"{server}/{way}", digest=digest)
    with pytest.raises(UserError, match=reason) as error:
        fetch(wanted, tmp_path)
    assert f"get {wanted.url} by hand and save it as {tmp_path / 'train.csv'}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path):
    with pytest.raises(UserError, match=r"no connection to the server.*by hand"):
        fetch(remote("http://127.0.0.1:9"), tmp_path)


def test_full_disk(server, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*train.csv.*make room.*by hand"):
            fetch(remote(f"{server}/good"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_named_data_set_comes_by_itself(server, tmp_path, monkeypatch):
    files = tuple(remote(f"{server}/good", name) for name in FILES)
    monkeypatch.setitem(REGISTRY, "100k", Published(files, {"train": 3}))
    assert load_dataset("100K", tmp_path).test.nnz == 1
    files = tuple(remote(f"{server}/none", name) for name in FILES)
    monkeypatch.setitem(REGISTRY, "100k", Published(files, {"train": 3}))
    assert load_dataset("100k", tmp_path).test.nnz == 1  # not fetched again


def zipped(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def test_archive_gives_its_named_members_and_no_other(server, tmp_path, monkeypatch):
    archive = zipped(
        {"ml-1m/ratings.dat": "1::2::3\n", "../evil": "x", "/evil": "x", "ml-1m/users.dat": "x"}
    )
    monkeypatch.setitem(FILES, "ml-1m.zip", archive)
    digest = "sha256:" + hashlib.sha256(archive).hexdigest()
    file = RemoteFile("ml-1m", f"{server}/good/ml-1m.zip", digest, ("ratings.dat",))
    monkeypatch.setitem(REGISTRY, "ml-1m", Published((file,), {"interactions": 1}))
    (tmp_path / "deep").mkdir()
    with pytest.raises(UserError, match="no test interaction"):  # there is one rating
        load_dataset("ml-1m", tmp_path / "deep", ratings=True)
    found = {
        path.name for path in tmp_path.rglob("*") if path.is_file() and ".cache" not in path.parts
    }
    assert found == {"ratings.dat"}
    assert (tmp_path / "deep/ml-1m/ratings.dat").read_bytes() == b"1::2::3\n"


def archive_of(name, base, members, monkeypatch):
    """RemoteFile of an archive on the server. members: {file: content}, in a folder `name`"""
    content = zipped({f"{name}/{member}": data for member, data in members.items()})
    monkeypatch.setitem(FILES, f"{name}.zip", content)
    digest = "md5:" + hashlib.md5(content).hexdigest()
    return RemoteFile(name, f"{base}/{name}.zip", digest, tuple(members))


@pytest.mark.parametrize("name", ["ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small"])
def test_named_archives_of_grouplens(server, tmp_path, monkeypatch, name):
    """Each in GroupLens' own layout: rankings and ratings come from the same files."""
    if name == "ml-10m":
        folder, rows = "ml-10M100K", "1::122::4.5::838985046\n1::185::5::838983525\n"
        members = {"README.html": "<p>", "movies.dat": "122::Heat::Crime\n", "ratings.dat": rows}
    else:
        rows = "userId,movieId,rating,timestamp\n1,122,4.5,1147880044\n1,185,5.0,1147868817\n"
        folder, movies = name, "movieId,title,genres\n122,Heat,Crime\n"
        members = {"README.txt": "Summary", "movies.csv": movies, "ratings.csv": rows}
    made = archive_of(folder, f"{server}/good", members | {"tags.csv": "x"}, monkeypatch)
    published = REGISTRY[name].files[0]
    assert published.url == f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    file = replace(published, url=made.url, digest=made.digest)
    counts = {"users": 1, "items": 2, "interactions": 2}
    monkeypatch.setitem(REGISTRY, name, Published((file,), counts))

    data = load_dataset(name.upper(), tmp_path, ratings=True, test_ratio=0.5)
    assert {*data.train.data, *data.test.data} == {4.5, 5.0}
    data = load_dataset(name, tmp_path, test_ratio=0.5)
    assert (data.item_ids, data.train.nnz, data.test.nnz) == (["122", "185"], 1, 1)
    found = {path.name for path in (tmp_path / name).iterdir() if path.is_file()}
    assert found == members.keys()


def test_archive_that_lacks_a_file(server, tmp_path, monkeypatch):
    file = archive_of("d", f"{server}/good", {"README": "x", "ratings.csv": "x"}, monkeypatch)
    file = replace(file, members=("README", "movies.csv", "ratings.csv"))
    with pytest.raises(UserError, match=r"good/d\.zip lacks d/movies\.csv; correct"):
        fetch(file, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_archive_that_is_none(server, tmp_path):
    file = RemoteFile("d", f"{server}/good/test.csv", remote("", "test.csv").digest, ("u.data",))
    with pytest.raises(UserError, match=r"test\.csv is no zip archive.*by hand"):
        fetch(file, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["short", "stall"])
def test_archive_that_breaks_off_leaves_nothing(server, tmp_path, monkeypatch, way):
    file = archive_of("d", f"{server}/{way}", {"ratings.csv": "user,item\n"}, monkeypatch)
    with pytest.raises(UserError, match=r"broke off|no answer"):
        fetch(file, tmp_path / "new/d")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_unpacking_leaves_whole_files(server, tmp_path, monkeypatch):
    members = {"README": "x" * 100, "ratings.csv": "user,item\na,x\n"}
    file = archive_of("d", f"{server}/good", members, monkeypatch)
    copy = download.shutil.copyfileobj

    def interrupted(source, target, length):
        if source.name == "d/ratings.csv":
            target.write(b"user")
            raise KeyboardInterrupt
        copy(source, target, length)

    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(file, tmp_path / "d")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["README"]
    fetch(file, tmp_path / "d")
    assert (tmp_path / "d/ratings.csv").read_text() == members["ratings.csv"]


def test_archive_is_not_held_in_memory(server, tmp_path, monkeypatch):
    size = 64 << 20
    file = archive_of("d", f"{server}/good", {"ratings.csv": bytes(size)}, monkeypatch)
    tracemalloc.start()
    try:
        fetch(file, tmp_path / "d")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "d/ratings.csv").stat().st_size == size
    assert peak < size / 4


def test_archive_that_was_unpacked_in_part_is_fetched_again(server, tmp_path, monkeypatch):
    members = {"d/u1.base": "1\t2\t3\n", "d/u1.test": "1\t3\t3\n", "d/u.data": "1\t2\t3\n1\t3\t3\n"}
    archive = zipped(members)
    monkeypatch.setitem(FILES, "d.zip", archive)
    names = tuple(name.removeprefix("d/") for name in members)
    file = RemoteFile(
        "d", f"{server}/good/d.zip", "sha256:" + hashlib.sha256(archive).hexdigest(), names
    )
    monkeypatch.setitem(REGISTRY, "d", Published((file,), {}))
    (tmp_path / "d").mkdir()
    (tmp_path / "d/u1.base").write_text(members["d/u1.base"])
    assert load_dataset("d", tmp_path, ratings=True, fold=1).test.nnz == 1
    assert load_dataset("d", tmp_path, ratings=True, test_ratio=0.5).train.nnz == 1


def test_archive_that_fails(server, tmp_path):
    file = RemoteFile("ml-1m", f"{server}/none/ml-1m.zip", "sha256:0", ("ratings.dat",))
    by_hand = f"get {file.url} by hand and unpack its folder ml-1m as {tmp_path / 'ml-1m'}"
    with pytest.raises(UserError) as error:
        fetch(file, tmp_path / "ml-1m")
    assert by_hand in str(error.value)
    with pytest.raises(UserError, match="is absent and --no_download is set") as error:
        fetch(file, tmp_path / "ml-1m", allowed=False)
    assert by_hand in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_download(cli):
    status, _, stderr = cli("--dataset", "gowalla", "--no_download")
    assert status == 2
    assert stderr.count("\n") == 1
    assert "datasets/Gowalla/train.txt is absent and --no_download is set" in stderr
    assert REGISTRY["Gowalla"].files[0].url in stderr
