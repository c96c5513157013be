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
# # Your own loss
#
# In jaxnst a style is whatever you can measure with a function of arrays. At the end of this
# notebook you will be able to
#
# - write a statistic of your own in ten lines, check it, and use it beside those of jaxnst,
# - write a penalty, here one that prints a picture with four inks,
# - differentiate through a whole run, and so *learn* the settings that lead to a given picture.
#
# None of these functions is registered anywhere. Everything runs on a CPU, in about four minutes on
# two cores. To install: `pip install "jaxnst[notebooks]"`. If terms like "Gram matrix" are new to
# you, read `02_inside_the_method.ipynb` first.

# %%
import io
from importlib.resources import files

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import jaxnst


def show(images, titles, columns, width=11):
    """Return pictures side by side as a JPEG."""
    rows, (h, w) = -(-len(images) // columns), images[0].shape[:2]
    size = (width, rows * (width / columns * h / w + 0.3))
    fig, axes = plt.subplots(rows, columns, figsize=size, dpi=72, layout="constrained")
    for axis, image, title in zip(np.ravel(axes), images, titles, strict=True):
        axis.imshow(np.asarray(image).clip(0, 1))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="jpeg", pil_kwargs={"quality": 85})
    plt.close(fig)
    return Image(buffer.getvalue())


# %%
demo = files("jaxnst") / "demo"
params = jaxnst.load_params()
content = jaxnst.load_image(demo / "content.jpg", size=144)
painting = jaxnst.load_image(demo / "style.jpg", size=192)
show([content, painting], ["the content", "the style"], columns=2, width=8)

# %% [markdown]
# ## A statistic: how much detail there is at each size
#
# A statistic is a function of features `(h, w, c)` and of `where`, the weights `(h, w)` of their
# positions, or None. It returns a mean over positions. The picture itself is a layer too, called
# `"image"`.
#
# Ours measures how much detail a picture has at each size. We smooth the picture more and more:
# $x_{k+1}$ is $x_k$, smoothed over neighbours $2^k$ pixels apart. What a step removes is the detail
# of that size. Its mean square, for each colour, is
#
# $$E_k = \frac{\sum_p w_p \, (x_k - x_{k+1})_p^2}{\sum_p w_p}, \qquad k = 0, 1, 2, 3$$
#
# (This decomposition is an "à trous" wavelet transform. Heeger & Bergen 1995 synthesise textures
# from the histograms of similar bands.)


# %%
def smooth(x, gap):
    """Average each position with neighbours at a distance, down and across, by 1/4, 1/2, 1/4."""
    for axis in (0, 1):
        pad = [(gap, gap) if a == axis else (0, 0) for a in range(3)]
        before, here, after = (
            jax.lax.slice_in_dim(jnp.pad(x, pad, "edge"), start, start + x.shape[axis], axis=axis)
            for start in (0, gap, 2 * gap)
        )
        x = (before + 2 * here + after) / 4
    return x


# %%
def detail_energies(features, where=None, octaves=4):
    """Return (octaves, c): the mean square of the details of each size."""
    where = jnp.ones(features.shape[:2]) if where is None else where
    energies = []
    for octave in range(octaves):
        coarser = smooth(features, 2**octave)
        total = jnp.einsum("hwc,hw->c", (features - coarser) ** 2, where)
        energies.append(total / jnp.maximum(where.sum(), 1e-6))  # 0 for an empty region
        features = coarser
    return jnp.stack(energies)


levels = [painting]
for octave in range(4):
    levels.append(smooth(levels[-1], 2**octave))
details = [0.5 + 2 * (a - b) for a, b in zip(levels, levels[1:], strict=False)]
titles = [f"k = {k}: neighbours {2**k} apart" for k in range(4)]
show(details, titles, columns=4)

# %% [markdown]
# **Check it.** A loss with a mistake in it still gives a picture, so we check before we look at
# pictures. First, against a version in plain NumPy, which does not pad or slice, but looks up each
# neighbour.


# %%
def naive_energies(x, octaves=4):
    energies = []
    for octave in range(octaves):
        new, gap = x, 2**octave
        for axis in (0, 1):
            n = x.shape[axis]
            near = [np.clip(np.arange(n) + d, 0, n - 1) for d in (-gap, 0, gap)]
            a, b, c = (np.take(new, index, axis) for index in near)
            new = 0.25 * a + 0.5 * b + 0.25 * c
        energies.append(((x - new) ** 2).mean((0, 1)))
        x = new
    return np.stack(energies)


expected = naive_energies(np.asarray(painting, np.float64))
error = np.max(np.abs(detail_energies(painting) / expected - 1))
print(f"largest relative difference from NumPy: {error:.0e}")

