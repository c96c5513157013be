"""Lanes over several devices, and their memory."""

import jax
import psutil
import pytest
from helpers import on_devices

from jaxnst.devices import free_memory, group_size


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
def test_group_size(count, lane_batch, devices, size):
    assert group_size(count, lane_batch, devices) == size


def test_free_memory_is_a_share_of_what_is_free():
    free = psutil.virtual_memory().available
    assert 0 < free_memory(jax.local_devices()[:1]) < 1.2 * free

    class Accelerator:
        def __init__(self, used):
            self.used = used

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": self.used}

    assert free_memory([Accelerator(100), Accelerator(500)]) == 350  # 0.7 of the least


ON_EIGHT = """
import re
import jaxnst
from jaxnst import Content, Lbfgs, LossWeights, Objective, Penalty, Style, lanes
from jaxnst.pyramid import resize
from jaxnst.scale import advance

assert len(jax.devices()) == 8
demo = jaxnst.__path__[0] + "/demo/"
content = resize(jaxnst.load_image(demo + "content.jpg", size=96), 36, 48)
style = resize(jaxnst.load_image(demo + "style.jpg", size=80), 40, 32)
params = jaxnst.load_params()
terms = {"content": Content(("relu2_1",)), "style": Style(("relu1_1", "relu2_1"))}
config = jaxnst.TransferConfig(Objective(terms), optimizer=Lbfgs(memory=3), num_steps=3)
weights = LossWeights.ones(config.objective).replace(content=1e-2)
weights = weights.replace_layers(style={"relu1_1": 2e-4, "relu2_1": 6e-5})
texts, used, lanes_on = [], [], lanes.lanes_on

def spied(mesh):
    def lift(function, axes, **options):
        program = lanes_on(mesh)(function, axes, **options)
        if function is not advance:
            return program
        def call(*args):
            if mesh.size == 8 and not texts:
                texts.append(program.lower(*args).compile().as_text())
            state, info = program(*args)
            shard = state.x.addressable_shards[0]
            used.append((len(state.x.sharding.device_set), shard.data.shape[0]))
            return state, info
        return call
    return lift

def run(count, devices, lane_batch=64):
    used.clear()
    some = weights.replace(style=np.geomspace(1, 1000, 12)[:count])
    results = jaxnst.sweep(
        content, style, params=params, weights=some, config=config, devices=devices,
        lane_batch=lane_batch,
    )
    return results, sorted(set(used))

lanes.lanes_on = spied
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
"""


@pytest.fixture(scope="module")
def on_eight():
    """The findings of a process with eight devices."""
    return on_devices(8, ON_EIGHT)


@pytest.mark.parametrize(
    ("case", "devices", "each"),
    [pytest.param("12 8", 8, 1, marks=pytest.mark.slow), ("12 16", 8, 2), ("3 64", 3, 1)],
    ids=["two groups", "a remainder", "fewer lanes than devices"],
)
def test_all_devices_work_and_give_what_one_gives(on_eight, case, devices, each):
    found = on_eight[case]
    assert found["used"] == [[devices, each]]
    assert on_eight["one"] == [[1, 12]]
    assert found["difference"] < 1e-4
    assert found["loss"] < 1e-3


def test_devices_do_not_communicate(on_eight):
    assert on_eight["collectives"] == []
    # It is the right program: conv1_2 and conv2_1, and back. conv1_1 is a matrix product.
    assert on_eight["convolutions"][0] >= 4
