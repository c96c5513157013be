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
# # Training a network with perceptual losses
#
# In the other notebooks we optimise the pixels of one picture. Here we train a network that paints
# any picture in one pass. The loss is the same function of an image, and JAX carries its gradient
# on into the network. At the end you will know
#
# - how to use a loss of jaxnst in the training loop of another network,
# - how `vmap` makes a batch when some targets are shared and others are not,
# - how this looks in `flax.linen` and in `flax.nnx`,
# - how far the network is from an optimised picture, by the same loss,
# - how `vmap` trains three networks with three weights of the style.
#
# The method is by Johnson, Alahi & Fei-Fei 2016
# ([arXiv:1603.08155](https://arxiv.org/abs/1603.08155)). They train on 80 000 photographs. We train
# for a minute or two on crops of a single one, on a CPU, so the result is a sketch of the method.
# To install: `pip install "jaxnst[notebooks]"`.

# %%
import io
import time
from functools import partial
from importlib.resources import files

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from flax.traverse_util import flatten_dict
from IPython.display import Image
from matplotlib.cbook import get_sample_data

import jaxnst


def as_jpeg(figure):
    """Return a figure as a JPEG, which suits photographs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 88})
    plt.close(figure)
    return Image(buffer.getvalue())


def canvas(rows, columns, size):
    return plt.subplots(rows, columns, figsize=size, dpi=80, layout="constrained")


def show(images, titles, size, rows=1):
    """Return pictures side by side as a JPEG."""
    figure, axes = canvas(rows, len(images) // rows, size)
    for axis, image, title in zip(np.ravel(axes), images, titles, strict=True):
        axis.imshow(np.asarray(image).clip(0, 1))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    return as_jpeg(figure)


# %% [markdown]
# ## The pictures
#
# The style is the painting that comes with jaxnst. The training pictures are crops of the cat that
# comes with it too, from three sizes of the photograph. Half of them are mirrored. We also exchange
# the three colour channels at random, so that the network sees more colours than those of a cat.
#
# Matplotlib carries a portrait of Grace Hopper, the computer scientist. The network never sees it
# in training. We use it for tests.

# %%
demo = files("jaxnst") / "demo"
params = jax.device_put(jaxnst.load_params())
style = jaxnst.load_image(demo / "style.jpg", size=192)
cats = [
    np.asarray(jaxnst.load_image(demo / "content.jpg", size=size, fit="short"))
    for size in (72, 120, 200)
]
path = get_sample_data("grace_hopper.jpg", asfileobj=False)
portrait = jaxnst.load_image(path, size=128, fit="short")[:128]
show([style, cats[2], portrait], ["the style", "for training", "for tests"], size=(9, 2.6))

# %%
rng = np.random.default_rng(0)


def random_crop(side=64):
    """Return a part of the cat, perhaps mirrored, with its colour channels in a random order."""
    cat = cats[rng.integers(len(cats))]
    top, left = (rng.integers(n - side + 1) for n in cat.shape[:2])
    crop = cat[top : top + side, left : left + side]
    return crop[:, :: rng.choice([-1, 1]), rng.permutation(3)]


photos = np.stack([random_crop() for _ in range(256)])
show(photos[:16], [""] * 16, size=(9, 2.4), rows=2)

# %% [markdown]
# ## The network
#
# The network follows Johnson et al., but is much smaller. Three convolutions reduce the picture to
# a quarter of its size. Three residual blocks, of two convolutions each, work there. Two steps of
# enlarging and convolving lead back, and a sigmoid keeps the colours in [0, 1]. We enlarge by
# interpolation, because transposed convolutions tend to leave a checkerboard.
#
# After each convolution comes *instance normalisation* (Ulyanov, Vedaldi & Lempitsky 2016,
# [arXiv:1607.08022](https://arxiv.org/abs/1607.08022)). Each channel $c$ of each picture gets a
# mean and a deviation that are learned:
#
# $$y_{pc} = \gamma_c \, \frac{x_{pc} - \mu_c}{\sigma_c} + \beta_c, \qquad
# \mu_c, \sigma_c \text{ over the positions } p \text{ of this one picture}$$
#
# So the contrast of the photograph is removed, and the network need not learn to remove it.
#
# The way through the network is a function of its own, `forward`. The version in `nnx` below will
# use it again.


# %%
def enlarge(x):
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, 2 * h, 2 * w, c), "bilinear")


def forward(net, x):
    """Paint photographs (n, h, w, 3), whose sides are multiples of 4."""
    x = 2 * x - 1
    for layer in net.down:
        x = nn.relu(layer(x))
    for first, second in zip(net.blocks[::2], net.blocks[1::2], strict=True):
        x = x + second(nn.relu(first(x)))
    for layer in net.up:
        x = nn.relu(layer(enlarge(x)))
    return nn.sigmoid(net.last(x))


# %%
class Layer(nn.Module):
    width: int
    size: int = 3
    strides: int = 1

    def setup(self):
        size = (self.size, self.size)
        self.conv = nn.Conv(self.width, size, self.strides, padding="REFLECT")
        self.norm = nn.InstanceNorm()

    def __call__(self, x):
        return self.norm(self.conv(x))


# %%
class Painter(nn.Module):
    width: int = 16

    def setup(self):
        w = self.width
        self.down = [Layer(w, size=7), Layer(2 * w, strides=2), Layer(4 * w, strides=2)]
        self.blocks = [Layer(4 * w) for _ in range(6)]
        self.up = [Layer(2 * w), Layer(w)]
        self.last = nn.Conv(3, (5, 5), padding="REFLECT")

    def __call__(self, x):
        return forward(self, x)


painter = Painter()
variables = painter.init(jax.random.key(0), photos[:1])
print(f"{sum(x.size for x in jax.tree.leaves(variables)):,} numbers to learn")
print(f"VGG19 has {sum(x.size for x in jax.tree.leaves(params)):,}, which stay as they are")

# %% [markdown]
# ## The loss of one picture
#
# With $f_\theta(x)$ for the painted version of a photograph $x$, training minimises the mean of
#
# $$L_x(\theta) = L_{\text{content}}\bigl(f_\theta(x), x\bigr)
# + \alpha \, L_{\text{style}}\bigl(f_\theta(x), a\bigr) + \beta \, L_{\text{tv}}(f_\theta(x))$$
#
# over photographs. The style $a$ is the same for all, and the content is each photograph itself.
# So we divide the objective. What its terms describe of the style is computed once. What the
# content's term describes is computed for each photograph, inside the training step. A dict of
# targets by name is all that the loss needs, so `|` joins the two.
#
# jaxnst has no batch axis: all its functions take one picture.

# %%
relative = jaxnst.relative_squared_error
terms = {
    "content": jaxnst.RelativeContent(("relu3_1",)),
    "style": jaxnst.Style(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), distance=relative),
    "tv": jaxnst.Penalty(),
}
objective = jaxnst.Objective(terms)
of_photo = jaxnst.Objective({"content": terms["content"]})
shared = jaxnst.Objective({name: terms[name] for name in ("style", "tv")})
weights = jaxnst.LossWeights.ones(objective).replace(style=1.5, tv=0.5)
describe = jax.jit(jaxnst.compute_targets)
style_targets = describe({"style": style}, params, objective=shared)


def picture_loss(painted, photo, params, weights):
    """Return the loss of a painted photograph (h, w, 3), and its terms."""
    targets = jaxnst.compute_targets({"content": photo}, params, objective=of_photo)
    targets = targets | style_targets
    return jaxnst.perceptual_loss(painted, params, targets, weights, objective=objective)


# %% [markdown]
# ## The loss of a batch
#
# `jax.vmap` makes a function of batches from a function of one picture. `in_axes` says which
# arguments have an axis of pictures: the first two. The params of VGG19 and the weights are shared.
# `style_targets` is shared too: it is not an argument of `picture_loss` at all.


# %%
def batch_loss(painted, photos, params, weights):
    """Return the mean loss of a batch (n, h, w, 3), and the mean of each term."""
    each = jax.vmap(picture_loss, in_axes=(0, 0, None, None))
    return jax.tree.map(jnp.mean, each(painted, photos, params, weights))


some = photos[:2], photos[2:4]  # we can compare any pictures, also two crops
together, _ = jax.jit(batch_loss)(*some, params, weights)
one = jax.jit(picture_loss)
singly = [float(one(*pair, params, weights)[0]) for pair in zip(*some, strict=True)]
print(f"by vmap {together:.5f}, by a loop {np.mean(singly):.5f}")

# %% [markdown]
# ## A step of training
#
# The gradient is by the variables of the painter, the first argument of `loss`. VGG19 is only a
# part of the loss. Its params are an argument of the compiled function, so that they are not copied
# into the program as constants. The optimiser is optax's Adam. Its rate falls to zero along half a
# cosine.


# %%
def update(optimizer, variables, opt_state, photos, params, weights):
    """Return the variables and the optimiser's state after a step, and the loss before it."""

    def loss(variables):
        return batch_loss(painter.apply(variables, photos), photos, params, weights)

    (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(variables)
    updates, opt_state = optimizer.update(grads, opt_state, variables)
    return optax.apply_updates(variables, updates), opt_state, {"loss": value} | terms


num_steps, batch_size = 300, 2
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
train = jax.jit(partial(update, optimizer))

# %%
paint = jax.jit(painter.apply)
opt_state = optimizer.init(variables)
batches = rng.integers(len(photos), size=(num_steps, batch_size))
snapshots, curve = {}, []
start = time.perf_counter()
for i, batch in enumerate(batches):
    if i % 50 == 0:
        snapshots[i] = variables
    variables, opt_state, info = train(variables, opt_state, photos[batch], params, weights)
    curve.append(info)
snapshots[num_steps] = jax.block_until_ready(variables)
training_seconds = time.perf_counter() - start
print(f"{num_steps} steps in {training_seconds:.0f} s, compilation included")

# %% [markdown]
# The loss varies from batch to batch, since batches are small and some crops are harder than
# others. Lines are means over 20 steps. Dots are the loss of the portrait, which is not in the
# training set.

# %%
tests = {}
for i, values in snapshots.items():
    painted = paint(values, portrait[None])[0]
    tests[i] = float(one(painted, portrait, params, weights)[0])
figure, axis = canvas(1, 1, (8, 3.2))
for name in ("loss", "content", "style"):
    values = np.array([info[name] for info in curve])
    (line,) = axis.plot(values, lw=0.5, alpha=0.4)
    mean = np.convolve(values, np.ones(20) / 20, "valid")
    axis.plot(np.arange(len(mean)) + 10, mean, color=line.get_color(), label=name)
axis.plot(tests.keys(), tests.values(), "ko", ms=4, label="loss of the portrait")
axis.set(xlabel="step", ylabel="times its weight", ylim=(0, 6))
axis.legend(fontsize=8)
plt.show()

# %%
views = [portrait] + [paint(snapshots[i], portrait[None])[0] for i in (0, 150, 300)]
names = ["the portrait"] + [f"after {i} steps: loss {tests[i]:.2f}" for i in (0, 150, 300)]
show(views, names, size=(11, 3))

# %% [markdown]
# ## Another size
#
# The network consists of convolutions, so it takes pictures of any size, here four times the area
# of the picture above and 16 times that of the training pictures. Its strokes keep their size in
# pixels. In a larger picture they are smaller beside the face.

# %%
larger = jaxnst.load_image(path, size=256, fit="short")[:256]
show([larger, paint(variables, larger[None])[0]], ["256×256", "painted"], size=(9, 4.6))

# %% [markdown]
# ## How good is it?
#
# The loss can say. We minimise the same loss of the same portrait over its pixels, by L-BFGS from
# the photograph. The second run starts from what the network has painted.

# %%
config = jaxnst.TransferConfig(objective, init="content", num_steps=100)
transfer = partial(jaxnst.style_transfer, portrait, style, params=params, weights=weights)
painted = paint(variables, portrait[None])[0]
run = transfer(config=config)
from_painted = transfer(config=config, initial_image=painted)

# %%
network_loss = tests[num_steps]
figure, axis = canvas(1, 1, (8, 3.2))
for result, label in ((run, "from the photograph"), (from_painted, "from the network's picture")):
    axis.semilogy(result.history["evaluation"], result.history["loss"], label=label)
axis.axhline(network_loss, color="k", lw=0.8, ls="--", label="the network, one pass")
axis.set(xlabel="evaluations of the loss and its gradient", ylabel="loss of the portrait")
axis.legend(fontsize=8)
plt.show()
losses = [float(one(x, portrait, params, weights)[0]) for x in (run.image, from_painted.image)]
names = [
    f"the network: {network_loss:.2f}",
    f"optimised: {losses[0]:.2f}",
    f"optimised from the network's: {losses[1]:.2f}",
]
show([painted, run.image, from_painted.image], names, size=(10, 3.6))

# %% [markdown]
# The losses above the pictures are a little higher than the ends of the curves, because a run clips
# its picture to [0, 1] at the end. The network is far from the best picture: it has lost the eyes,
# which the optimised pictures keep. Here is one pass against a run, in numbers:

# %%
history = run.history
needed = int(np.argmax(np.asarray(history["loss"]) <= network_loss))
times = []
for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(paint(variables, portrait[None]))
    times.append(time.perf_counter() - start)
print(f"one pass of the network takes {1e3 * np.median(times):.0f} ms")
print(f"L-BFGS has reached its loss at evaluation {history['evaluation'][needed]}")
print(f"100 evaluations take {history['seconds'][-1]:.0f} s, compilation included")
print(f"and end at {losses[0] / network_loss:.2f} times the loss of the network")

# %% [markdown]
# ## The same in nnx
#
# In `flax.linen` a module is a recipe, and its variables are a separate pytree, which you pass
# around. In `flax.nnx` a module holds its variables itself. Three things differ here:
#
# - layers are made in `__init__`, which has to know the number of input channels,
# - `nnx.value_and_grad` and `nnx.jit` take the module itself as an argument,
# - `nnx.Optimizer.update` changes the module in place, so nothing is returned but the loss.
#
# The way through the network, `forward`, and the loss, `batch_loss`, are as before.


# %%
class LayerNnx(nnx.Module):
    def __init__(self, inputs, width, *, size=3, strides=1, rngs):
        size = (size, size)
        self.conv = nnx.Conv(inputs, width, size, strides, padding="REFLECT", rngs=rngs)
        self.norm = nnx.InstanceNorm(width, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x))


