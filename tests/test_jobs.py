"""Several processes at one job."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment, free_port
from job_processes import (
    BATCH,
    SWEEP,
    Process,
    done,
    entries,
    finish,
    kept,
    only_bytes,
    paint,
    start,
    wait_for,
)

pytestmark = pytest.mark.slow


def start_all(folder: Path, count: int, *words: str) -> list[Process]:
    port = free_port()
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
    port = free_port()
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
    flag = "--xla_cpu_collective_timeout_seconds=5"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i)],
            cwd=tmp_path,
            env=environment(JAX_PLATFORMS="cpu", XLA_FLAGS=flag),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    assert [outcome[::2] for outcome in finish_all(processes)] == [(0, "")] * 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]
