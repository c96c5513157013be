"""Many transfers at once against the same ones by one, with the real network."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst import (
    LossWeights,
    ObjectiveConfig,
    Progress,
    Status,
    SweepProgress,
    SweepResult,
    compute_targets,
    load_image,
    loss_and_grad,
    perceptual_loss,
    preset,
    style_transfer,
    sweep,
    weight_grid,
)
from jaxnst import lanes as lanes_module
from jaxnst.objective import canonical_weights
from jaxnst.optimize import init, outcome, run_chunk
from jaxnst.pyramid import resize
from jaxnst.sweep import group_size, sweep_groups
from jaxnst.transfer_config import make_optimizer
from jaxnst.vgg import Params

CONFIG, DEEP_WEIGHTS = preset("pastiche")
DEEP = dataclasses.replace(CONFIG, num_steps=6, memory=5)
# The first layers alone are soon compiled.
CONFIG = dataclasses.replace(
    CONFIG,
    objective=ObjectiveConfig(content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1")),
)
WEIGHTS = LossWeights(10.0, 0.1, 0.0, {"relu2_1": 1.0}, {"relu1_1": 2e-4, "relu2_1": 6e-5})
LBFGS = dataclasses.replace(CONFIG, num_steps=6, memory=5)
ADAM = dataclasses.replace(CONFIG, num_steps=6, optimizer="adam")
STYLE_WEIGHTS = np.array([1.0, 30.0, 1000.0], np.float32)

side_by_side = partial(sweep, lane_batch=8)  # which CPUs do only if asked to


@pytest.fixture(scope="module")
def small(content: jax.Array) -> jax.Array:
    return resize(content, 36, 48)


@pytest.fixture(scope="module")
def paint(style: jax.Array) -> jax.Array:
    return resize(style, 40, 32)


def pick(tree: Any, lane: int) -> Any:
    """One lane of weights of which some have lanes."""
    return jax.tree.map(lambda leaf: leaf[lane] if jnp.ndim(leaf) else leaf, tree)


def check_same(together: Any, alone: Any, *, image: float = 1e-4, loss: float = 1e-3) -> None:
    """Mean difference of the pictures and relative difference of the loss curves."""
    assert together.status is alone.status
    assert list(together.history) == list(alone.history)
    np.testing.assert_array_equal(together.history["evaluation"], alone.history["evaluation"])
    np.testing.assert_array_equal(together.history["size"], alone.history["size"])
    size = alone.history["loss"].min()  # a content term may start at 0
    for name in ("loss", "content", "style", "tv"):
        np.testing.assert_allclose(
            together.history[name], alone.history[name], rtol=loss, atol=loss * size
        )
    assert float(jnp.abs(together.image - alone.image).mean()) < image


# --- lanes are what separate runs are ----------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (ADAM, WEIGHTS),
        (LBFGS, WEIGHTS),
        pytest.param(DEEP, DEEP_WEIGHTS, marks=pytest.mark.slow),  # a large program
    ],
    ids=["adam", "lbfgs", "deep"],
)
def test_style_weights(
    small: jax.Array, paint: jax.Array, params: Params, config: Any, weights: LossWeights
) -> None:
    weights = weights._replace(style=STYLE_WEIGHTS)
    results = side_by_side(small, paint, params=params, weights=weights, config=config)
    assert isinstance(results, SweepResult) and len(results) == 3
    assert results.image.shape == (3, *small.shape) and results.image.dtype == np.float32
    assert results.image.min() >= 0 and results.image.max() <= 1
    assert results.status.tolist() == [Status.OK] * 3
    assert {rows.shape for rows in results.history.values()} == {(3, 6)}
    for i, together in enumerate(results):
        alone = style_transfer(small, paint, params=params, weights=pick(weights, i), config=config)
        check_same(together, alone)
    assert len(results[1:]) == 2
    np.testing.assert_array_equal(results[-1].image, results[2].image)


LAYER_WEIGHTS = WEIGHTS._replace(
    style_layers={name: np.array([1, 2]) * w for name, w in WEIGHTS.style_layers.items()}
)


@pytest.mark.parametrize(
    "axis", ["layers", "tv", "content", "style", "blend", "keys", "one key", "first image"]
)
def test_any_axis(small: jax.Array, paint: jax.Array, params: Params, axis: str) -> None:
    contents = jnp.stack([small, small[::-1]])
    paints = jnp.stack([paint, 1 - paint])
    config = dataclasses.replace(ADAM, num_steps=3)
    noise = dataclasses.replace(config, init="noise")
    keys = jax.random.split(jax.random.key(7), 2)
    other = resize(paint, 24, 33)
    give, each = {
        "layers": ({"weights": LAYER_WEIGHTS}, lambda i: {"weights": pick(LAYER_WEIGHTS, i)}),
        "tv": (
            {"weights": WEIGHTS._replace(tv=np.array([0.0, 1e5]))},
            lambda i: {"weights": WEIGHTS._replace(tv=[0.0, 1e5][i])},
        ),
        "content": ({"content": contents}, lambda i: {"content": contents[i]}),
        "style": ({"style": paints}, lambda i: {"style": paints[i]}),
        "blend": ({"style": [other, paints]}, lambda i: {"style": [other, paints[i]]}),
        "keys": ({"key": keys, "config": noise}, lambda i: {"key": keys[i], "config": noise}),
        "one key": (
            {"key": keys[0], "config": noise, "content": contents},
            lambda i: {"key": keys[0], "config": noise, "content": contents[i]},
        ),
        "first image": (
            {"initial_image": contents},
            lambda i: {"initial_image": contents[i]},
        ),
    }[axis]
    shared = {"content": small, "style": paint, "weights": WEIGHTS, "config": config}
    results = side_by_side(**(shared | give), params=params)
    assert len(results) == 2
    first, second = results.history["loss"]
    assert not np.allclose(first, second, rtol=5e-3)
    for i in range(2):
        check_same(results[i], style_transfer(**(shared | each(i)), params=params))


def test_coarse_to_fine(small: jax.Array, paint: jax.Array, params: Params) -> None:
    config = dataclasses.replace(ADAM, num_steps=3, first_steps=5, min_size=24, average=0.9)
    weights = WEIGHTS._replace(style=STYLE_WEIGHTS[:2])
    results = side_by_side(small, paint, params=params, weights=weights, config=config)
    np.testing.assert_array_equal(results.history["size"], [[24] * 5 + [48] * 3] * 2)
    for i in range(2):
        alone = style_transfer(small, paint, params=params, weights=pick(weights, i), config=config)
        check_same(results[i], alone)


def test_a_lane_that_is_lost_leaves_the_others_alone(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    config = dataclasses.replace(ADAM, num_steps=3, min_size=24)
    weights = WEIGHTS._replace(style=np.array([10, np.nan, 100], np.float32))
    results = side_by_side(small, paint, params=params, weights=weights, config=config)
    assert results.status.tolist() == [Status.OK, Status.NON_FINITE, Status.OK]
    assert np.isfinite(results.image).all()
    assert len(results[1].history["loss"]) == 1 and len(results[2].history["loss"]) == 6
    for i in (0, 2):
        alone = style_transfer(small, paint, params=params, weights=pick(weights, i), config=config)
        check_same(results[i], alone)


def test_users_own_vmap_does_the_same(small: jax.Array, paint: jax.Array, params: Params) -> None:
    weights = WEIGHTS._replace(style=jnp.array(STYLE_WEIGHTS))
    in_axes = LossWeights(None, 0, None, None, None)
    objective, optimizer = LBFGS.objective, make_optimizer(LBFGS)
    targets = compute_targets(small, [paint], params, config=objective)

    def value_and_grad(image: jax.Array, weights: LossWeights) -> Any:
        return loss_and_grad(image, params, targets, weights, config=objective)

    def transfer(weights: LossWeights) -> Any:
        state = init(value_and_grad, small, weights, optimizer=optimizer)
        return run_chunk(value_and_grad, state, LBFGS.num_steps, weights)

    states = jax.jit(jax.vmap(transfer, (in_axes,)))(weights)
    images = jax.vmap(outcome)(states)
    results = side_by_side(small, paint, params=params, weights=weights, config=LBFGS)
    for i in range(3):
        np.testing.assert_allclose(
            states.history["loss"][i, :6], results[i].history["loss"], rtol=1e-3
        )
        assert np.abs(np.clip(images[i], 0, 1) - results.image[i]).mean() < 1e-4
    losses, _ = jax.vmap(
        lambda weights: perceptual_loss(small, params, targets, weights, config=objective),
        (in_axes,),
    )(weights)
    np.testing.assert_allclose(losses, results.history["loss"][:, 0], rtol=1e-4)


@pytest.mark.slow  # minutes on two cores
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_eight_style_weights_at_128_in_float64(params: Params, optimizer: Any) -> None:
    steps = 50 if optimizer == "adam" else 30
    objective = dataclasses.replace(DEEP.objective, dtype="float64")
    config = dataclasses.replace(
        DEEP, objective=objective, optimizer=optimizer, num_steps=steps, memory=20
    )
    weights = DEEP_WEIGHTS._replace(style=np.geomspace(0.1, 1e3, 8))
    demo = Path(lanes_module.__file__).parent / "demo"
    pictures = [load_image(demo / f"{name}.jpg", size=128) for name in ("content", "style")]
    with jax.enable_x64(True):
        content, style, params = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (*pictures, params)
        )
        shared: dict[str, Any] = {"params": params, "config": config}
        results = side_by_side(content, style, weights=weights, **shared)
        for i in (0, 7):
            alone = style_transfer(content, style, weights=pick(weights, i), **shared)
            assert alone.image.dtype == jnp.float64
            check_same(results[i], alone, loss=1e-3 if optimizer == "adam" else 1e-2)


@pytest.mark.slow  # minutes on two cores
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_eight_style_weights_at_128_in_float32(params: Params, optimizer: Any) -> None:
    """One at a time, lanes have the bits of single runs. Side by side they round otherwise, and a
    run depends on the last bits of its start; they are to differ no more than by those."""
    demo = Path(lanes_module.__file__).parent / "demo"
    content, style = (load_image(demo / f"{name}.jpg", size=128) for name in ("content", "style"))
    steps = 50 if optimizer == "adam" else 30
    config = dataclasses.replace(DEEP, optimizer=optimizer, num_steps=steps, memory=20)
    weights = DEEP_WEIGHTS._replace(style=np.geomspace(0.1, 1e3, 8))
    shared: dict[str, Any] = {"params": params, "config": config}
    in_turn = sweep(content, style, weights=weights, **shared)
    results = side_by_side(content, style, weights=weights, **shared)
    rounding = 6e-8 * jax.random.rademacher(jax.random.key(0), content.shape)
    for i in (0, 7):
        alone, moved = (
            style_transfer(content, style, weights=pick(weights, i), initial_image=start, **shared)
            for start in (content, content + rounding)
        )
        np.testing.assert_array_equal(in_turn[i].image, alone.image)
        np.testing.assert_array_equal(in_turn[i].history["loss"], alone.history["loss"])
        image, floor = (
            float(jnp.abs(other.image - alone.image).mean()) for other in (results[i], moved)
        )
        assert floor > 1e-4  # so no two runs in float32 can be held to that
        assert image < 3 * floor
        loss, floor = (
            np.abs(other.history["loss"] / alone.history["loss"] - 1).max()
            for other in (results[i], moved)
        )
        assert loss < (1e-3 if optimizer == "adam" else 3 * floor)


# --- programs and memory -----------------------------------------------------------------------

COMPILED: list[str] = []


def _listen(event: str, duration: float, **details: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(details.get("fun_name", "?"))


jax.monitoring.register_event_duration_secs_listener(_listen)


def test_all_lanes_and_groups_share_one_program(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    config = dataclasses.replace(ADAM, num_steps=2, beta2=0.95)  # which no other test has

    def steps_compiled(weights: LossWeights, **options: Any) -> int:
        before = len(COMPILED)
        options = {"lane_batch": 8, **options}
        sweep(small, paint, params=params, weights=weights, config=config, **options)
        return sum("step_lanes" in name for name in COMPILED[before:])

    assert steps_compiled(WEIGHTS._replace(style=STYLE_WEIGHTS)) == 1
    assert steps_compiled(WEIGHTS._replace(style=STYLE_WEIGHTS * 2)) == 0
    assert steps_compiled(WEIGHTS._replace(style=[1, 2.5, 4])) == 0
    assert steps_compiled(WEIGHTS._replace(tv=STYLE_WEIGHTS)) == 0
    assert steps_compiled(WEIGHTS._replace(style=np.arange(6)), lane_batch=3) == 0


@pytest.mark.parametrize("config", [ADAM, LBFGS], ids=["adam", "lbfgs"])
def test_by_default_cpus_run_one_lane_after_another(
    small: jax.Array, paint: jax.Array, params: Params, config: Any
) -> None:
    weights = WEIGHTS._replace(style=STYLE_WEIGHTS)
    singles = [
        style_transfer(small, paint, params=params, weights=pick(weights, i), config=config)
        for i in range(3)
    ]
    records: list[SweepProgress] = []
    results = sweep(
        small, paint, params=params, weights=weights, config=config, callback=records.append
    )
    for together, alone in zip(results, singles, strict=True):
        check_same(together, alone)
        np.testing.assert_array_equal(together.image, alone.image)
        np.testing.assert_array_equal(together.history["loss"], alone.history["loss"])
    assert {record.lanes for record in records} == {range(i, i + 1) for i in range(3)}
    last = records[-1].progress
    assert last.x.shape == (1, *small.shape) and last.loss.shape == (1,)
    assert last.history["loss"].shape == (1, 6)


def test_lanes_one_after_another_share_a_program_at_each_scale(
    small: jax.Array, paint: jax.Array, params: Params
) -> None:
    config = dataclasses.replace(ADAM, num_steps=3, min_size=24, beta2=0.94)  # no other test has
    begun = len(COMPILED)
    sweep(
        small,
        paint,
        params=params,
        weights=WEIGHTS._replace(style=STYLE_WEIGHTS),
        config=config,
    )
    assert COMPILED[begun:].count("jit(step)") == 2


def test_groups_are_as_all_at_once(small: jax.Array, paint: jax.Array, params: Params) -> None:
    shared: dict[str, Any] = {"params": params, "config": dataclasses.replace(ADAM, num_steps=2)}
    weights = WEIGHTS._replace(style=np.geomspace(1, 100, 5))
    whole = side_by_side(small, paint, weights=weights, **shared)
    groups = list(sweep_groups(small, paint, weights=weights, lane_batch=2, **shared))
    assert [lanes for lanes, _ in groups] == [range(0, 2), range(2, 4), range(4, 5)]
    assert [len(results) for _, results in groups] == [2, 2, 1]
    parts = sweep(small, paint, weights=weights, lane_batch=2, **shared)
    for i in range(5):
        check_same(parts[i], whole[i])


@pytest.mark.parametrize(
    ("count", "lane_batch", "devices", "size"),
    [
        (8, 8, 1, 8),
        (8, 100, 1, 8),
        (8, 3, 1, 3),  # 3, 3, 2
        (9, 8, 1, 5),  # rather than 8 and 1
        (10, 5, 4, 4),  # no more than asked for
        (8, 8, 8, 8),
        (9, 16, 8, 16),
        (5, 4, 4, 4),
        (1, 1, 1, 1),
    ],
)
def test_group_size(count: int, lane_batch: int, devices: int, size: int) -> None:
    assert group_size(count, lane_batch, devices) == size


def test_as_many_lanes_as_fit_in_memory(
    small: jax.Array, paint: jax.Array, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = WEIGHTS._replace(style=np.geomspace(1, 100, 6))
    config = dataclasses.replace(ADAM, num_steps=1)
    module = importlib.import_module("jaxnst.sweep")  # the function hides it
    needs: list[int] = []

    def memory_of_step(*args: Any) -> int:
        needs.append(lanes_module.memory_of_step(*args))
        return needs[-1]

    def fit_within(share: float) -> int:
        monkeypatch.setattr(module, "memory_for_lanes", lambda _: share * needs[-1])
        of_lanes = jax.tree.map(lambda leaf: np.broadcast_to(leaf, 6), canonical_weights(weights))
        devices = jax.local_devices()[:1]
        return module.lanes_that_fit(small, [paint], params, of_lanes, config, devices)

    monkeypatch.setattr(module, "memory_of_step", memory_of_step)
    assert fit_within(1.0) == 6
    assert fit_within(0.5) == 3
    assert fit_within(0.01) == 1
    # The features of six lanes behind relu1_1, forward, are the least that is needed.
    assert needs[0] > 6 * 36 * 48 * 64 * 4


def test_memory_for_lanes_is_what_is_free() -> None:
    import psutil

    free = psutil.virtual_memory().available
    (device,) = jax.local_devices()[:1]
    assert 0 < lanes_module.memory_for_lanes([device]) < 1.2 * free

    class Accelerator:
        def __init__(self, used: int) -> None:
            self.used = used

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 1000, "bytes_in_use": self.used}

    devices: Any = [Accelerator(100), Accelerator(500)]
    assert lanes_module.memory_for_lanes(devices) == 350  # 0.7 of the least


# --- while it runs -----------------------------------------------------------------------------


def test_callback_gets_records_of_lanes(small: jax.Array, paint: jax.Array, params: Params) -> None:
    records: list[SweepProgress] = []
    weights = WEIGHTS._replace(style=STYLE_WEIGHTS)
    config = dataclasses.replace(ADAM, num_steps=3)
    sweep(
        small,
        paint,
        params=params,
        weights=weights,
        config=config,
        lane_batch=2,
        callback=records.append,
    )
    assert {(record.lanes, record.num_lanes) for record in records} == {
        (range(0, 2), 3),
        (range(2, 3), 3),
    }
    for lanes, _, progress in records:
        assert isinstance(progress, Progress) and progress.num_steps == 3
        assert progress.loss.shape == progress.terms["style"].shape == (len(lanes),)
        assert progress.x.shape == (len(lanes), *small.shape)
        assert {len(rows) for rows in progress.history.values()} == {len(lanes)}
    assert records[-1].progress.evaluation == 3


def test_interrupted(small: jax.Array, paint: jax.Array, params: Params) -> None:
    config = dataclasses.replace(ADAM, num_steps=4, init="noise", min_size=24)
    results = sweep(
        small,
        paint,
        params=params,
        weights=WEIGHTS._replace(style=STYLE_WEIGHTS),
        config=config,
        lane_batch=1,
        callback=lambda record: record.lanes.start == 1,
    )
    assert results.status.tolist() == [Status.OK, Status.INTERRUPTED, Status.INTERRUPTED]
    lengths = [len(result.history["loss"]) for result in results]
    assert lengths[0] == 8 and 0 < lengths[1] < 8 and lengths[2] == 0
    assert results.image.shape == (3, *small.shape)
    assert np.isfinite(results.image).all()


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "nothing has a leading axis"),
        ({"weights": WEIGHTS._replace(style=np.ones((2, 2)))}, ValueError, r"style.*\(2, 2\)"),
        ({"weights": WEIGHTS._replace(style=np.ones(0))}, ValueError, "one or more"),
        (
            {"weights": WEIGHTS._replace(style=np.ones(2), tv=np.ones(3))},
            ValueError,
            "style weight has 2, tv weight has 3",
        ),
        ({"content": np.zeros((2, 36, 48, 4), np.float32)}, ValueError, "content"),
        ({"content": np.zeros((2, 36, 48, 3), np.uint8)}, TypeError, "content"),
        ({"style": np.zeros((48, 3), np.float32)}, ValueError, "style 1"),
        ({"style": []}, ValueError, "at least one style"),
        ({"lane_batch": 0, "key": jax.random.split(jax.random.key(0))}, ValueError, "lane_batch"),
        ({"lane_batch": True, "key": jax.random.split(jax.random.key(0))}, ValueError, "lane_b"),
        ({"devices": [], "key": jax.random.split(jax.random.key(0))}, ValueError, "device"),
    ],
)
def test_refusals(
    small: jax.Array, paint: jax.Array, params: Params, change: Any, error: Any, message: str
) -> None:
    given = {"content": small, "style": paint, "weights": WEIGHTS, "config": ADAM} | change
    with pytest.raises(error, match=message):
        sweep(**given, params=params)


def test_weight_grid() -> None:
    weights = weight_grid(WEIGHTS, style=[1, 10], tv=[0, 0.5, 1])
    np.testing.assert_array_equal(weights.style, [1, 1, 1, 10, 10, 10])
    np.testing.assert_array_equal(weights.tv, [0, 0.5, 1, 0, 0.5, 1])
    assert weights.content == WEIGHTS.content
    with pytest.raises(TypeError, match="style_layers"):
        weight_grid(WEIGHTS, style_layers=[1])
    with pytest.raises(ValueError, match="one or more values"):
        weight_grid(WEIGHTS)
    with pytest.raises(ValueError, match="one or more values"):
        weight_grid(WEIGHTS, style=[])


# --- devices -----------------------------------------------------------------------------------

ON_EIGHT = """
import dataclasses, json, re, sys
import jax, numpy as np
import jaxnst
from jaxnst import lanes
from jaxnst.pyramid import resize

