"""A thousand random calls: each works, or is refused in one line with nothing changed."""

import argparse
import random
import re
import shutil
import signal
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from PIL import Image

from jaxnst import load_params, save_params
from jaxnst.app import weights
from jaxnst.app.parser import make_parser

pytestmark = pytest.mark.slow

CALLS = 1000
SECONDS = 60  #: of one call, after which it counts as one that hangs
GIGABYTES = 1  #: above what other tests have left in the process
GOOD = ["1", "2", "3", "8", "16", "24"]
NUMBERS = ["0", "0.5", "1e-3", "-1", "-0.1", "1e39", "nan", "inf", "x", ""]
NUMBERS += [
    "1_0",
    " 5 ",
    "٣",
    "9" * 400,
    "99999999999",
    "2147483648",
    "4611686018427387904",
    "0x10",
]
LAYERS = ["relu1_1", "relu1_2", "pool1", "conv1_1", "relu5_4", "image", "relu9_9", "", "x" * 10_000]
#: What keeps calls small; options that come later take their place.
SMALL = ["--size", "16", "--num-steps", "1", "--min-size", "16"]
SMALL += ["--content-layers", "relu1_1", "--style-layers", "relu1_1", "--quiet"]


def make_files(folder: Path) -> None:
    """Pictures and weight files, whole and damaged, and things of other kinds."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(pixels)
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.gif", "a.bmp"):
        picture.save(folder / name)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").convert("I;16").save(folder / "deep.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    for name, sides in (("dot.png", (1, 1)), ("line.png", (500, 1)), ("small.png", (15, 15))):
        picture.resize(sides).save(folder / name)
    for name in ("a.png", "a.jpg", "a.tif"):
        whole = (folder / name).read_bytes()
        (folder / f"cut-{name}").write_bytes(whole[: len(whole) // 2])
        flipped = bytearray(whole)
        for place in draw.integers(0, len(flipped), 9):
            flipped[place] ^= 255
        (folder / f"flipped-{name}").write_bytes(flipped)
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "raw.nef").write_bytes(b"MM\0*" + bytes(99))
    (folder / "eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for inside in ("folder", "folder/deep"):
        (folder / inside).mkdir()
        picture.save(folder / inside / "a.png")
    save_params(folder / "whole.safetensors", load_params())
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:100_000])
    for suffix in (".h5", ".pth", ".mat", ".npz"):
        (folder / f"noise{suffix}").write_bytes(draw.bytes(1000))
    (folder / "manifest.jsonl").write_text('{"output": "../a.png"}\n')
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "link.png").symlink_to("a.png")


def random_call(draw: random.Random, names: list[str]) -> list[str]:
    """The words of one call."""
    actions = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    commands: dict[str, Any] = dict(actions[0].choices)
    command = draw.choice(["transfer", "transfer", "sweep", "batch", "demo", "weights"])
    words, parser = [command], commands[command]
    if command == "weights":
        inner = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        action = draw.choice([name for name in inner.choices if name != "fetch"])
        words, parser = [command, action], inner.choices[action]
    for action in parser._actions:
        wanted = draw.random() < (0.95 if action.required else 0.05)
        if not wanted or action.dest in ("help", "distributed"):  # the latter wants a process
            continue
        words += [action.option_strings[-1]] if action.option_strings else []
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            continue
        count = draw.choice([1, 1, 2, 3]) if action.nargs == "+" else 1
        words += [random_value(draw, action, names) for _ in range(count)]
    if command in ("transfer", "sweep", "batch", "demo"):
        words[1:1] = (
            SMALL  # before positional arguments, which a list would swallow: ends in a flag
        )
    return words


def random_value(draw: random.Random, action: argparse.Action, names: list[str]) -> str:
    if action.choices and draw.random() < 0.9:
        return str(draw.choice(list(action.choices)))
    if action.dest == "output" or action.dest in ("animation", "plot"):
        new = ["out.png", "out", "out.gif", "none/out.png", "out.xyz", "x" * 300 + ".png"]
        return draw.choice([*new, *new, *names])
    if action.type is Path:
        good = ["a.png", "a.jpg", "a.tif", "alpha.png", "folder"]
        return draw.choice([*good * 4, *names, "none.png", "\udcff.png"])
    if action.dest.endswith("layers"):
        return draw.choice(LAYERS)
    return draw.choice([*GOOD * 3, *NUMBERS])


def outputs_of(words: list[str]) -> list[str]:
    flags = ("-o", "--output", "--animation", "--plot")
    return [word for flag, word in pairwise(words) if flag in flags]


def state_of(folder: Path) -> dict[Path, Any]:
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size, path.is_symlink())
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    } | {path: "folder" for path in folder.rglob("*") if path.is_dir()}


def peak_memory() -> int:
    """Return the most bytes that the process has had in memory, on Linux."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs alarms to end calls that hang")
@pytest.mark.parametrize("seed", range(4))
def test_random_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    originals = tmp_path.with_name(f"originals-{seed}")
    originals.mkdir()
    make_files(originals)
    shutil.copytree(originals, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "fetch", None)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    draw, given = random.Random(seed), state_of(tmp_path)
    tally = dict.fromkeys((0, 1, 2), 0)
    if sys.platform == "linux":
        with suppress(OSError):  # without the right to do so, the peak so far remains
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        memory = peak_memory()
    for _ in range(CALLS // 4):
        words = random_call(draw, names)
        before = state_of(tmp_path)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(SECONDS)
        outcome = helpers.call(*words)
        signal.alarm(0)
        said = f"{' '.join(words)[:500]}\n{outcome}"
        assert outcome.status in tally, said
        tally[outcome.status] += 1
        after = state_of(tmp_path)
        if outcome.status == 2:
            assert outcome.out == "" and outcome.err.count("\n") == 1, said
            assert outcome.err.startswith("jaxnst") and len(outcome.err) < 1000, said
            assert after == before, said
        changed = {path for path in given if after.get(path) != given[path]}
        asked = {tmp_path / word for word in outputs_of(words) if words.count(word) == 1}
        assert changed <= asked, said
        for path in changed:
            path.unlink()
            shutil.copy2(originals / path.relative_to(tmp_path), path)
        for path in sorted(set(after) - set(given), reverse=True):
            if draw.random() < 0.7 and path.is_file():
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    assert tally[0] and tally[2], tally
    if sys.platform == "linux":
        assert peak_memory() - memory < GIGABYTES * 2**30
