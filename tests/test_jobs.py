"""Jobs of real processes: killed, interrupted, and several at one job."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxnst

LAYERS = ["--content-layers", "relu2_1", "--style-layers", "relu1_1"]
SMALL = ["--preset", "pastiche", *LAYERS, "--optimizer", "adam", "--num-steps", "4"]
BATCH = ["batch", "photos", "--styles", "paint.png", "-o", "out", *SMALL]
SWEEP = ["sweep", "photos/00.png", "paint.png", "-o", "out", *SMALL, "--size", "32"]
Process = subprocess.Popen[str]

pytestmark = pytest.mark.slow


def paint(path: Path, sides: tuple[int, int], seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(path)


def start(folder: Path, *words: object) -> Process:
    """The command as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnst", *map(str, words)],
        cwd=folder,
        env=environment | {"JAX_PLATFORMS": "cpu"},
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


# --- cut off -----------------------------------------------------------------------------------

#: Of the content: ten proportions, and so ten shapes.
TEN = [(48, 18), (48, 24), (48, 30), (48, 36), (48, 42), (18, 48), (24, 48), (30, 48), (36, 48)]
TEN = [*TEN, (42, 48)]


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures of ten shapes, of which three are broken."""
    folder = tmp_path_factory.mktemp("sixty")
    for i in range(60):
        paint(folder / f"photos/{i % 3}/{i:02}.png", TEN[i % 10], i)
    whole = (folder / "photos/0/03.png").read_bytes()
    (folder / "photos/0/03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "photos/2/35.png").write_text("This is no picture.\n")
    (folder / "photos/1/58.png").write_bytes(b"")
    paint(folder / "paint.png", (40, 30), 100)
    return folder


BROKEN = ["0/03.png", "1/58.png", "2/35.png"]


def check_whole(folder: Path, outcome: tuple[int, str, str], made: int) -> None:
    """Fifty-seven pictures, of which so many came of the last start, and three reports."""
    status, out, err = outcome
    assert status == 1
    there = f", {57 - made} there already" if made < 57 else ""
    assert out == f"out: {made} pictures made{there}, 3 could not be\n"
    reports = err.splitlines()
    assert len(reports) == 3
    for name in BROKEN:
        assert sum(f"photos/{name}" in report for report in reports) == 1
    pictures = kept(folder)
    assert len(pictures) == 57
    assert {size_of(folder / name) for name in pictures} == {*TEN}
    lines = entries(folder)
    assert len(lines) == 60 == len({entry["output"] for entry in lines})
    assert {entry["output"] for entry in lines if entry["status"] == "failed"} == {*BROKEN}
    assert done(folder) == pictures.keys()
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["manifest.jsonl"]


def test_killed_halfway_nothing_is_done_twice(sixty: Path) -> None:
    words = [*BATCH, "--size", "48", "--multiple", "6"]
    process = start(sixty, *words)
    assert wait_for(lambda: len(done(sixty / "out")) >= 28, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    finished, pictures = done(sixty / "out"), kept(sixty / "out")
    assert 28 <= len(finished) < 57 and finished <= pictures.keys()

    outcome = finish(start(sixty, *words))
    check_whole(sixty / "out", outcome, 57 - len(finished))
    now = kept(sixty / "out")
    assert {name: now[name] for name in finished} == {name: pictures[name] for name in finished}
    assert finish(start(sixty, *words))[1].startswith("out: 0 pictures made, 57 there already")
    assert kept(sixty / "out") == now


def test_killed_again_and_again(sixty: Path, tmp_path: Path) -> None:
    """At any moment, also within the writing of a picture and of a line."""
    shutil.copytree(sixty / "photos", tmp_path / "photos")
    shutil.copy(sixty / "paint.png", tmp_path)
    words = [*BATCH, "--size", "48", "--multiple", "6", "--lane-batch", "2"]
    out, draw, before = tmp_path / "out", random.Random(0), 0
    for kill in range(6):
        process = start(tmp_path, *words)
        wait_for(lambda before=before: len(done(out)) > before, process)  # type: ignore[misc]
        if kill % 2:
            wait_for(lambda: any(".tmp" in path.name for path in out.rglob("*")), process)
        else:
            time.sleep(draw.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        finish(process)
        finished = done(out)
        before = len(finished)
    print(f"{before} were finished")
    pictures = kept(out)
    for stray in out.rglob(".*.tmp"):
        stray.unlink()
    outcome = finish(start(tmp_path, *words))
    check_whole(out, outcome, 57 - before)
    now = kept(out)
    assert {name: now[name] for name in finished} == {name: pictures[name] for name in finished}


@pytest.mark.parametrize("words", [[*BATCH, "--size", "48"], [*SWEEP, "--style-weights", *"12345"]])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    sixty: Path, tmp_path: Path, words: list[str], number: signal.Signals, status: int
) -> None:
    for name in ("0/00", "1/01", "2/02", "1/04"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copy(sixty / f"photos/{name}.png", tmp_path / "photos")
    shutil.copy(sixty / "paint.png", tmp_path)
    count = 4 if words[0] == "batch" else 5
    words = [*words, "--num-steps", "60"]
    process = start(tmp_path, *words)
    assert wait_for(lambda: len(done(tmp_path / "out")) >= 1, process)
    process.send_signal(number)
    assert finish(process)[::2] == (status, "")
    finished, pictures = done(tmp_path / "out"), kept(tmp_path / "out")
    assert 1 <= len(finished) < count
    outcome = finish(start(tmp_path, *words))
    assert outcome[::2] == (0, "")
    made = f"{count - len(finished)} pictures made, {len(finished)} there already"
    assert outcome[1].startswith(f"out: {made}")
    now = kept(tmp_path / "out")
    assert len(now) == count
    assert {name: now[name] for name in finished} == {name: pictures[name] for name in finished}


# --- several processes -------------------------------------------------------------------------


def start_all(folder: Path, count: int, *words: str) -> list[Process]:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    group = ["--distributed", "--coordinator", f"localhost:{port}", "--num-processes", count]
    return [start(folder, *words, *group, "--process-id", i) for i in range(count)]


def finish_all(processes: list[Process]) -> list[tuple[int, str, str]]:
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of two shapes."""
    folder = tmp_path_factory.mktemp("eight")
    for i in range(8):
        paint(folder / f"photos/{i:02}.png", [(48, 24), (40, 40)][i % 2], i)
    paint(folder / "paint.png", (40, 30), 100)
    return folder


