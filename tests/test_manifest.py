"""The manifest of a job, in whatever way a process ended."""

import hashlib
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxnst.app.manifest import Entry, Manifest, describe_run, file_digest
from jaxnst.app.runs import versions

SETTINGS = {"size": "32", "seed": "0"}
MADE_OF = {"content": "a.jpg", "content_sha256": "0123", "settings": SETTINGS}


def made(folder: Path, output: str, **more: Any) -> Entry:
    """A picture, and the entry of a job about it."""
    path = folder / output
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(output.encode())
    entry = {"output": output, "status": "done", "sha256": file_digest(path)} | MADE_OF
    return entry | {"made_by": versions(), "finished": "2026-01-02T03:04:05.000+00:00"} | more


def lines(path: Path) -> list[Entry]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    Manifest(folder).open()
    return folder


# --- lines -------------------------------------------------------------------------------------


def test_a_line_is_on_the_disk_when_it_is_added(folder: Path) -> None:
    manifest = Manifest(folder)
    before = datetime.now(UTC)
    added = []
    for output in ("b.png", "a.png", "é \n.png"):
        added.append(manifest.append(made(folder, output)))
        assert lines(folder / "manifest.jsonl") == added
    for entry in added:
        finished = datetime.fromisoformat(entry["finished"])
        assert abs((finished - before).total_seconds()) < 60
        assert entry == made(folder, entry["output"]) | {"finished": entry["finished"]}
    expected = {entry["output"]: entry for entry in added}
    assert manifest.entries == Manifest(folder).entries == expected


def test_the_later_of_two_lines_counts(folder: Path) -> None:
    manifest = Manifest(folder)
    for status in ("failed", "interrupted", "done"):
        manifest.append(made(folder, "a.png", status=status))
        for reader in (manifest, Manifest(folder)):
            assert reader.entries["a.png"]["status"] == status
    assert len(lines(manifest.path)) == 3