assert len(jax.devices()) == 8
demo = jaxnst.__path__[0] + "/demo/"
content = resize(jaxnst.load_image(demo + "content.jpg", size=96), 36, 48)
style = resize(jaxnst.load_image(demo + "style.jpg", size=80), 40, 32)
params = jaxnst.load_params()
config, weights = jaxnst.preset("pastiche")
objective = jaxnst.ObjectiveConfig(("relu2_1",), ("relu1_1", "relu2_1"))
config = dataclasses.replace(config, objective=objective, num_steps=3, memory=3)
weights = weights._replace(
    content_layers={"relu2_1": 1.0}, style_layers={"relu1_1": 2e-4, "relu2_1": 6e-5}
)
texts, used = [], []
step = lanes.compiled_lanes

def spied(mesh, axes):
    compiled = step(mesh, axes)
    def call(value_and_grad, state, limit, *args):
        if mesh.size == 8 and not texts:
            program = compiled.step.lower(value_and_grad, state, limit, *args).compile()
            texts.append(program.as_text())
        state = compiled.step(value_and_grad, state, limit, *args)
        used.append((len(state.x.sharding.device_set), state.x.addressable_shards[0].data.shape[0]))
        return state
    return dataclasses.replace(compiled, step=call)

def run(count, devices, lane_batch=64):
    used.clear()
    some = grid._replace(style=grid.style[:count])
    results = jaxnst.sweep(
        content, style, params=params, weights=some, config=config, devices=devices,
        lane_batch=lane_batch,
    )
    return results, sorted(set(used))

