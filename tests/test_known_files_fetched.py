"""Downloads of known files, from servers good and bad."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_known_files import GOOD, MD5, NAME, SIZE, WRONG, stand_in

from jaxnst.formats import known_files
from jaxnst.formats.known_files import cached, fetch


class Handler(BaseHTTPRequestHandler):
    """Serve the stand-in, in another way at each address in `WAYS`."""

    def do_GET(self):
        self.server.requests.append(self.path)
        WAYS[self.path.strip("/")](self)

    def log_message(self, *_):
        pass

    def start(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def serve(self, *contents, length=SIZE, pause=0):
        self.start(**({"Content_Length": length} if length else {}))
        for content in contents:
            self.wfile.write(content)
            time.sleep(pause)

    def serve_chunks(self):
        self.start(Transfer_Encoding="chunked")
        while True:  # until the client goes away
            self.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

    def wait(self):
        self.server.stopping.wait(10)


PARTS = [GOOD[start : start + 50_000] for start in range(0, SIZE, 50_000)]
WAYS = {
    "good": lambda handler: handler.serve(GOOD),
    "steady": lambda handler: handler.serve(*PARTS, pause=0.12),
    "moved": lambda handler: handler.start(302, Location="/good", Content_Length=0),
    "without_length": lambda handler: handler.serve(GOOD, length=None),
    "wrong": lambda handler: handler.serve(WRONG),
    "cut": lambda handler: handler.serve(*PARTS[:2]),
    "cut_without_length": lambda handler: handler.serve(*PARTS[:2], length=None),
    "endless": lambda handler: handler.serve(*[GOOD] * 10_000, length=None),
    "endless_in_chunks": Handler.serve_chunks,
    "stall": lambda handler: (handler.serve(*PARTS[:2]), handler.wait()),
    "mute": Handler.wait,
    "drop": lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
    "missing": lambda handler: handler.send_error(404),
}


class Server(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.stopping = [], threading.Event()

    def handle_error(self, *_):
        pass  # the client went away, as it should

    def known(self, path, **changes):
        return stand_in(f"http://127.0.0.1:{self.server_port}/{path}", **changes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache folder, which does not exist yet; no proxy is asked for local addresses."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JAXNST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(folder):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def refused(kind, known, *parts, **options):
    """`fetch` raises in one line, which contains `parts`."""
    with pytest.raises(kind) as caught:
        fetch(known, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 600
    for part in parts:
        assert part in message


def test_cached_finds_only_the_right_file(folder):
    known = stand_in(None)
    assert cached(known) is None
    folder.mkdir()
    for content in (None, WRONG, b"", GOOD):
        if content is not None:
            (folder / NAME).write_bytes(content)
        assert cached(known) == (folder / NAME if content == GOOD else None)
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    assert cached(known) is None


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("good", {}),
        ("good", {"checksum": f"sha256:{hashlib.sha256(GOOD).hexdigest()}"}),
        ("without_length", {}),
        ("without_length", {"num_bytes": None}),
        ("moved", {"num_bytes": None}),
        ("steady", {}),
    ],
    ids=str,
)
def test_fetch(server, folder, capfd, path, changes):
    known, calls = server.known(path, **changes), []
    place = fetch(known, progress=lambda *call: calls.append(call), timeout=0.5)
    assert place == fetch(known) == cached(known) == folder / NAME
    assert len(server.requests) == 1 + (path == "moved")
    assert contents(folder) == {NAME: GOOD}
    assert capfd.readouterr() == ("", "")
    done = [call[0] for call in calls]
    total = known.num_bytes if path == "without_length" else len(GOOD)
    assert {call[1] for call in calls} == {total}
    assert len(set(done)) > 3 and done == sorted(done) and done[0] > 0
    assert done[-1] == len(GOOD)


def test_a_good_file_needs_no_network(server, folder):
    folder.mkdir()
    (folder / NAME).write_bytes(GOOD)
    for known in (server.known("wrong"), server.known("missing"), stand_in(None)):
        assert fetch(known) == folder / NAME
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("cut", "IncompleteRead(100000 bytes read, 200000 more expected)"),
        ("drop", ""),
        ("missing", "404 Client Error: Not Found;"),
        ("stall", "timed out"),
        ("mute", "timed out"),
    ],
)
def test_a_failing_server_says_how_to_go_on_by_hand(server, folder, path, reason):
    known = server.known(path)
    by_hand = f"get the file of {known.checksum} elsewhere and put it at {folder / NAME}"
    refused(ConnectionError, known, known.url, reason, by_hand, timeout=0.3)
    assert contents(folder) == {}
    (folder / NAME).write_bytes(GOOD)
    assert fetch(known) == folder / NAME


def test_no_connection(folder, monkeypatch):
    with socket.socket() as held:  # bound, so that nobody else gets it, but not listening
        held.bind(("127.0.0.1", 0))
        known = stand_in(f"http://127.0.0.1:{held.getsockname()[1]}/a")
        refused(ConnectionError, known, "Connection refused", str(folder / NAME))

    def resolve(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    refused(ConnectionError, stand_in("http://weights.example/a"), "Name or service not known")
    assert contents(folder) == {}


def test_a_file_without_an_address(folder):
    known = stand_in(None)
    refused(FileNotFoundError, known, NAME, known.checksum, str(folder / NAME))
    assert contents(folder) == {}


@pytest.mark.parametrize("path", ["wrong", "cut_without_length"])
def test_another_file_from_the_server_is_not_kept(server, folder, path):
    known = server.known(path)
    refused(ValueError, known, known.url, "sent another file", MD5)
    assert contents(folder) == {}


@pytest.mark.parametrize("path", ["endless", "endless_in_chunks"])
@pytest.mark.parametrize("num_bytes", [SIZE, None])
def test_a_download_without_end_is_stopped(server, folder, monkeypatch, path, num_bytes):
    monkeypatch.setattr(known_files, "MOST_BYTES", 1_000_000)
    known, received = server.known(path, num_bytes=num_bytes), []
    most = num_bytes or 1_000_000
    refused(
        ValueError,
        known,
        f"sent another file: it has more than {most} bytes",
        progress=lambda done, _: received.append(done),
    )
    assert contents(folder) == {} and most - 2**16 <= received[-1] <= most


@pytest.mark.parametrize("content", [WRONG, b"", GOOD[:-1]])
def test_another_file_in_the_place_is_not_overwritten(server, folder, content):
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    refused(ValueError, server.known("good"), str(folder / NAME), MD5, found, "move it away")
    assert contents(folder) == {NAME: content}
    assert server.requests == []


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing(server, folder, raised):
    def interrupt(done, total):
        assert len(contents(folder)) == 1
        raise raised

    with pytest.raises(raised):
        fetch(server.known("stall"), progress=interrupt)
    assert contents(folder) == {}


def test_a_folder_that_cannot_be_used(server, folder, monkeypatch):
    (folder / NAME).mkdir(parents=True)
    refused(OSError, server.known("good"), str(folder / NAME), "Is a directory")
    assert os.listdir(folder) == [NAME]
    (folder / NAME).rmdir()
    folder.rmdir()
    folder.write_bytes(b"")
    refused(OSError, server.known("good"), str(folder / NAME), "Not a directory", "JAXNST_CACHE")


def test_a_full_disk(server, folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.move", fail)
    refused(OSError, server.known("good"), str(folder / NAME), "No space left", "JAXNST_CACHE")
    assert contents(folder) == {}


def test_importing_does_not_import_pooch():
    code = "import sys, jaxnst; print({'pooch', 'requests'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
