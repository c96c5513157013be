"""States on disk: the same bits come back, and only to what they belong to."""

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxnst
from jaxnst.app.checkpoint import digest, has_checkpoint, remove, restore, save

MARK = {"content": "a", "style": "b"}


def make_arrays(seed=0):
    random = np.random.default_rng(seed)
    return {
        "leaf 0": jnp.asarray(random.normal(size=(40, 50, 3)), jnp.float32),
        "leaf 1": np.float32(random.normal()),
        "scale": 2,
        "history loss": np.array([np.nan, -0.0, np.inf, 1e-40], np.float32),
        "history evaluation": np.arange(4),
    }


def check_same(found, expected):
    assert list(found) == list(expected)
    for a, b in zip(found.values(), map(np.asarray, expected.values()), strict=True):
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def steps(folder):
    return sorted(path.name.removesuffix(".safetensors") for path in folder.iterdir())


def check_refused(folder, *parts, mark=MARK):
    with pytest.raises(ValueError) as caught:
        restore(folder, mark)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(str(folder)), *parts):
        assert part in message


def damage(path, how):
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"{}" * 99}[how])


# --- there and back ----------------------------------------------------------------------------


def test_the_same_bits_come_back(tmp_path):
    save(tmp_path / "state", 3, make_arrays(), MARK)
    check_same(restore(tmp_path / "state", MARK), make_arrays())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int32", "uint32", "bool"])
def test_all_types_and_ranks(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 2)).astype(jnp.dtype(dtype))
    expected = {"two": values, "none": values[0, 0], "empty": values[:0]}
    save(tmp_path, 1, expected, MARK)
    check_same(restore(tmp_path, MARK), expected)


def test_no_array_is_copied(tmp_path):
    arrays = {"a": jnp.ones((400, 500, 3)), "b": np.ones((600, 500), np.float32)}
    save(tmp_path, 1, arrays, MARK)  # which imports what it needs
    tracemalloc.start()
    save(tmp_path, 2, arrays, MARK)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.1 * sum(array.nbytes for array in arrays.values())
    load_file(tmp_path / "state-2.safetensors")  # the library can read what it did not write


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    for step in (5, 10, 20):
        save(tmp_path, step, make_arrays(step), MARK)
    check_same(restore(tmp_path, MARK), make_arrays(20))
    assert steps(tmp_path) == ["state-10", "state-20"]


def test_restoring_changes_nothing(tmp_path):
    save(tmp_path, 1, make_arrays(), MARK)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    restore(tmp_path, MARK)
    check_refused(tmp_path, mark={})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_differing_settings_are_named(tmp_path):
    save(tmp_path, 1, make_arrays(), MARK)
    check_refused(tmp_path, "a run with other style", mark=MARK | {"style": "x"})
    check_refused(tmp_path, "other content and style", mark={"content": "x", "style": "x"})
    check_refused(tmp_path, "other num_steps", mark=MARK | {"num_steps": "3"})
    check_refused(tmp_path, "other style", mark={"content": "a"})
    check_same(restore(tmp_path, MARK), make_arrays())


def test_only_states_are_removed(tmp_path):
    for mine in ("notes.txt", "state-x.safetensors", "state-1.safetensors.bak"):
        (tmp_path / mine).write_text("mine")
    before = steps(tmp_path)
    for step in (1, 2, 3):
        save(tmp_path, step, make_arrays(), MARK)
    for _ in range(2):
        remove(tmp_path)
        assert steps(tmp_path) == before and not has_checkpoint(tmp_path)


# --- damage ------------------------------------------------------------------------------------


def test_a_folder_without_a_state_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert not has_checkpoint(folder)
        check_refused(folder, "holds no state")
    assert steps(tmp_path) == []


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
def test_a_damaged_state_is_refused(tmp_path, capfd, how):
    save(tmp_path, 1, make_arrays(), MARK)
    damage(tmp_path / "state-1.safetensors", how)
    assert has_checkpoint(tmp_path)
    check_refused(tmp_path, "state 1", "cannot be read", "--restart")
    assert capfd.readouterr() == ("", "")


