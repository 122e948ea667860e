"""The archives, from a server on this machine."""

import hashlib
import io
import re
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sharpness.data import download as module
from sharpness.data.download import ARCHIVES, Archive, download
from sharpness.errors import UserError


def tar_of(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


FILES = {"folder/one": np.random.RandomState(0).bytes(300_000), "folder/sub/two": b"two"}
CONTENT = tar_of(FILES)


class Server(ThreadingHTTPServer):
    """Serves ``content``; breaks the first ``breaks`` answers half-way."""

    daemon_threads = True

    def __init__(self, content=CONTENT, breaks=0, ranges=True, status=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges, self.status = content, breaks, ranges, status
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/toy.tar.gz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status:
            return self.send_error(server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        total = len(server.content)
        if start >= total:
            return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(**options):
        server = Server(**options)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        archive = Archive(server.url, hashlib.md5(CONTENT).hexdigest(), "folder")
        monkeypatch.setitem(ARCHIVES, "cifar10", archive)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_unpacked(root):
    assert {name: (root / name).read_bytes() for name in FILES} == FILES
    assert sorted(p.name for p in root.iterdir()) == ["folder", "toy.tar.gz"]


def test_an_archive_is_fetched_checked_and_unpacked(serve, tmp_path):
    server = serve()
    root = tmp_path / "new" / "root"
    assert download("cifar10", root) == root / "folder"
    assert_unpacked(root)
    assert server.asked == [None]


@pytest.mark.parametrize("breaks", [1, 3])
def test_a_broken_connection_is_continued_where_it_broke(serve, tmp_path, breaks):
    server = serve(breaks=breaks)
    download("cifar10", tmp_path)
    assert_unpacked(tmp_path)
    assert server.asked[:2] == [None, f"bytes={len(CONTENT) // 2}-"]
    assert len(server.asked) == breaks + 1


def test_a_later_call_continues_what_an_earlier_one_left(serve, tmp_path):
    server = serve()
    (tmp_path / "toy.tar.gz.part").write_bytes(CONTENT[:1000])
    download("cifar10", tmp_path)
    assert_unpacked(tmp_path)
    assert server.asked == ["bytes=1000-"]


def test_a_complete_part_is_not_fetched_again(serve, tmp_path):
    serve()
    (tmp_path / "toy.tar.gz.part").write_bytes(CONTENT)
    download("cifar10", tmp_path)
    assert_unpacked(tmp_path)


def test_a_server_without_ranges_starts_over(serve, tmp_path):
    serve(ranges=False)
    (tmp_path / "toy.tar.gz.part").write_bytes(b"x" * 1000)
    download("cifar10", tmp_path)
    assert_unpacked(tmp_path)


def test_endless_breaks_keep_the_part_and_say_so(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    serve(breaks=9)
    with pytest.raises(UserError, match=r"broke after [\d,]+ bytes.*try again.*by hand"):
        download("cifar10", tmp_path)
    part = (tmp_path / "toy.tar.gz.part").read_bytes()
    assert part == CONTENT[: len(part)]
    assert len(part) > len(CONTENT) // 2
    assert not (tmp_path / "toy.tar.gz").exists()


def test_an_archive_that_is_there_is_unpacked_without_a_network(serve, tmp_path):
    server = serve()
    (tmp_path / "toy.tar.gz").write_bytes(CONTENT)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").write_bytes(b"damaged")
    download("cifar10", tmp_path)
    assert_unpacked(tmp_path)
    assert server.asked == []


def test_a_wrong_checksum_is_discarded(serve, tmp_path):
    serve(content=CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match=rf"checksum.*by hand .*{tmp_path}/folder"):
        download("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_http_error_says_what_to_do_by_hand(serve, tmp_path, status):
    server = serve(status=status)
    with pytest.raises(UserError, match=rf"HTTP {status}.*fetch http.*by hand .*{tmp_path}/folder") as caught:
        download("cifar10", tmp_path)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_no_network_says_what_to_do_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/toy.tar.gz"
        monkeypatch.setitem(ARCHIVES, "cifar10", Archive(url, "0", "folder"))
        with pytest.raises(UserError, match=r"refused.*fetch http.*by hand"):
            download("cifar10", tmp_path)


def test_a_root_that_cannot_be_written_is_told(serve, tmp_path):
    serve()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot store toy.tar.gz"):
        download("cifar10", tmp_path / "file" / "root")


def test_an_archive_cannot_write_outside_its_folder(serve, tmp_path, monkeypatch):
    hostile = tar_of({"../../outside": b"x"})
    server = serve(content=hostile)
    monkeypatch.setitem(ARCHIVES, "cifar10", Archive(server.url, hashlib.md5(hostile).hexdigest(), "folder"))
    root = tmp_path / "a" / "b"
    with pytest.raises(UserError, match="cannot store"):
        download("cifar10", root)
    assert not list(tmp_path.rglob("outside"))


def test_the_official_archives_are_named():
    assert ARCHIVES["cifar10"].url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert ARCHIVES["cifar100"].md5 == "eb9058c3a382ffc7106e4002c42a8d85"
    with pytest.raises(UserError, match="cifar10, cifar100"):
        download("mnist", None)