class PainterNnx(nnx.Module):
    def __init__(self, w=16, *, rngs):
        new = partial(LayerNnx, rngs=rngs)
        down = [new(3, w, size=7), new(w, 2 * w, strides=2), new(2 * w, 4 * w, strides=2)]
        self.down = nnx.List(down)
        self.blocks = nnx.List([new(4 * w, 4 * w) for _ in range(6)])
        self.up = nnx.List([new(4 * w, 2 * w), new(2 * w, w)])
        self.last = nnx.Conv(w, 3, (5, 5), padding="REFLECT", rngs=rngs)

    def __call__(self, x):
        return forward(self, x)


# %%
@nnx.jit
def train_nnx(model, optimizer, photos, params, weights):
    """Change the model by a step, and return the loss before it."""

    def loss(model):
        return batch_loss(model(photos), photos, params, weights)

    (value, _), grads = nnx.value_and_grad(loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return value


# %% [markdown]
# To compare the two, we give the new network the first variables of the old one. In linen the
# first layer is called `down_0`, in nnx it is item 0 of `down`. Otherwise names are the same. The
# losses of the first steps agree.

# %%
model = PainterNnx(rngs=nnx.Rngs(0))
flat = flatten_dict(snapshots[0]["params"])
for path_in_model, variable in nnx.to_flat_state(nnx.state(model)):
    *layer, kind, name = path_in_model
    where = ("_".join(map(str, layer)), kind, name) if layer else (kind, name)
    variable[...] = flat[where]

adam = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
optimizer_nnx = nnx.Optimizer(model, adam, wrt=nnx.Param)
for i, batch in enumerate(batches[:4]):
    loss = train_nnx(model, optimizer_nnx, photos[batch], params, weights)
    print(f"step {i}: linen {curve[i]['loss']:.5f}, nnx {loss:.5f}")

# %% [markdown]
# ## Three networks at once
#
# `update` is a pure function, and weights are numbers that it takes. So `vmap` trains several
# networks at once, each with its own weight of the style. Here `in_axes` says that variables, the
# optimiser's states and one of the weights have an axis of networks. Photographs are the same for
# all. We start from three copies of the trained network.

# %%
style_weights = jnp.array([0.3, 1.5, 7.5])
several = weights.replace(style=style_weights)
axes = jaxnst.LossWeights(scales={"content": None, "style": 0, "tv": None}, layers=None)
adam = optax.adam(1e-3)
train_all = jax.jit(jax.vmap(partial(update, adam), in_axes=(0, 0, None, None, axes)))

networks = jax.tree.map(lambda x: jnp.stack([x] * 3), variables)
states = jax.vmap(adam.init)(networks)
start = time.perf_counter()
for batch in batches[:40]:
    networks, states, infos = train_all(networks, states, photos[batch], params, several)
    jax.block_until_ready(infos)
print(f"{time.perf_counter() - start:.0f} s")

# %%
views = jax.jit(jax.vmap(painter.apply, in_axes=(0, None)))(networks, portrait[None])[:, 0]
names = [f"weight of the style {weight:.1f}" for weight in style_weights]
show(views, names, size=(10, 3.6))

# %% [markdown]
# The weight acts as expected: the higher it is, the more strokes and the less of the face.
#
# What is missing for a good network is known. Johnson et al. train with 40 000 batches of 256×256
# pixels, from many photographs. All of that is a matter of time: the training step stays as it is,
# and `jit` runs it on a GPU or TPU.
#
# **From here:** `06_your_own_loss` makes a term of your own, which you can train with as well.
# `docs/python.md` has the functions of this notebook in short.