def test_one_flipped_bit_is_seen(tmp_path):
    save(tmp_path, 1, make_arrays(), MARK)
    path = tmp_path / "state-1.safetensors"
    whole = path.read_bytes()
    header = range(8 + int.from_bytes(whole[:8], "little"))
    for place in [*header, *np.random.default_rng(0).integers(0, len(whole), 99)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        check_refused(tmp_path, "cannot be read")


def test_resumes_from_the_state_before_a_damaged_one(tmp_path, caplog):
    for step in (10, 20):
        save(tmp_path, step, make_arrays(step), MARK)
    damage(tmp_path / "state-20.safetensors", "cut")
    check_same(restore(tmp_path, MARK), make_arrays(10))
    (message,) = caplog.messages
    assert "state 20" in message and "earlier" in message and "\n" not in message
    # And what goes on from there takes the place of the damaged one.
    save(tmp_path, 15, make_arrays(15), MARK)
    check_same(restore(tmp_path, MARK), make_arrays(15))
    assert steps(tmp_path) == ["state-10", "state-15"]


def test_what_a_killed_save_left_is_cleaned_up(tmp_path):
    save(tmp_path, 1, make_arrays(), MARK)
    (tmp_path / "unfinished.safetensors").write_bytes(b"half")
    check_same(restore(tmp_path, MARK), make_arrays())
    save(tmp_path, 3, make_arrays(3), MARK)
    assert steps(tmp_path) == ["state-1", "state-3"]


def test_a_full_disk_is_one_line_and_leaves_the_earlier_state(tmp_path, capfd):
    resource = pytest.importorskip("resource")
    save(tmp_path, 1, make_arrays(), MARK)
    noise = np.random.default_rng(0).random((12, 300_000))
    large = {"leaf": noise}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    try:
        for step in (2, 3, 4):
            with pytest.raises(OSError, match="File too large") as caught:
                save(tmp_path, step, large, MARK)
            assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
            assert steps(tmp_path) == ["state-1"]  # what failed does not pile up
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr() == ("", "")
    check_same(restore(tmp_path, MARK), make_arrays())
    save(tmp_path, 2, large, MARK)
    assert steps(tmp_path) == ["state-1", "state-2"]


# --- digest ------------------------------------------------------------------------------------


def test_digest_sees_everything():
    base = np.arange(6, dtype=np.float32)
    flipped = base.copy()
    flipped.view(np.uint32)[3] ^= 1
    others = [
        base.reshape(2, 3),
        base.astype(np.float64),
        base.view(np.int32),
        flipped,
        [base],
        {"a": base},
        {"b": base},
        (base, base),
        [base[:3], base[3:]],
        base[:1],
        base[0],
        base[:0],
        base[:0].reshape(0, 2),
        base.astype(jnp.bfloat16),
        base.astype(np.float16),
    ]
    digests = [digest(tree) for tree in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert digest(jnp.asarray(base)) == digest(base) == digest(base.copy())
    turned = np.asfortranarray(base.reshape(2, 3))
    assert digest(turned) == digest(base.reshape(2, 3))
    assert digest(base[::-1]) == digest(base[::-1].copy()) != digest(base)


def test_digest_compares_zeros_and_nans_by_their_bits():
    assert digest(np.float32(0.0)) != digest(np.float32(-0.0))
    assert digest(np.float32(np.nan)) == digest(np.float32(np.nan))


# --- killed ------------------------------------------------------------------------------------


SAVE_ON_AND_ON = """
import sys
from pathlib import Path
import numpy as np
from jaxnst.app.checkpoint import save
for step in range(int(sys.argv[2]), 10**6):
    value = np.full(200_000, step, np.float32)
    save(Path(sys.argv[1]), step, {"value": value}, {"content": "a"})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_earlier_one(tmp_path):
    draw, last = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_ON_AND_ON, tmp_path / "state", str(last + 1)],
            env=os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(draw.randrange(1, 4)):
            said = process.stdout.readline()
        time.sleep(draw.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
        confirmed = int(rest[-1] if rest else said)
        value = np.asarray(restore(tmp_path / "state", {"content": "a"})["value"])
        assert (value == value[0]).all() and value[0] >= confirmed
        last = int(value[0])
    # What was cut off takes up no room.
    save(tmp_path / "state", last + 1, {"value": np.zeros(1)}, {"content": "a"})
    assert len(steps(tmp_path / "state")) == 2


DIE_AT_EACH_CHANGE = """
import os, shutil, sys, warnings
from pathlib import Path
import numpy as np
from jaxnst.app.checkpoint import save

warnings.simplefilter("ignore")  # of threads that a fork leaves behind: they are idle

def in_a_child(folder, steps, change=None):
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0
    def die(event, args):
        nonlocal seen
        writes = event == "open" and args[2] & os.O_CREAT
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            seen += 1
            if seen == change:
                os._exit(9)
    sys.addaudithook(die)
    for step in steps:
        save(Path(folder), step, {"value": np.full(1000, step)}, {"content": "a"})
    os._exit(0)

_, folder, earlier, step = sys.argv
assert in_a_child(f"{folder}/0", eval(earlier)) == 0
change, status = 0, 9
while status == 9:
    change += 1
    if os.path.exists(f"{folder}/0"):
        shutil.copytree(f"{folder}/0", f"{folder}/{change}")
    status = in_a_child(f"{folder}/{change}", [int(step)], change)
assert status == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("earlier", "step", "left"),
    [([10, 20], 30, {20, 30}), ([], 30, {None, 30}), ([10, 20], 20, {10, 20})],
    ids=["another", "the first", "the same again"],
)
def test_a_process_may_die_before_each_change_of_the_folder(tmp_path, earlier, step, left):
    subprocess.run(
        [sys.executable, "-c", DIE_AT_EACH_CHANGE, tmp_path, str(earlier), str(step)],
        env=os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])},
        check=True,
        timeout=200,
    )
    deaths = [folder for folder in tmp_path.iterdir() if folder.name != "0"]
    assert len(deaths) > 1
    for folder in deaths:
        found = None
        if has_checkpoint(folder):
            found = int(restore(folder, {"content": "a"})["value"][0])
        assert found in left
        save(folder, 40, make_arrays(), MARK)  # and what was cut off is cleaned up
        check_same(restore(folder, MARK), make_arrays())
        assert len(steps(folder)) <= 2