# %% [markdown]
# Second, the contract: the mean over the whole is the mean of the means over its parts, weighted
# by their areas. Regions, masks and blends of styles follow from this property.

# %%
left = jnp.zeros(painting.shape[:2]).at[:, :50].set(1.0)
parts = [(detail_energies(painting, part), part.mean()) for part in (left, 1 - left)]
together = sum(energy * area for energy, area in parts)
error = jnp.max(jnp.abs(together / detail_energies(painting) - 1))
print(f"largest relative difference of the parts from the whole: {error:.0e}")

# %% [markdown]
# **The distance.** Fine details have far less energy than coarse ones. We compare logarithms, so
# that a factor of two counts the same at each size. The small number in front keeps the logarithm,
# and its derivative, finite in a flat picture.
#
# $$L_{\text{detail}} = \operatorname{mean}_{k,c} \,
# \bigl( \log (E_{kc} + \epsilon) - \log (A_{kc} + \epsilon) \bigr)^2$$
#
# The third check is for the derivative: along a random direction, `jax.grad` must agree with a
# finite difference.


# %%
def log_error(x, y):
    """Return the mean squared difference of logarithms."""
    return jnp.mean((jnp.log(x + 1e-6) - jnp.log(y + 1e-6)) ** 2)


wanted = detail_energies(painting)
loss = jax.jit(lambda image: log_error(detail_energies(image), wanted))
way = jax.random.normal(jax.random.key(1), content.shape)
step = 1e-3
slope = float(jnp.vdot(jax.grad(loss)(content), way))
measured = float(loss(content + step * way) - loss(content - step * way)) / (2 * step)
print(f"by jax.grad {slope:.4f}, by a finite difference {measured:.4f}")

# %% [markdown]
# ## A penalty: four inks
#
# A penalty scores an image by itself, without a target. Ours is the mean squared distance of each
# pixel from the nearest of four colours $c_k$:
#
# $$L_{\text{inks}} = \operatorname{mean}_p \, \min_k \lVert x_p - c_k \rVert^2$$

# %%
inks = jnp.array([[0.95, 0.92, 0.85], [0.10, 0.15, 0.40], [0.90, 0.65, 0.10], [0.20, 0.50, 0.65]])


def ink_distances(image):
    """Return the squared distance (h, w, 4) of each pixel from each ink."""
    return jnp.sum((image[:, :, None] - inks) ** 2, axis=-1)


def off_palette(image):
    """Return the mean squared distance of the pixels from their nearest inks."""
    return jnp.mean(jnp.min(ink_distances(image), axis=-1))


nearest = inks[jnp.argmin(ink_distances(content), axis=-1)]
swatches = jnp.broadcast_to(inks.repeat(36, axis=0), (*content.shape[:2], 3))
show([swatches, content, nearest], ["the inks", "a picture", "the nearest inks"], columns=3)

# %% [markdown]
# ## The objective
#
# An `Objective` has a dict of terms with names of your choice. `Style` takes any statistic and any
# distance, `Penalty` any function of the image. One line more is needed. jaxnst can compute the
# layers of a large picture in tiles, if statistics are means over *single* positions. Ours looks at
# neighbours, which may lie in another tile. `additive = False` says so. Then jaxnst refuses to
# compute it in tiles, unless its only layer is `"image"`, which is never divided.
#
# All terms are in one objective. A weight of 0 switches a term off. Weights are traced, so all
# runs below share one compiled program.

# %%
detail_energies.additive = False

gram_layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
relative = jaxnst.relative_squared_error
terms = {
    "content": jaxnst.RelativeContent(),
    "style": jaxnst.Style(gram_layers, distance=relative),
    "detail": jaxnst.Style(("image",), statistic=detail_energies, distance=log_error),
    "inks": jaxnst.Penalty(off_palette),
    "range": jaxnst.Penalty(jaxnst.out_of_range),  # the finished picture is clipped to [0, 1]
}
objective = jaxnst.Objective(terms, pooling="max")
usual = jaxnst.LossWeights.ones(objective).replace(style=4.0, range=1e3)
usual = usual.replace(detail=0.0, inks=0.0)
config = jaxnst.TransferConfig(objective, init="noise", num_steps=40)


def transfer(start=None, **scales):
    """Run a transfer from noise, or from an image, with some weights replaced."""
    settings = {"params": params, "config": config, "weights": usual.replace(**scales)}
    return jaxnst.style_transfer(content, painting, initial_image=start, **settings)


# %% [markdown]
# ## The statistic at work
#
# Gatys et al. start from noise. Max pooling passes on one value in four and ignores the others, so
# the usual terms may leave noise in the picture. From the photograph, on the other hand, the result
# may be too soft. We run both starts, without and with our term.