out = {}
lanes.compiled_lanes = spied
grid = weights._replace(style=np.geomspace(1, 1000, 12))
single, out["one"] = run(12, jax.devices()[:1])
for count, lane_batch in ((12, 8), (12, 16), (3, 64)):
    many, used_by = run(count, jax.devices(), lane_batch)
    out[f"{count} {lane_batch}"] = {
        "used": used_by,
        "difference": float(np.abs(many.image - single.image[:count]).mean()),
        "loss": float(np.abs(many.history["loss"] / single.history["loss"][:count] - 1).max()),
    }
collectives = r"all-reduce|all-gather|all-to-all|collective|reduce-scatter|partition-id"
out["collectives"] = sorted({m for text in texts for m in re.findall(collectives, text)})
out["convolutions"] = [len(re.findall("convolution", text)) for text in texts]
json.dump(out, sys.stdout)
"""


@pytest.fixture(scope="module")
def on_eight() -> Any:
    """What a process with eight devices has found."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_EIGHT],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("case", "devices", "each"),
    [("12 8", 8, 1), ("12 16", 8, 2), ("3 64", 3, 1)],
    ids=["two groups", "a remainder", "fewer lanes than devices"],
)
def test_all_devices_work_and_give_what_one_gives(
    on_eight: Any, case: str, devices: int, each: int
) -> None:
    found = on_eight[case]
    assert found["used"] == [[devices, each]]
    assert on_eight["one"] == [[1, 12]]
    assert found["difference"] < 1e-4
    assert found["loss"] < 1e-3


def test_devices_do_not_communicate(on_eight: Any) -> None:
    assert on_eight["collectives"] == []
    assert on_eight["convolutions"][0] > 4  # it is the right program: the network and back