WEIGHTS = ["--style-weights", "1", "2", "5", "10", "20", "50"]
JOBS = pytest.mark.parametrize(
    ("words", "count"),
    [([*BATCH, "--size", "32"], 8), ([*SWEEP, *WEIGHTS], 6)],
    ids=["batch", "sweep"],
)


def copy(folder: Path, there: Path) -> Path:
    shutil.copytree(folder / "photos", there / "photos")
    shutil.copy(folder / "paint.png", there)
    return there


@JOBS
def test_several_processes_make_what_one_makes(
    eight: Path, tmp_path: Path, words: list[str], count: int
) -> None:
    alone = copy(eight, tmp_path / "alone")
    assert finish(start(alone, *words))[::2] == (0, "")
    expected = only_bytes(kept(alone / "out"))
    assert len(set(expected.values())) == count
    names = {path.name for path in (alone / "out").iterdir()}
    for processes in (2, 4):
        folder = copy(eight, tmp_path / f"{processes}")
        outcomes = finish_all(start_all(folder, processes, *words))
        made = 0
        for status, out, err in outcomes:
            assert (status, err) == (0, "")
            summary = next(line for line in out.splitlines() if line.startswith("out: "))
            made += int(summary.split()[1])
        assert made == count
        assert {path.name for path in (folder / "out").iterdir()} == names
        assert only_bytes(kept(folder / "out")) == expected
        assert [entry["output"] for entry in entries(folder / "out")] == sorted(expected)
        for name in names - expected.keys() - {"manifest.jsonl"}:  # the sheet and the page
            assert (folder / "out" / name).read_bytes() == (alone / "out" / name).read_bytes()


@JOBS
def test_several_processes_go_on_where_another_number_was(
    eight: Path, tmp_path: Path, words: list[str], count: int
) -> None:
    folder = copy(eight, tmp_path / "here")
    out, steps = folder / "out", ["--num-steps", "60"]
    processes = start_all(folder, 2, *words, *steps)
    assert wait_for(lambda: len(done(out)) >= 2, processes[0])
    for process in processes:
        process.send_signal(signal.SIGKILL)
    finish_all(processes)
    finished, pictures = done(out), kept(out)
    assert 2 <= len(finished) < count
    assert {path.name for path in out.glob("man*")} == {
        "manifest-0000.jsonl",
        "manifest-0001.jsonl",
    }
    processes = start_all(folder, 3, *words, *steps)
    assert [outcome[::2] for outcome in finish_all(processes)] == [(0, "")] * 3
    assert finish(start(folder, *words, *steps))[0] == 0
    now = kept(out)
    assert len(now) == count and done(out) == now.keys()
    assert {name: now[name] for name in finished} == {name: pictures[name] for name in finished}
    assert [path.name for path in out.glob("man*")] == ["manifest.jsonl"]
    # A restart by several discards what one has made.
    words = [*words, "--restart"]
    assert [outcome[::2] for outcome in finish_all(start_all(folder, 2, *words))] == [(0, "")] * 2
    again = kept(out)
    assert again.keys() == now.keys() and all(again[name][1] != now[name][1] for name in now)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_several_processes_are_interrupted(
    eight: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """As by Ctrl-C on a terminal and by a scheduler, which signal all of them."""
    folder = copy(eight, tmp_path / "here")
    words = [*BATCH, "--size", "32", "--num-steps", "400"]
    processes = start_all(folder, 2, *words)
    assert wait_for(lambda: len(done(folder / "out")) >= 1, processes[0])
    for process in processes:
        process.send_signal(number)
    assert [outcome[::2] for outcome in finish_all(processes)] == [(status, "")] * 2


def test_broken_pictures_are_reported_by_the_process_that_has_them(
    eight: Path, tmp_path: Path
) -> None:
    folder = copy(eight, tmp_path / "here")
    (folder / "photos/01.png").write_text("This is no picture.\n")
    outcomes = finish_all(start_all(folder, 2, *BATCH, "--size", "32"))
    assert [outcome[0] for outcome in outcomes] == [0, 1]
    assert outcomes[0][2] == "" and len(outcomes[1][2].splitlines()) == 1
    assert "photos/01.png" in outcomes[1][2]
    assert len(entries(folder / "out")) == 8 and len(kept(folder / "out")) == 7


def test_a_process_waits_long_for_the_others(tmp_path: Path) -> None:
    """Longer than a collective on CPUs is given, which is shortened here from many minutes."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    code = f"""
import sys, time
from pathlib import Path
from jaxnst.app.jobs import run_job
from jaxnst.devices import join_processes

class Job:
    settings, count = {{}}, 0

    def make(self, *_):
        time.sleep(20 * int(sys.argv[1]))
        return iter(())

join_processes("localhost:{port}", 2, int(sys.argv[1]))
sys.exit(run_job(Job(), Path("out"), quiet=True))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])}
    flag = "--xla_cpu_collective_timeout_seconds=5"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i)],
            cwd=tmp_path,
            env=environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    assert [outcome[::2] for outcome in finish_all(processes)] == [(0, "")] * 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]