# %%
results = {
    "from noise": transfer(),
    "from noise, with our term": transfer(detail=1.0),
    "from the photograph": transfer(content),
    "from the photograph, with our term": transfer(content, detail=1.0),
}
show([result.image for result in results.values()], list(results), columns=2, width=9)

# %% [markdown]
# The next plot has the energies, divided by those of the painting. Without the term the finest
# detail is about ten times too strong in one picture, and a third too weak in the other. With it,
# all sizes are near 1. A total variation penalty could not do both, as it can only remove. The
# numbers after the plot are the other terms, times their weights: none rises by more than a few
# percent.

# %%
fig, axis = plt.subplots(figsize=(7, 3.2), dpi=72, layout="constrained")
for (name, result), style in zip(results.items(), ("C0:", "C0-", "C1:", "C1-"), strict=True):
    ratio = detail_energies(result.image).mean(1) / wanted.mean(1)
    axis.semilogy(range(4), ratio, style, marker="o", label=name)
axis.axhline(1, color="grey", lw=0.8)
axis.set_xticks(range(4), [f"k = {k}" for k in range(4)])
axis.set(ylabel="detail, relative to the painting")
axis.legend(fontsize=8)
plt.show()

# %%
for name, result in results.items():
    last = {term: float(result.history[term][-1]) for term in ("content", "style")}
    print(f"{name:35s} content {last['content']:.3f}, style {last['style']:.3f}")

# %% [markdown]
# ## The penalty at work
#
# We start from the last picture and add the penalty. For comparison, the picture in the middle has
# the nearest ink at each pixel, without any search.

# %%
painted = results["from the photograph, with our term"].image
nearest = inks[jnp.argmin(ink_distances(painted), axis=-1)]
printed = transfer(painted, inks=40.0)
images = [painted, nearest, printed.image]
distances = [float(off_palette(image)) ** 0.5 for image in images]
names = ["the picture", "the nearest inks", "with the penalty"]
titles = [f"{n}: {d:.3f} from the inks" for n, d in zip(names, distances, strict=True)]
show(images, titles, columns=3)

# %% [markdown]
# The picture in the middle has flat areas. With the penalty they keep the strokes of the painting,
# in shades close to the inks, since the style's terms are still part of the loss.
#
# ## Learn the settings from a picture
#
# A run is a function too: from its settings to a picture. JAX can differentiate it. So we can ask
# which settings lead to a given picture, and answer by gradient descent.
#
# Our settings are the share of the first of two styles, and the weight of the style. The styles
# are two parts of the painting: its sky and its field. Gram matrices blend linearly, so a blend of
# targets is the target of the blend: $A = s A_1 + (1 - s) A_2$. Pictures are small here and layers
# shallow, because a derivative through a run needs the work of several runs.

# %%
whole = jaxnst.load_image(demo / "style.jpg", size=256)
styles = whole[20:70, 70:150], whole[158:200, 70:150]
photo = jaxnst.load_image(demo / "content.jpg", size=96)
enlarged = [jaxnst.resize(style, *photo.shape[:2]) for style in styles]
show([photo, *enlarged], ["the photograph", "the sky", "the field"], columns=3, width=9)

# %%
shallow = jaxnst.Objective(
    {
        "content": jaxnst.RelativeContent(("relu3_1",)),
        "style": jaxnst.Style(("relu1_1", "relu2_1", "relu3_1"), distance=relative),
    },
    pooling="average",
)
describe = jax.jit(jaxnst.compute_targets)
sources = [{"content": photo, "style": style} for style in styles]
sky, field = (describe(source, params, objective=shallow) for source in sources)

# %% [markdown]
# `jaxnst.init` and `jaxnst.step` are the pure functions inside every run. `jax.lax.scan` repeats
# a step, and `jax.checkpoint` saves memory: it computes a step again where its derivative is
# needed.


# %%
adam = jaxnst.Adam(learning_rate=0.05)


def value_and_grad(image, params, targets, weights):
    return jaxnst.loss_and_grad(image, params, targets, weights, objective=shallow)


def paint(settings, num_steps=6):
    """Return the picture to which the settings lead."""
    share, weight = settings["share"], jnp.exp(settings["log_weight"])
    targets = jax.tree.map(lambda a, b: share * a + (1 - share) * b, sky, field)
    inputs = params, targets, jaxnst.LossWeights.ones(shallow).replace(style=weight)

    def body(state, _):
        return jaxnst.step(value_and_grad, state, *inputs, optimizer=adam)

    state = jaxnst.init(value_and_grad, photo, *inputs, optimizer=adam)
    return jax.lax.scan(jax.checkpoint(body), state, length=num_steps)[0].x


