"""Jobs of real processes that are killed or interrupted, and go on."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from job_processes import (
    BATCH,
    SWEEP,
    done,
    entries,
    finish,
    kept,
    paint,
    size_of,
    start,
    wait_for,
)

pytestmark = pytest.mark.slow

#: Of the content: ten proportions, and so ten shapes.
TEN = [(48, 18), (48, 24), (48, 30), (48, 36), (48, 42), (18, 48), (24, 48), (30, 48), (36, 48)]
TEN = [*TEN, (42, 48)]

WEIGHTS = [*map(str, range(1, 46))]


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


def all_but_the_manifest(folder: Path) -> dict[str, bytes]:
    """The bytes of each file that does not say when it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.jsonl"
    }


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


@pytest.mark.parametrize(
    "words",
    [
        [*BATCH, "--size", "48", "--multiple", "6", "--lane-batch", "2", "--num-steps", "40"],
        ["sweep", "photos/0/00.png", *SWEEP[2:], "--num-steps", "40", "--style-weights", *WEIGHTS],
    ],
    ids=["batch", "sweep"],
)
def test_killed_ten_times_it_ends_with_the_bytes_of_an_undisturbed_job(
    sixty: Path, tmp_path: Path, words: list[str]
) -> None:
    """At any moment, also within the writing of a picture and of a line."""
    for folder in (tmp_path / "alone", tmp_path / "killed"):
        shutil.copytree(sixty / "photos/0", folder / "photos/0")
        shutil.copytree(sixty / "photos/1", folder / "photos/1")
        shutil.copy(sixty / "paint.png", folder)
    status, summary, errors = finish(start(tmp_path / "alone", *words))
    assert status in (0, 1), errors
    expected = all_but_the_manifest(tmp_path / "alone/out")
    out, draw, before = tmp_path / "killed/out", random.Random(0), 0
    pictures: dict[str, tuple[int, bytes]] = {}
    for kill in range(10):
        process = start(tmp_path / "killed", *words)
        wait_for(lambda before=before: len(done(out)) > before, process)  # type: ignore[misc]
        end = time.monotonic() + draw.uniform(0, 0.5)
        while time.monotonic() < end and not (kill % 2 and list(out.rglob("*.tmp"))):
            if len(done(out)) > before + 2:
                break  # so that enough remains for ten kills
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL, "it has ended before the kill"
        now = kept(out)
        assert pictures.items() <= now.items(), "a picture was made twice"
        before = len(done(out))
        pictures = {name: now[name] for name in done(out)}
    outcome = finish(start(tmp_path / "killed", *words))
    made = int(summary.split()[1])
    assert before and outcome[0] == status
    counts = f"{made - before} pictures made, {before} there already"
    assert outcome[1] == summary.replace(f"{made} pictures made", counts)
    assert all_but_the_manifest(out) == expected
    assert pictures.items() <= kept(out).items(), "a picture was made twice"
    lines = {entry["output"]: entry.get("sha256") for entry in entries(out)}
    assert lines == {e["output"]: e.get("sha256") for e in entries(tmp_path / "alone/out")}


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