def test_half_a_line_is_ignored_and_spoils_no_other(folder: Path) -> None:
    manifest = Manifest(folder)
    first = manifest.append(made(folder, "a.png"))
    begun = manifest.path.stat().st_size
    second = manifest.append(made(folder, "b.png"))
    whole = manifest.path.read_bytes()
    for end in {begun, begun + 1, (begun + len(whole)) // 2, len(whole) - 2, len(whole) - 1}:
        manifest.path.write_bytes(whole[:end])
        # All that is lost of the last cut is the end of the line.
        kept = {"a.png": first} | ({"b.png": second} if end == len(whole) - 1 else {})
        again = Manifest(folder)
        assert again.entries == kept
        again.check(SETTINGS)
        third = again.append(made(folder, "c.png"))
        assert Manifest(folder).entries == kept | {"c.png": third}
        again.merge()
        assert lines(manifest.path) == [*kept.values(), third]


NESTED = b'{"output": "a.png", "x": ' + b"[" * 100_000


@pytest.mark.parametrize(
    "line",
    [b"[]", b"3", b"{}", b'{"output": "a.png"}', b'{"output": []}', b"\xff\xfe", b"\0", NESTED],
    ids=lambda line: repr(line[:12]),
)
def test_a_file_that_jaxnst_did_not_write_is_refused(folder: Path, line: bytes) -> None:
    Manifest(folder).append(made(folder, "b.png"))
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(line + b"\n")
    before = (folder / "manifest.jsonl").read_bytes()
    if line is NESTED:  # half of a line, for all that one can see
        assert list(Manifest(folder).entries) == ["b.png"]
        return
    with pytest.raises(ValueError, match=r"manifest\.jsonl' was not written by jaxnst"):
        Manifest(folder)
    assert (folder / "manifest.jsonl").read_bytes() == before and (folder / "b.png").exists()


def test_threads_add_lines_at_once(folder: Path) -> None:
    manifest = Manifest(folder)
    start = threading.Barrier(8)

    def add(thread: int) -> None:
        start.wait()
        for i in range(10):
            manifest.append({"output": f"{thread}-{i}.png", "status": "failed", "settings": {}})

    threads = [threading.Thread(target=add, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = [entry["output"] for entry in lines(manifest.path)]
    assert sorted(outputs) == sorted(f"{thread}-{i}.png" for thread in range(8) for i in range(10))
    assert Manifest(folder).entries == manifest.entries


# --- several processes -------------------------------------------------------------------------


def test_processes_write_files_of_their_own(tmp_path: Path) -> None:
    parts = [Manifest(tmp_path / "job", process, 2) for process in range(2)]
    for part in parts:
        part.open()
    expected = {}
    for output, part in zip(["a.png", "b.png", "c.png"], [*parts, parts[0]], strict=True):
        expected[output] = part.append(made(part.folder, output))
    assert lines(parts[0].path) == [expected["a.png"], expected["c.png"]]
    assert lines(parts[1].path) == [expected["b.png"]]
    # Whoever goes on knows of all, one process or three.
    for process, count in [(0, 1), (0, 2), (1, 2), (2, 3)]:
        assert Manifest(parts[0].folder, process, count).entries == expected


@pytest.mark.parametrize("later", [0, 1, 2])
def test_the_latest_line_of_several_processes_counts(folder: Path, later: int) -> None:
    paths = [folder / f"manifest{part}.jsonl" for part in ("", "-0000", "-0001")]
    for i, path in enumerate(paths):
        second = 10 if i == later else i
        entry = made(folder, "a.png", loss=i, finished=f"2026-01-02T03:04:{second:02}.000+00:00")
        path.write_text(json.dumps(entry) + "\n")
    assert Manifest(folder).entries["a.png"]["loss"] == later
    Manifest(folder).merge()
    assert [entry["loss"] for entry in lines(folder / "manifest.jsonl")] == [later]


def test_merging_leaves_one_sorted_file(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    for process, outputs in enumerate([("d.png", "a.png", "d.png"), ("c.png", "sub/b.png")]):
        part = Manifest(folder, process, 2)
        part.open()
        for output in outputs:
            part.append(made(folder, output))
    known = Manifest(folder).entries
    Manifest(folder, 0, 2).merge()
    pictures = ["a.png", "c.png", "d.png", "sub/b.png"]
    assert names(folder) == {*pictures, "manifest.jsonl"}
    assert lines(folder / "manifest.jsonl") == [known[output] for output in pictures]
    before = (folder / "manifest.jsonl").read_bytes()
    Manifest(folder).merge()
    assert (folder / "manifest.jsonl").read_bytes() == before


def test_a_file_that_another_process_discards_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Manifest(folder).append(made(folder, "a.png"))
    read = Path.read_bytes

    def late(path: Path) -> bytes:
        path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    assert Manifest(folder, 1, 2).entries == {}


def test_processes_see_when_another_has_finished(tmp_path: Path) -> None:
    ours, theirs = (Manifest(tmp_path / "job", process, 2) for process in range(2))
    theirs.open()
    ours.check(SETTINGS)
    entry = theirs.append(made(theirs.folder, "a.png"))
    assert not ours.has_finished(1)
    theirs.finish()
    assert ours.has_finished(1)
    theirs.open()  # a new start after a kill
    assert not ours.has_finished(1) and Manifest(ours.folder).entries == {"a.png": entry}
    theirs.finish()
    ours.merge()
    assert not ours.has_finished(1) and names(ours.folder) == {"a.png", "manifest.jsonl"}


# --- what is done ------------------------------------------------------------------------------


def test_a_picture_is_done_once_its_line_says_so(folder: Path) -> None:
    manifest = Manifest(folder)
    assert not manifest.is_done("a.png", MADE_OF)
    manifest.append(made(folder, "a.png"))
    manifest.append(made(folder, "b.png", status="interrupted"))
    manifest.append({"output": "c.png", "status": "failed", "error": "no picture"} | MADE_OF)
    for reader in (manifest, Manifest(folder), Manifest(folder, 1, 2)):
        assert reader.is_done("a.png", MADE_OF)
        assert reader.is_done("a.png", {})
        for output in ("b.png", "c.png", "d.png"):
            assert not reader.is_done(output, MADE_OF)


@pytest.mark.parametrize(
    "change",
    [
        {"content": "b.jpg"},
        {"content_sha256": "4567"},
        {"settings": SETTINGS | {"size": "33"}},
        {"settings": {"size": "32"}},
        {"settings": SETTINGS | {"pooling": "max"}},
        {"lane": {"style_weight": 1.0}},
    ],
)
def test_a_picture_made_of_something_else_is_not_done(
    folder: Path, change: dict[str, object]
) -> None:
    manifest = Manifest(folder)
    manifest.append(made(folder, "a.png"))
    assert not manifest.is_done("a.png", MADE_OF | change)


def test_a_changed_or_missing_picture_is_not_done(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.append(made(folder, "a.png"))
    path = folder / "a.png"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(damaged)
        assert not manifest.is_done("a.png", MADE_OF)
    path.write_bytes(whole)
    assert manifest.is_done("a.png", MADE_OF)
    path.unlink()
    assert not manifest.is_done("a.png", MADE_OF)
    path.mkdir()
    assert not manifest.is_done("a.png", MADE_OF)


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_is_made_and_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    Manifest(folder).check(SETTINGS)
    assert not folder.exists()
    Manifest(folder).open()
    assert names(folder) == {"manifest.jsonl"}
    Manifest(folder).check(SETTINGS)
    manifest = Manifest(folder)
    entry = manifest.append(made(folder, "a.png"))
    again = Manifest(folder)
    again.check(dict(SETTINGS))
    assert again.entries == {"a.png": entry}
    (tmp_path / "empty").mkdir()
    Manifest(tmp_path / "empty").check(SETTINGS)


def test_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("nest/folder").mkdir(parents=True)
    for name, error, part in [
        ("file", FileExistsError, "file"),
        ("none/job", FileNotFoundError, "none"),
        ("mine", ValueError, "not empty"),
        ("nest", ValueError, "not empty"),
    ]:
        before = names(tmp_path)
        with pytest.raises(error, match=part):
            Manifest(Path(name)).check(SETTINGS)
        assert names(tmp_path) == before and not Path("none").exists()


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"size": "33"}, "size"),
        ({"size": "33", "seed": "1"}, "seed and size"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_a_job_with_other_settings_is_refused(
    folder: Path, change: dict[str, str], differ: str
) -> None:
    manifest = Manifest(folder)
    manifest.append({"output": "a.png", "status": "failed", "settings": SETTINGS})
    before = manifest.path.read_bytes()
    with pytest.raises(ValueError, match=f"job with other {differ}:.*--restart"):
        Manifest(folder).check(SETTINGS | change)
    fewer = {k: v for k, v in SETTINGS.items() if k != "seed"}
    with pytest.raises(ValueError, match="job with other seed:"):
        Manifest(folder).check(fewer)
    assert manifest.path.read_bytes() == before


def test_a_job_is_discarded_with_its_pictures_and_no_other_file(folder: Path) -> None:
    part = Manifest(folder, 1, 2)
    part.append(made(folder, "a.png"))
    Manifest(folder).append(made(folder, "sub/b.png"))
    Manifest(folder).append({"output": "c.png", "status": "failed", "settings": SETTINGS})
    Manifest(folder).append(made(folder, "changed.png"))
    Manifest(folder).append(made(folder, "../outside.png"))
    mine = {"notes.txt", "sheet.jpg", "z.png", "changed.png"}
    for name in mine:
        (folder / name).write_text("mine")
    Manifest(folder).check(None)
    Manifest(folder).discard()
    assert names(folder) - {"manifest.jsonl"} == mine
    assert (folder.parent / "outside.png").exists()
    assert Manifest(folder).entries == {}
    # Another job can take its place, whatever else is there.
    another = Manifest(folder)
    another.check(SETTINGS | {"size": "33"})
    another.append(made(folder, "a.png"))
    assert list(Manifest(folder).entries) == ["a.png"]


def test_discard_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("mine")
    Manifest(tmp_path).discard()
    Manifest(tmp_path / "none").discard()
    assert names(tmp_path) == {"mine.png"}
    with pytest.raises(ValueError, match="not empty"):
        Manifest(tmp_path).check(SETTINGS)


# --- a line about a run ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "sizes", "best"),
    [
        ([3, 2, 4], [32] * 3, 1),
        ([3, 2, 1, 5, 4, 6], [16] * 3 + [32] * 3, 4),  # losses of two sizes do not compare
        ([3, np.nan, 2], [32] * 3, 2),
        ([3, 2, np.nan], [16, 32, 32], 1),
    ],
)
def test_a_run_is_described(
    tmp_path: Path, losses: list[float], sizes: list[int], best: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    rows = np.array(losses, np.float32)
    history = {"evaluation": rows, "seconds": rows, "size": np.array(sizes), "loss": rows}
    history |= {"content": rows * 2, "style": rows * 3, "a user's own": rows * 4}
    entry = describe_run(path, history, "ok", 1.23456)
    loss = losses[best]
    assert entry == {
        "status": "done",
        "run": "ok",
        "evaluations": len(losses),
        "losses": {"loss": loss, "content": 2 * loss, "style": 3 * loss, "a user's own": 4 * loss},
        "seconds": 1.235,
        "sha256": hashlib.sha256(b"picture").hexdigest(),
    }
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