# %% [markdown]
# Somebody gives us a picture. (We made it with 70 % sky and a weight of 3, and forget these
# numbers.) A function says how far the picture of any settings is from it. Here is this function
# for several shares, and in orange its derivative by `jax.grad`, as short tangents.

# %%
secret = {"share": jnp.float32(0.7), "log_weight": jnp.log(3.0)}
given = jax.jit(paint)(secret)


@jax.jit
def miss(settings, given):
    """Return the mean squared difference of the pictures, and its derivative by the settings."""

    def difference(settings):
        return 1e3 * jaxnst.mean_squared_error(paint(settings), given)

    return jax.value_and_grad(difference)(settings)


def at(share, log_weight=0.0):
    return {"share": jnp.float32(share), "log_weight": jnp.float32(log_weight)}


shares = np.linspace(0.3, 1.0, 8)
curve = [miss(at(share, jnp.log(3.0)), given) for share in shares]
fig, axis = plt.subplots(figsize=(7, 3.2), dpi=72, layout="constrained")
axis.plot(shares, [value for value, _ in curve], "o-")
for share, (value, slope) in zip(shares, curve, strict=True):
    reach = np.array([-0.035, 0.035])
    axis.plot(share + reach, float(value) + float(slope["share"]) * reach, color="C1", lw=3)
axis.set(xlabel="share of the sky, at the right weight", ylabel="difference (times 1000)")
plt.show()
(before, _), (_, slope), (after, _) = curve[1:4]  # at 0.4, 0.5 and 0.6
print(
    f"at 0.5: by jax.grad {slope['share']:.0f}, by a finite difference {(after - before) / 0.2:.0f}"
)

# %% [markdown]
# The curve has its minimum at 0.7, and the tangents lead there. But at 0.5 they are flatter than
# the curve, as the numbers below the plot say. The reason is in the network. At each ReLU the
# gradient of the loss jumps. A run follows these jumps, but its derivative sees only the smooth
# pieces between them. We can see this in the second derivative of a loss along a random direction:
# it agrees with a finite difference before the first ReLU, and not after it.


# %%
def second_derivatives(layer, step=0.01):
    """Return the second derivative along a direction, by JAX and by a finite difference."""
    one = jaxnst.Objective({"style": jaxnst.Style((layer,), distance=relative)})
    targets = describe({"style": styles[0]}, params, objective=one)
    options = {"weights": jaxnst.LossWeights.ones(one), "objective": one}
    gradient = jax.jit(lambda x: jaxnst.loss_and_grad(x, params, targets, **options)[1])
    way = jax.random.normal(jax.random.key(2), photo.shape)
    exact = jax.jvp(gradient, (photo,), (way,))[1]
    measured = (gradient(photo + step * way) - gradient(photo - step * way)) / (2 * step)
    return [float(jnp.vdot(way, change)) for change in (exact, measured)]


for layer in ("conv1_1", "relu1_1"):
    print(layer, "by JAX {:.1f}, by a finite difference {:.1f}".format(*second_derivatives(layer)))

# %% [markdown]
# (Adam adds jumps of its own: its first step is the sign of the gradient.) So use the derivative of
# a run to search, and judge what you find by the loss.
#
# The search is `jaxnst.minimize` again, this time over two numbers and not over an image. It takes
# any function and any pytree. We start from half and half, and a weight of 1.

# %%
found = jaxnst.minimize(miss, at(0.5), given, optimizer=jaxnst.lbfgs(), num_steps=24)
share, weight = float(found.x["share"]), float(jnp.exp(found.x["log_weight"]))
print(f"share of the sky {share:.3f} (0.7 was used), weight {weight:.2f} (3 was used)")
fig, axis = plt.subplots(figsize=(7, 2.6), dpi=72, layout="constrained")
axis.semilogy(found.history["evaluation"], found.history["loss"], "o-")
axis.set(xlabel="evaluation", ylabel="difference (times 1000)")
plt.show()

# %%
pictures = [jax.jit(paint)(at(0.5)), jax.jit(paint)(found.x), given]
show(pictures, ["the first guess", "with the settings found", "the given picture"], columns=3)

# %% [markdown]
# ## Where to go from here
#
# - `docs/python.md`: a term with a target of its own is a small dataclass with three methods.
# - `jaxnst.Content(distance=…)` takes a distance of your own for the content.
# - The tests that jaxnst runs over its own terms are good checks for yours: `jit`, `grad` and
#   `vmap`, weights of 1 that change nothing, and blends that are linear.
