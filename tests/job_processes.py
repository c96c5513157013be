"""Jobs as processes of their own: starting and ending them, and what they leave."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers import environment
from PIL import Image

LAYERS = ["--content-layers", "relu2_1", "--style-layers", "relu1_1"]
SMALL = ["--preset", "pastiche", *LAYERS, "--optimizer", "adam", "--num-steps", "4"]
BATCH = ["batch", "photos", "--styles", "paint.png", "-o", "out", *SMALL]
SWEEP = ["sweep", "photos/00.png", "paint.png", "-o", "out", *SMALL, "--size", "32"]
Process = subprocess.Popen[str]


def paint(path: Path, sides: tuple[int, int], seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(path)


def start(folder: Path, *words: object) -> Process:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnst", *map(str, words)],
        cwd=folder,
        env=environment(JAX_PLATFORMS="cpu"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: Process, timeout: float = 300) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def entries(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of all manifests."""
    lines = [line for path in folder.glob("manifest*") for line in path.read_text().splitlines()]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def done(folder: Path) -> set[str]:
    return {entry["output"] for entry in entries(folder) if entry["status"] == "done"}


def wait_for(condition: Callable[[], bool], process: Process) -> bool:
    """Whether something is so before the process ends."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.005)
    return False


def kept(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each picture was written, and its bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*.png"))
    }


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def only_bytes(pictures: dict[str, tuple[int, bytes]]) -> dict[str, bytes]:
    return {name: data for name, (_, data) in pictures.items()}
