# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Large pictures and many devices
#
# A picture of a few megabytes needs gigabytes while VGG19 looks at it. There are two ways out:
# compute the picture in tiles, one after another, or spread it over several devices. Both give the
# picture that one large device would give. At the end you will know
#
# - what takes the memory, and how to ask the compiler for it without running anything,
# - why a picture cannot simply be cut up, and how tiles can be exact all the same,
# - what tiles cost in time,
# - how one picture is spread over four devices, and what these say to each other,
# - how lanes of a sweep are spread over devices, and what a compiler for TPUs expects.
#
# Everything runs on a CPU. To install: `pip install "jaxnst[notebooks]"`.
#
# JAX can split a CPU into several devices. They are no faster than one, but they behave as several
# accelerators do: each holds its own arrays, and JAX plans what they exchange. The number has to be
# set before JAX is imported. (The last variable matters only where `libtpu` is installed, for the
# end of the notebook.)

# %%
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax

jax.devices()

# %%
import dataclasses
import io
import re
import time
from collections import Counter
from functools import partial
from importlib.resources import files
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxnst


def as_jpeg(figure):
    """Return a figure as a JPEG, which suits photographs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 88})
    plt.close(figure)
    return Image(buffer.getvalue())


def canvas(rows, columns, size):
    return plt.subplots(rows, columns, figsize=size, dpi=80, layout="constrained")


# %% [markdown]
# ## What takes the memory
#
# We use the recipe `default` throughout. For the gradient, JAX keeps what the forward pass has
# computed: the *activations* of VGG19, an array at each layer. `jax.eval_shape` says what shapes a
# function would return, and computes nothing. Here are the activations of a picture of 1024×1024
# pixels. The picture itself has 12.6 MB.

# %%
demo = files("jaxnst") / "demo"
params = jaxnst.load_params()
config, weights = jaxnst.preset("default")
objective = config.objective
layers = [name for name in jaxnst.LAYERS if name.startswith("relu")]
layers = layers[: layers.index("relu5_1") + 1]
look = partial(jaxnst.extract_features, layers=layers)
large = jax.ShapeDtypeStruct((1024, 1024, 3), np.float32)
megabytes = {name: 4e-6 * x.size for name, x in jax.eval_shape(look, large, params).items()}
figure, axis = canvas(1, 1, (7, 2.8))
axis.bar(megabytes.keys(), megabytes.values(), color="#4c72b0")
axis.tick_params("x", rotation=60)
axis.set(ylabel="MB", title=f"activations: {sum(megabytes.values()):.0f} MB in all")
plt.show()

# %% [markdown]
# ## Ask the compiler
#
# The sum above is only a first guess: gradients and other buffers come on top, and not everything
# is kept. The compiler knows better, since it plans all memory before anything runs.
# `jax.jit(…).lower(…)` takes descriptions of the arguments, `compile()` makes the program, and
# `memory_analysis()` reports the plan. *Temporaries* are what the program needs beside its
# arguments and results. Level 0 of optimisation makes poor machine code, but sooner, and the plan
# does not depend on it.


# %%
def described(tree, sharding=None):
    """Return a tree of arrays without their numbers."""

    def describe(x):
        return jax.ShapeDtypeStruct(np.shape(x), np.float32, sharding=sharding)

    return jax.tree.map(describe, tree)


def lower(image, objective, *, tile=None, everywhere=None):
    """Return the loss and gradient of an image that is only described, ready to be compiled."""
    describe = partial(jaxnst.compute_targets, objective=objective)
    targets = jax.eval_shape(describe, dict.fromkeys(objective.sources, image), params)
    weights = jaxnst.LossWeights.ones(objective)
    shared = described((params, targets, weights), everywhere)
    function = partial(jaxnst.loss_and_grad, objective=objective, tile=tile)
    return jax.jit(function).lower(image, *shared)


fast = {"compiler_options": {"xla_backend_optimization_level": 0}}


def gigabytes(program):
    return program.memory_analysis().temp_size_in_bytes / 1e9


# %% [markdown]
# Without tiles, memory grows with the number of pixels: twice the side, four times the memory. The
# argument `tile=` of `loss_and_grad` computes the picture in tiles of that many pixels. Then only
# one tile has its activations in memory at a time. What still grows with the picture are arrays of
# its own size, which are small.

# %%
cases = [(512, None), (1024, None), (2048, None), (1024, 256), (2048, 256)]
needs = {}
for side, tile in cases:
    image = jax.ShapeDtypeStruct((side, side, 3), np.float32)
    needs[side, tile] = gigabytes(lower(image, objective, tile=tile).compile(**fast))
figure, axis = canvas(1, 1, (6, 3.4))
for tile, label in ((None, "the whole picture at once"), (256, "tiles of 256 pixels")):
    axis.plot(
        *zip(*[(n, x) for (n, t), x in needs.items() if t == tile], strict=True), "o-", label=label
    )
for (side, _), number in needs.items():
    axis.annotate(f"{number:.2f}", (side, number), (-6, 6), textcoords="offset points", ha="right")
axis.set(xlabel="side of the picture, pixels", ylabel="temporaries, GB", xticks=(512, 1024, 2048))
axis.margins(x=0.1, y=0.12)
axis.legend()
plt.show()

# %% [markdown]
# ## Why a picture cannot simply be cut
#
# A feature of a deep layer depends on many pixels around it. If a tile ends near it, the feature is
# wrong. How near is too near? Keep the left part of a picture, 96 pixels wide, and hide everything
# beyond a margin to the right of that part. Then compare the features of the part with those of the
# picture as it is.
#
# Each curve falls to the lowest line of the plot, which stands for exactly 0. From that margin on,
# the features of the part cannot know that the picture has changed. For relu5_1 that takes more
# than 64 pixels.

# %%
names = tuple(f"relu{block}_1" for block in range(1, 6))
look = jax.jit(partial(jaxnst.extract_features, layers=names, pooling="average"))
strip, part = jaxnst.load_image(demo / "content.jpg", size=192)[48:96], 96
wanted = look(strip, params)
margins = np.arange(0, 96, 4)
errors = {name: [] for name in names}
for margin in margins:
    hidden = np.array(strip)
    hidden[:, part + margin :] = 0.5
    for name, seen in look(hidden, params).items():
        columns = part * seen.shape[1] // strip.shape[1]
        off = np.abs(seen - wanted[name])[:, :columns].max() / np.abs(wanted[name]).max()
        errors[name].append(off)

# %%
figure, axis = canvas(1, 1, (7, 3.4))
for name in names:
    axis.semilogy(margins, np.maximum(errors[name], 1e-9), ".-", label=name)
axis.set(
    xlabel="margin, pixels", ylabel="largest error of a feature, relative", xticks=margins[::2]
)
axis.legend()
plt.show()

# %% [markdown]
# ## Exact tiles
#
# So each tile is computed from a larger *window*, which has a margin on all sides where the picture
# goes on: its *halo*. jaxnst takes 80 pixels for relu5_1, the next multiple of the 16 pixels
# between its positions. Only the tile's own features count.
#
# That makes features exact, but not yet the loss. The style's loss is not a sum over tiles: it
# compares the Gram matrix of the *whole* picture with that of the painting. Yet a Gram matrix is a
# mean over positions, and means add up. With $n_k$ the number of positions in tile $k$ of $n$:
#
# $$G = \sum_k \frac{n_k}{n} G_k, \qquad L = f(G), \qquad
# \nabla L = \sum_k \frac{n_k}{n} \left( \frac{\partial G_k}{\partial x} \right)^{\!\top}
# \frac{\partial f}{\partial G}$$
#
# A first pass over the tiles adds up $G$. Then $\partial f / \partial G$ is known. A second pass
# computes each tile once more and brings that derivative back to the pixels (Galerne et al. 2024 do
# the same). Every term of jaxnst that is a mean or a sum over positions works this way; others are
# refused.
#
# Below are the loss and the gradient at a blend of both pictures: once of the whole picture, and
# once in tiles of 64 pixels.

# %%
content = jaxnst.load_image(demo / "content.jpg", size=384)
style = jaxnst.load_image(demo / "style.jpg", size=384)
image = (content + style[: content.shape[0]]) / 2
describe = jax.jit(partial(jaxnst.compute_targets, objective=objective))
targets = describe({"content": content, "style": style}, params)
arguments = image, params, targets, weights


def run(tile):
    function = jax.jit(partial(jaxnst.loss_and_grad, objective=objective, tile=tile))
    program = function.lower(*arguments).compile()
    start = time.process_time()
    result = jax.block_until_ready(program(*arguments))
    return result, time.process_time() - start, gigabytes(program)


((loss, terms), gradient), seconds, size = run(None)
((tiled_loss, tiled_terms), tiled_gradient), tiled_seconds, tiled_size = run(64)

# %%
print(f"loss: {loss:.6f}, in tiles {tiled_loss:.6f}")
for name in terms:
    print(f"{name:>8}: {terms[name]:.6f}, in tiles {tiled_terms[name]:.6f}")
difference = np.asarray(tiled_gradient - gradient)
off = np.linalg.norm(difference) / np.linalg.norm(gradient)
print(f"the gradients differ by {off:.1e} of their length")

# %% [markdown]
# A tile with its window, the gradient in tiles (as colours; grey is 0), and its difference from the
# gradient of the whole picture on a logarithmic scale. There are no seams where tiles meet. A
# bright spot, if there is one, is all that one ReLU sees: its input is so near to 0 that rounding
# decides if it passes, and the gradient of these pixels changes with it.

# %%
figure, axes = canvas(1, 3, (12, 2.6))
axes[0].imshow(content * 0.4)
axes[0].imshow(content[16:240, 80:304], extent=(80, 304, 240, 16), alpha=0.5)
axes[0].imshow(content[96:160, 160:224], extent=(160, 224, 160, 96))
axes[0].set(xlim=(0, 384), ylim=(255, 0), title="a tile of 64 pixels and its window")
axes[1].imshow(np.clip(0.5 + tiled_gradient / (10 * np.std(gradient)), 0, 1))
axes[1].set_title("the gradient in tiles")
relative = np.abs(difference).max(-1) / np.abs(gradient).max()
shown = axes[2].imshow(np.log10(relative + 1e-9), cmap="magma", vmin=-9, vmax=-3)
axes[2].set_title("its difference, as a power of 10")
figure.colorbar(shown, ax=axes[2])
for axis in axes:
    axis.axis("off")
as_jpeg(figure)

# %% [markdown]
# ## What tiles cost
#
# Tiles save memory and take time, for two reasons. The first pass is an extra one: forward, and
# then forward and backward, where the whole picture needs forward and backward. All three take
# about as long, which makes 3/2. And windows overlap. A tile of side $t$ within the picture has a
# window of side $t + 160$:
#
# $$\text{time} \approx \frac{3}{2} \left( \frac{t + 160}{t} \right)^2$$
#
# Tiles at the border of the picture need no halo there, so small pictures cost less than the
# formula says. Shallower layers have smaller halos: an objective up to relu4_1 needs 32 pixels, one
# up to relu3_1 needs 12. A tile should be as large as memory allows.

# %%
tiles = np.geomspace(64, 4096, 100)
figure, axis = canvas(1, 1, (7, 3.4))
for name, halo in {"relu5_1": 80, "relu4_1": 32, "relu3_1": 12}.items():
    axis.semilogx(tiles, 1.5 * ((tiles + 2 * halo) / tiles) ** 2, label=f"up to {name}", base=2)
axis.axhline(1.5, color="grey", linewidth=1, linestyle=":")
ticks = [64, 128, 256, 512, 1024, 2048, 4096]
axis.set_xticks(ticks, ticks)
axis.set(xlabel="tile, pixels", ylabel="time, by that of the whole picture", ylim=(1, 10))
axis.legend()
plt.show()

# %% [markdown]
# Here are the two runs from above, measured as the time that the processor spent on them. The
# picture has only 384×255 pixels. All its tiles are at a border, so they cost less than the formula
# says.

# %%
print(f"time: {tiled_seconds / seconds:.1f} times that of the whole picture")
print(f"memory: {size:.2f} GB for the whole picture, {tiled_size:.2f} GB in tiles")

# %% [markdown]
# In a recipe, tiles are a field of the config. With `"auto"`, jaxnst asks the compiler as we did:
# it computes whole pictures if they fit in memory, and otherwise takes the largest tiles that do.
#
# ```python
# config = dataclasses.replace(config, tile="auto")  # or a number of pixels
# ```
#
#     jaxnst transfer photo.jpg painting.jpg -o large.png --size 4096 --tile auto
#
# ## One picture over several devices
#
# With more than one device there is a better way: each holds some rows of the picture, and computes
# the features of these rows. Nothing is computed twice. All that `style_transfer` needs is
# `devices=`. The height has to be a multiple of the number of devices times 16, so that each device
# has rows of relu5_1, too: of 64 pixels here.

# %%
content = jaxnst.load_image(demo / "content.jpg", size=192)
style = jaxnst.load_image(demo / "style.jpg", size=192)
short = dataclasses.replace(config, min_size=None, num_steps=8)
settings = {"params": params, "weights": weights, "config": short}
one = jaxnst.style_transfer(content, style, **settings)
four = jaxnst.style_transfer(content, style, **settings, devices=jax.devices())
print(four.image.shape, four.image.sharding.spec)
jax.debug.visualize_array_sharding(four.image[:, :, 0])

# %% [markdown]
# The picture is one array, of which each device has a *shard*:

# %%
figure, axes = canvas(1, 5, (12, 2.4))
axes[0].imshow(one.image, interpolation="bicubic")
axes[0].set_title("on one device")
for axis, shard in zip(axes[1:], four.image.addressable_shards, strict=True):
    rows = np.full(four.image.shape, 0.92)
    rows[shard.index] = shard.data
    axis.imshow(rows)
    axis.set_title(f"{shard.device.platform} {shard.device.id}: {shard.data.shape}", fontsize=10)
for axis in axes:
    axis.axis("off")
as_jpeg(figure)

# %% [markdown]
# Is it the same picture as that of one device? The loss of the same picture is equal to about seven
# digits, since sums are rounded in another order. Each evaluation starts from what the last one has
# found, so the difference grows from step to step. In the pictures it cannot be seen.

# %%
for step in (0, 1, 2, 4, 7):
    alone, spread = one.history["loss"][step], four.history["loss"][step]
    print(f"evaluation {step + 1}: {alone:.7f} and {spread:.7f}, {abs(spread / alone - 1):.1e}")
print(f"mean difference of the pictures: {np.abs(four.image - one.image).mean():.1e}")

# %% [markdown]
# ## What the devices say to each other
#
# Nobody wrote these exchanges. jaxnst's functions are pure and know nothing of devices. We say
# where the arguments are, and the compiler splits the program (GSPMD, Xu et al. 2021). Your own
# functions can be spread in the same way. Operations by which devices exchange data are called
# *collectives*, and the compiled program lists them. A `collective-permute` passes rows to a
# neighbour: a 3×3 convolution needs one row beyond its own. An `all-reduce` sums over all devices:
# Gram matrices and losses.
#
# Let us count them for 1024×1024 pixels, with two kinds of padding. VGG19 was trained with zeros
# around the features of each layer. The recipe `default` repeats their border pixels in that place,
# because zeros give the picture a frame. The compiler has to make that border on the devices that
# hold it, and needs more exchanges, each of a few rows.

# %%
KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
mesh = Mesh(np.array(jax.devices()), ("rows",))
by_rows = NamedSharding(mesh, PartitionSpec("rows"))
everywhere = NamedSharding(mesh, PartitionSpec())


def collectives(program):
    return dict(Counter(re.findall(rf" ({KINDS})(?:-start)?\(", program.as_text())))


picture = jax.ShapeDtypeStruct((1024, 1024, 3), np.float32, sharding=by_rows)
for padding in ("zero", "replicate"):
    padded = dataclasses.replace(objective, padding=padding)
    program = lower(picture, padded, everywhere=everywhere).compile(**fast)
    print(f"{padding:>9}: {collectives(program)}, {gigabytes(program):.2f} GB on each device")
print(f"one device alone: {needs[1024, None]:.2f} GB")

# %% [markdown]
# Activations are never gathered in one place: that would be an `all-gather`. Each device needs a
# fraction of the memory, so several devices can make a larger picture. (The fraction is a little
# too good: one CPU device alone uses a faster convolution that takes more room.)
#
# ## Lanes over devices
#
# A sweep has it easier. Its lanes are transfers of their own (see `03_style_weight_sweep`), so each
# device computes some of them, whole. What is divided is the first axis, that of the lanes.
# `jaxnst.sweep` takes all devices of the process; `devices=` selects some. The callback below looks
# at the state of the run: the array of the pictures has four shards, one lane on each device.

# %%
lanes = weights.replace(style=[0.25, 4.0, 16.0, 64.0])
seen = []


def look_at_state(record):
    pictures = next(x for x in record.progress.state.leaves if x.ndim == 4)
    seen.append((pictures.sharding.spec, [x.data.shape for x in pictures.addressable_shards]))


results = jaxnst.sweep(content, style, **settings | {"weights": lanes}, callback=look_at_state)
print(seen[0])

# %%
figure, axes = canvas(1, 4, (12, 2.4))
for axis, picture, weight in zip(axes, results.image, lanes.scales["style"], strict=True):
    axis.imshow(picture, interpolation="bicubic")
    axis.set_title(f"style weight {weight:g}", fontsize=10)
    axis.axis("off")
as_jpeg(figure)

# %% [markdown]
# The second lane has the weight of the single run above, and its losses are the same to rounding.
# (Its program is that of lanes side by side, not that of `style_transfer`.) Lanes have nothing to
# say to each other: the loss and gradient of four pictures under `vmap`, one on each device, have
# no collectives at all.

# %%
relative = np.abs(results[1].history["loss"] / one.history["loss"] - 1)
print("differences of the loss:", *(f"{number:.0e}" for number in relative))
pictures = jax.ShapeDtypeStruct((4, *content.shape), np.float32, sharding=by_rows)
of_many = jax.vmap(
    partial(jaxnst.loss_and_grad, objective=objective), in_axes=(0, None, None, None)
)
sources = {"content": content, "style": style}
shared = described((params, jax.eval_shape(describe, sources, params), weights), everywhere)
print("collectives:", collectives(jax.jit(of_many).lower(pictures, *shared).compile(**fast)))

# %% [markdown]
# ## What a compiler for TPUs says
#
# JAX can compile for a TPU without having one. It takes the package `libtpu`
# (`pip install "jax[tpu]"`), which is large. A *topology* describes the chips, here four of
# generation v5e. The program cannot run, but its compiler reports memory, operations and bytes
# moved. A v5e makes at most 197 tera-operations per second (in bfloat16) and moves at most 819 GB
# per second, which bounds the time of an evaluation from below.
#
# The next cell asks the compiler only where `libtpu` is installed, which takes some minutes.
# Otherwise it shows figures that `benchmarks/accelerators.py` has printed and
# `benchmarks/README.md` keeps (jax 0.10.2, libtpu 0.0.42.1, the recipe `pastiche`). Nothing has run
# on a TPU.

# %%
# side, activations, chips, GB of temporaries on each, least milliseconds, collectives
COMMITTED = [
    (512, "float32", 1, 0.43, 14.3, {}),
    (512, "float32", 4, 0.08, 4.6, {"all-reduce": 1, "collective-permute": 54}),
    (512, "bfloat16", 1, 0.23, 9.1, {}),
    (512, "bfloat16", 4, 0.05, 3.1, {"all-reduce": 1, "collective-permute": 54}),
    (1024, "float32", 1, 1.80, 48.3, {}),
    (1024, "float32", 4, 0.63, 17.5, {"all-reduce": 1, "collective-permute": 54}),
    (1024, "bfloat16", 1, 1.06, 32.8, {}),
    (1024, "bfloat16", 4, 0.32, 11.8, {"all-reduce": 1, "collective-permute": 54}),
]


def ask(side, dtype, chips):
    """Compile for chips of a v5e, and return a row of the table."""
    from jax.experimental import topologies

    chosen = topologies.get_topology_desc("v5e:2x2", "tpu").devices[:chips]
    mesh = Mesh(np.array(chosen), ("rows",))
    by_rows, everywhere = (NamedSharding(mesh, PartitionSpec(*x)) for x in (["rows"], []))
    image = jax.ShapeDtypeStruct((side, side, 3), np.float32, sharding=by_rows)
    pastiche = dataclasses.replace(jaxnst.preset("pastiche").config.objective, dtype=dtype)
    program = lower(image, pastiche, everywhere=everywhere).compile()
    cost = program.cost_analysis()
    seconds = max(cost["flops"] / 197e12, cost["bytes accessed"] / 819e9)
    return side, dtype, chips, gigabytes(program), 1e3 * seconds, collectives(program)


# %%
if find_spec("libtpu"):
    print("The compiler of libtpu says:")
    table = [ask(512, "bfloat16", chips) for chips in (1, 4)]
else:
    print("libtpu is not installed; these are the figures of benchmarks/README.md:")
    table = COMMITTED
figure, axes = canvas(1, 2, (10, 3.2))
names = [f"{side} px, {dtype}, {chips} chip{'s' * (chips > 1)}" for side, dtype, chips, *_ in table]
colors = ["#4c72b0" if row[2] == 1 else "#dd8452" for row in table]
for axis, column, title in zip(axes, (3, 4), ("GB on each chip", "least ms"), strict=True):
    bars = axis.barh(names, [row[column] for row in table], color=colors)
    axis.bar_label(bars, fmt="%.3g", padding=3)
    axis.invert_yaxis()
    axis.set(title=title)
    axis.margins(x=0.12)
axes[1].set_yticks([])
plt.show()
print("collectives on four chips:", table[1][-1])

# %% [markdown]
# In the figures that are kept, four chips do an evaluation about three times as fast as one, and
# bfloat16 saves a third of the time. Memory traffic sets the bound in all these programs, and not
# arithmetic.
#
# **From here:** `docs/devices.md` has the commands for sweeps and batches on clusters.
# `docs/performance.md` has times. A large picture needs a good recipe as well: `docs/recipes.md`
# says how a run goes from coarse to fine, which is how its strokes become large.
