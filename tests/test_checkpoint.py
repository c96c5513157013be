"""States on disk: the same bits come back, and only to what they belong to."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnst
from jaxnst.checkpoint import digest, has_checkpoint, remove, restore, save

MARK = {"content": "a", "style": "b"}


def make_tree(seed=0):
    random = np.random.default_rng(seed)
    return {
        "leaves": [
            jnp.asarray(random.normal(size=(5, 7, 3)), jnp.float32),
            np.float32(random.normal()),
            np.array(7, np.int32),
            np.array([np.nan, -0.0, np.inf, 1e-40], np.float32),
        ],
        "scale": 2,
        "history": {"loss": random.normal(size=4), "evaluation": np.arange(4)},
    }


def check_same(found, expected):
    assert found.keys() == expected.keys()
    assert int(found["scale"]) == expected["scale"]
    pairs = [*zip(found["leaves"], expected["leaves"], strict=True)]
    pairs += [(found["history"][k], v) for k, v in expected["history"].items()]
    for a, b in pairs:
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def steps(folder):
    return sorted(path.name for path in folder.iterdir())


def check_refused(folder, *parts, mark=MARK):
    with pytest.raises(ValueError) as caught:
        restore(folder, mark)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(str(folder)), *parts):
        assert part in message


def test_the_same_bits_come_back(tmp_path):
    save(tmp_path / "state", 3, make_tree(), MARK)
    check_same(restore(tmp_path / "state", MARK), make_tree())


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    for step in (5, 10, 20):
        save(tmp_path, step, make_tree(step), MARK)
    check_same(restore(tmp_path, MARK), make_tree(20))
    assert steps(tmp_path) == ["10", "20"]


def test_what_differs_is_named(tmp_path):
    save(tmp_path, 1, make_tree(), MARK)
    check_refused(tmp_path, "a run with other style", mark=MARK | {"style": "x"})
    check_refused(tmp_path, "other content and style", mark={"content": "x", "style": "x"})
    check_refused(tmp_path, "other num_steps", mark=MARK | {"num_steps": "3"})
    check_refused(tmp_path, "other style", mark={"content": "a"})
    check_same(restore(tmp_path, MARK), make_tree())


def test_a_folder_without_a_state_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert not has_checkpoint(folder)
        check_refused(folder, "holds no state")
    assert steps(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "removed", "emptied"])
def test_a_damaged_state_is_refused(tmp_path, damage):
    save(tmp_path, 1, make_tree(), MARK)
    assert has_checkpoint(tmp_path)
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file() and damage == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif path.is_file() and damage == "removed":
            path.unlink()
        elif path.is_file():
            path.write_bytes(b"")
    check_refused(tmp_path, "cannot be read")


def test_remove(tmp_path):
    save(tmp_path / "state", 1, make_tree(), MARK)
    remove(tmp_path / "state")
    remove(tmp_path / "state")
    assert steps(tmp_path) == []


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
    ]
    digests = [digest(tree) for tree in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert digest(jnp.asarray(base)) == digest(base) == digest(base.copy())
    turned = np.asfortranarray(base.reshape(2, 3))
    assert digest(turned) == digest(base.reshape(2, 3))


SAVE_ON_AND_ON = """
import sys
import numpy as np
from jaxnst.checkpoint import save
for step in range(int(sys.argv[2]), 10**6):
    value = np.full(200_000, step, np.float32)
    save(sys.argv[1], step, {"value": value}, {"content": "a"})
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
    # What was cut off does not pile up.
    save(tmp_path / "state", last + 1, {"value": np.zeros(1)}, {"content": "a"})
    assert len(steps(tmp_path / "state")) <= 3
