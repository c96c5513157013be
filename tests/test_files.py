"""Files are replaced as a whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from jaxnst import files
from jaxnst.app.signals import terminable
from jaxnst.files import replacing

KILLED = """
import os, signal, sys
from jaxnst.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["network.h5", "ü" * 120 + ".h5"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, name):
    path = tmp_path / name
    with replacing(path) as mine, replacing(tmp_path / "other.h5") as other:
        other.write_bytes(b"of another file")
        mine.write_bytes(b"of a process that still runs")
        assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -9
        (left,) = set(os.listdir(tmp_path)) - {mine.name, other.name}
        assert len(name) > 100 or left.startswith(f".{name}.unfinished-")
        with replacing(path) as temporary:
            temporary.write_bytes(b"new")
        assert path.read_bytes() == b"new"
        assert set(os.listdir(tmp_path)) == {name, mine.name, other.name}
    assert path.read_bytes() == b"of a process that still runs"


def test_without_locks_and_sighup_work_goes_on(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    with files.locked(tmp_path), files.locked(tmp_path), terminable() as terminated:
        signal.raise_signal(signal.SIGTERM)
        assert terminated.is_set()
