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
# # Inside the method
#
# Style transfer (Gatys, Ecker & Bethge 2016) is a search for a picture. A loss says how good each
# picture is, and the loss is computed from VGG19, a network that was trained to name the things in
# photographs. This notebook makes each part of the method visible. At the end you will know
#
# - what the layers of VGG19 respond to, and how much of the picture one response depends on,
# - what each layer keeps of a photograph, and what it loses,
# - what a Gram matrix is, and why it describes a style,
# - what a gradient of the loss looks like, and how a picture changes when it follows it.
#
# Formulas stand beside the functions that compute them. Everything runs on a CPU, in a few minutes
# on two cores. To install: `pip install "jaxnst[notebooks]"`.

# %%
import io
from functools import partial
from importlib.resources import files

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import jaxnst


def as_jpeg(figure):
    """Return a figure as a JPEG, which takes less space than a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 82})
    plt.close(figure)
    return Image(buffer.getvalue())


def show(images, titles, columns, width=11):
    """Return pictures side by side; (h, w) arrays are shown as heat maps."""
    rows, (h, w) = -(-len(images) // columns), images[0].shape[:2]
    size = (width, rows * (width / columns * h / w + 0.3))
    fig, axes = plt.subplots(rows, columns, figsize=size, dpi=72, layout="constrained")
    for axis, image, title in zip(np.ravel(axes), images, titles, strict=True):
        image = np.asarray(image)
        axis.imshow(image if image.ndim == 2 else image.clip(0, 1), cmap="magma")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    return as_jpeg(fig)


# %% [markdown]
# ## The pictures and the network
#
# An image is an array of shape `(height, width, 3)` with values in [0, 1]. Both pictures come with
# jaxnst: a photograph of a cat, and a painted night sky. In this part they have the same shape, so
# that each function is compiled once for both.

# %%
demo = files("jaxnst") / "demo"
params = jaxnst.load_params()  # the bundled VGG19: a dict of arrays
cat = jaxnst.load_image(demo / "content.jpg", size=288)
painting = jaxnst.load_image(demo / "style.jpg", size=288)[: cat.shape[0]]
show([cat, painting], [f"cat {cat.shape}", f"painting {painting.shape}"], columns=2)

# %% [markdown]
# ## What VGG19 sees
#
# VGG19 is a chain of small convolutions. Each is followed by a ReLU, which sets negative values to
# zero. After some of them, pooling halves height and width. The output of a layer $l$ is an array
# $F^l_{pi}$: a number for each position $p$ and each channel $i$. `jaxnst.extract_features`
# returns these arrays. Deeper layers have fewer positions and more channels.

# %%
layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
look = jax.jit(partial(jaxnst.extract_features, layers=layers, pooling="average"))
features = {"cat": look(cat, params), "painting": look(painting, params)}
{layer: array.shape for layer, array in features["cat"].items()}

# %% [markdown]
# One channel is a grey picture. Here it is shown as a heat map: bright where the channel responds.
# We picked four channels of each layer by hand. Near the input they respond to colours and to edges
# of one direction. Deeper channels respond to stripes, then to parts of the face.

# %%
picked = {
    "relu1_1": (59, 31, 51, 10),
    "relu2_1": (39, 24, 48, 42),
    "relu3_1": (137, 163, 7, 98),
    "relu4_1": (170, 473, 371, 149),
    "relu5_1": (129, 420, 352, 251),
}
pairs = [(layer, channel) for layer, channels in picked.items() for channel in channels]
maps = [features["cat"][layer][:, :, channel] for layer, channel in pairs]
show(maps, [f"{layer}, channel {channel}" for layer, channel in pairs], columns=4, width=10)

# %% [markdown]
# Channel 371 of relu4_1 responds to the eyes of the cat. In the painting, the same channel responds
# to the round lights. Below, each picture is bright where the channel responds. To the network an
# eye and a light are partly the same thing, and a transfer can exchange what is the same to it.

# %%
names = ("cat", "painting")
lit = []
for name, picture in zip(names, (cat, painting), strict=True):
    response = features[name]["relu4_1"][:, :, 371]
    response = jnp.dstack([response / response.max()] * 3)  # grey, in [0, 1]
    lit.append(picture * (0.3 + 0.7 * jaxnst.resize(response, *picture.shape[:2])))
show(lit, ["where channel 371 of relu4_1 responds", "the same channel"], columns=2)

# %% [markdown]
# **How much does a position see?** JAX differentiates any function of arrays. So we can ask which
# pixels a feature depends on: those where its derivative is not zero. The function below sums all
# channels at the middle position of a layer. `jax.grad` gives the derivative with respect to the
# image. The layer is chosen by numbers, so one compiled program serves all five layers.


# %%
def middle(image, params, chosen):
    """Return the sum of the channels in the middle of a layer; `chosen` is 1 there, else 0."""
    found = jaxnst.extract_features(image, params, layers=layers, pooling="average")
    return sum(chosen[k] * x[x.shape[0] // 2, x.shape[1] // 2].sum() for k, x in found.items())


derivative = jax.jit(jax.grad(middle))
boxes = {}
for layer in layers:
    chosen = {k: float(k == layer) for k in layers}
    change = np.abs(derivative(cat, params, chosen)).sum(axis=2)
    rows, columns = np.nonzero(change > 1e-5 * change.max())  # less is rounding
    boxes[layer] = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
{layer: f"{width} x {height} pixels" for layer, (_, _, width, height) in boxes.items()}

# %%
fig, axis = plt.subplots(figsize=(6, 4.1), dpi=72, layout="constrained")
axis.imshow(cat)
axis.axis("off")
colors = ("white", "cyan", "yellow", "violet", "red")
for (layer, (left, top, width, height)), color in zip(boxes.items(), colors, strict=True):
    axis.add_patch(plt.Rectangle((left, top), width, height, fill=False, color=color, lw=2))
    if height > 20:  # else there is no room for a name
        back = {"facecolor": color, "edgecolor": color, "pad": 1}
        axis.text(left + width + 1, top + 1, layer, va="top", fontsize=8, bbox=back)
as_jpeg(fig)

# %% [markdown]
# A position of relu1_1 sees 3×3 pixels (white), one of relu5_1 up to 156×156. This decides what a
# layer can know: relu1_1 knows colours and edges, relu5_1 knows an eye with what is around it.
#
# ## Style is what remains when places are forgotten
#
# A Gram matrix is the mean over all positions of the product of two channels:
#
# $$G^l_{ij} = \frac{1}{P} \sum_p F^l_{pi} F^l_{pj}$$
#
# (Gatys et al. 2016, equation 3, divided by the number $P$ of positions.) It says which channels
# respond *together*, and how strongly. `jaxnst.gram_matrix` computes it. It is a picture, too:
# each row and each column is a channel. We order the channels of relu1_1 by strength, and show the
# logarithm.

# %%
gram = {name: jaxnst.gram_matrix(features[name]["relu1_1"]) for name in names}
order = jnp.argsort(-jnp.diag(gram["cat"]))
grams = [jnp.log10(gram[name][order][:, order] + 1) for name in names]
titles = [f"Gram matrix of the {name}, {gram[name].shape}" for name in names]
show(grams, titles, columns=2, width=7)

# %% [markdown]
# A mean does not depend on the order of what it averages. So we may shuffle the positions of the
# features, and the Gram matrix stays the same. The next cell does so: the map of a channel is
# noise after that, and the Gram matrix differs by rounding only.

# %%
here = features["cat"]["relu1_1"]
flat = here.reshape(-1, here.shape[2])
shuffled = jax.random.permutation(jax.random.key(0), flat).reshape(here.shape)
again = jaxnst.gram_matrix(shuffled)
difference = float(jnp.max(jnp.abs(again - gram["cat"])) / jnp.max(gram["cat"]))
print(f"largest difference: {difference:.0e} of the largest entry")
maps = [here[:, :, 59], shuffled[:, :, 59], grams[0], jnp.log10(again[order][:, order] + 1)]
show(maps[:2], ["channel 59 of relu1_1", "its positions shuffled"], columns=2, width=8)

# %%
show(maps[2:], ["Gram matrix before", "after"], columns=2, width=7)

# %% [markdown]
# Shuffling the *picture* is another thing. A feature sees a neighbourhood, and a shuffled picture
# has other neighbourhoods. Below, blocks of the photograph change places. We compare the Gram
# matrices $G$ of the result with those of the photograph, $A$, by the relative error
#
# $$\frac{\sum_{ij} (G_{ij} - A_{ij})^2}{\sum_{ij} A_{ij}^2}$$
#
# This is `jaxnst.relative_squared_error`.


# %%
def shuffle_blocks(image, side):
    """Exchange the square blocks of an image at random."""
    h, w = image.shape[0] // side, image.shape[1] // side
    blocks = image.reshape(h, side, w, side, 3).swapaxes(1, 2).reshape(h * w, side, side, 3)
    blocks = jax.random.permutation(jax.random.key(1), blocks)
    return blocks.reshape(h, w, side, side, 3).swapaxes(1, 2).reshape(image.shape)


sides = (96, 48, 12, 3)
mixed = [shuffle_blocks(cat, side) for side in sides]
show(mixed, [f"blocks of {side} pixels" for side in sides], columns=4)


# %%
def gram_error(image, reference):
    """Return the relative error of the Gram matrix of each layer."""
    pairs = [(look(image, params)[k], reference[k]) for k in layers]
    grams = [[jaxnst.gram_matrix(f) for f in pair] for pair in pairs]
    return [float(jaxnst.relative_squared_error(*pair)) for pair in grams]


others = {f"blocks of {n} pixels": x for n, x in zip(sides, mixed, strict=True)}
others["the painting"] = painting
fig, axis = plt.subplots(figsize=(8, 3.2), dpi=72, layout="constrained")
for name, image in others.items():
    axis.semilogy(layers, gram_error(image, features["cat"]), "o-", label=name)
axis.axhline(1, color="grey", ls=":", label="a matrix of zeros")
axis.set_ylabel("relative error")
axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# With large blocks the order of the parts is wrong, but the shallow layers hardly notice it. A
# position of a deeper layer sees more, so more positions see an edge between two blocks, and the
# error grows with depth. Blocks that are smaller than what a position sees destroy what it
# measures. So a Gram matrix forgets where things are, but not what is beside what, within the size
# that a position of its layer sees. (The error of the painting is above that of a matrix of zeros,
# because the painting excites the channels more strongly.)
#
# ## One objective for all that follows
#
# A loss compares the image $x$ with *targets*. `Content` compares the features $F$ with those of
# the photograph, $C$, position by position. `Style` compares Gram matrices. We divide both by the
# size of their targets, so that the numbers of all layers compare:
#
# $$L^l_{\text{content}} = \frac{\sum_{pi} (F^l_{pi} - C^l_{pi})^2}{\sum_{pi} (C^l_{pi})^2}
# \qquad\qquad
# L^l_{\text{style}} = \frac{\sum_{ij} (G^l_{ij} - A^l_{ij})^2}{\sum_{ij} (A^l_{ij})^2}$$
#
# (Gatys et al., equations 1 and 4, apart from the constants in front.) They are `RelativeContent`,
# and `Style` with `relative_squared_error`. The objective below has a term of its own for each
# layer. The loss is their sum, each times a weight $w_t$:
#
# $$L(x) = \sum_t w_t \, L_t(x)$$
#
# Weights are traced: a weight of 0 switches a term off, and nothing is compiled again. So one
# compiled program makes all of the pictures below. They are smaller, since we now make many.

# %%
relative = jaxnst.relative_squared_error
content_layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_2", "relu5_1")
terms = {f"content_{k}": jaxnst.RelativeContent((k,)) for k in content_layers}
terms |= {f"style_{k}": jaxnst.Style((k,), distance=relative) for k in layers}
objective = jaxnst.Objective(terms, pooling="average")
off = jaxnst.LossWeights.ones(objective).replace(**dict.fromkeys(terms, 0.0))

content = jaxnst.load_image(demo / "content.jpg", size=144)
style = jaxnst.load_image(demo / "style.jpg", size=192)
sources = {"content": content, "style": style}
targets = jax.jit(jaxnst.compute_targets)(sources, params, objective=objective)
for name in ("content_relu4_2", "style_relu4_1"):
    print(name, [array.shape for array in jax.tree.leaves(targets[name])])

# %% [markdown]
# The target of a content term is an array of features, that of a style term a Gram matrix. Their
# first axis is for regions of the picture. Here there is one region, the whole.
#
# `jaxnst.loss_and_grad` returns the loss, its terms, and the gradient with respect to the image.
# `jaxnst.minimize` follows the gradient by L-BFGS, as Gatys et al. do. One step is one evaluation.


# %%
def value_and_grad(image, params, targets, weights):
    return jaxnst.loss_and_grad(image, params, targets, weights, objective=objective)


def search(start, num_steps, callback=None, every=None, **scales):
    """Minimise the loss with these weights; all other terms are switched off."""
    options = {"optimizer": jaxnst.Lbfgs(), "num_steps": num_steps}
    inputs = start, params, targets, off.replace(**scales)
    return jaxnst.minimize(value_and_grad, *inputs, callback=callback, every=every, **options)


# %% [markdown]
# ## What each layer keeps
#
# We forget the photograph and keep only its features at one layer. Then we search for a picture
# with the same features, from grey with a little noise. What comes back is what the layer has kept.
# (Mahendran & Vedaldi 2015; the content reconstructions in figure 1 of Gatys et al.)

# %%
shape = content.shape[:2]
grey = 0.5 + 0.1 * (jaxnst.noise_image(jax.random.key(0), shape) - 0.5)
num_steps = dict(zip(content_layers, (20, 20, 25, 45, 55), strict=True))
rebuilt = {k: search(grey, num_steps[k], **{f"content_{k}": 1.0}) for k in content_layers}
titles = [f"{k}, loss {r.history['loss'].min():.4f}" for k, r in rebuilt.items()]
show([content, *(r.x for r in rebuilt.values())], ["the photograph", *titles], columns=3)

# %% [markdown]
# The titles say how near the features came: the relative error is a few percent at most. But the
# pictures differ more and more. The shallow layers keep nearly every pixel. At relu4_2 all parts of
# the face are in their places, but edges and hairs are no longer exact. At relu5_1 it is still this
# cat, but the eyes are spirals, and there are lines where the photograph has none. What a layer
# does not keep, a style can use. This is why the content is compared at relu4_2. The next plot has
# the difference of the pixels, which no term compares.

# %%
errors = [float(jaxnst.mean_squared_error(r.x, content)) ** 0.5 for r in rebuilt.values()]
fig, axis = plt.subplots(figsize=(6, 2.6), dpi=72, layout="constrained")
axis.bar(content_layers, errors, color="tab:blue")
axis.set_ylabel("difference of pixels\n(root mean square)")
plt.show()

# %% [markdown]
# ## The texture of each depth
#
# Now we forget the painting and keep only its Gram matrices: first of relu1_1 alone, then of
# relu1_1 and relu2_1, and so on. The search starts from clouds: noise in which large shapes are
# strong and fine grain is weak. (Gatys, Ecker & Bethge 2015; the style reconstructions in figure 1
# of Gatys et al. 2016.)

# %%
noise = 0.25 + 0.5 * jaxnst.noise_image(jax.random.key(0), shape, exponent=1.5)
depths = [layers[: n + 1] for n in range(len(layers))]
textures = [search(noise, 36, **{f"style_{k}": 1.0 for k in depth}).x for depth in depths]
titles = ["the start", "relu1_1", *(f"… and {depth[-1]}" for depth in depths[1:])]
show([noise, *textures], titles, columns=3)

# %% [markdown]
# relu1_1 gives the palette, but no strokes. With relu2_1 there are dabs of paint. With relu3_1 they
# become long strokes. With relu4_1 and relu5_1 strokes close to rings, like the lights and the
# spirals of the painting, but not where they were. The search has seen nothing but the Gram
# matrices of these layers.
#
# ## One step
#
# Content and style together are the transfer. Its weights are 1 for the content at relu4_2, 4 for
# the style at each layer, but 0.1 at relu5_1, so that no lights are painted into the face. We
# start from the photograph. The gradient $\partial L / \partial x$ has the shape of the picture: it
# says for each pixel and colour how the loss changes. Here it is, with its sign turned, since we
# go down, and amplified. Grey is zero.

# %%
transfer = {"content_relu4_2": 1.0} | {f"style_{k}": 4.0 for k in layers} | {"style_relu5_1": 0.1}
evaluate = jax.jit(value_and_grad)
inputs = params, targets, off.replace(**transfer)
(loss, _), gradient = evaluate(content, *inputs)
down = -gradient / jnp.sqrt(jnp.mean(gradient**2))  # its root mean square is 1
titles = ["the image", "minus its gradient, amplified", "the image after a step of 0.06"]
show([content, 0.5 + 0.15 * down, content + 0.06 * down], titles, columns=3)

# %% [markdown]
# The step raises the contrast: eyes, nose and all edges become more vivid, since the painting has
# stronger contrasts than the photograph. It paints no strokes yet.
#
# How far should one go? We walk along this direction $d$ and look at the loss. The dashed line is
# what the gradient promises: near the start, $L(x + t d) \approx L(x) + t \, d \cdot
# \partial L / \partial x$. For small steps the curve follows the line, as it should if the gradient
# is right. Then the curve turns away from it, and rises.

# %%
lengths = np.array([0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12])
losses = [float(evaluate(content + t * down, *inputs)[0][0]) for t in lengths]
slope = float(jnp.vdot(down, gradient))
fig, axis = plt.subplots(figsize=(6.5, 3.2), dpi=72, layout="constrained")
axis.plot(lengths, losses, "o-", label="loss")
axis.plot(lengths, losses[0] + slope * lengths, "--", label="what the gradient promises")
axis.set(xlabel="t, the root mean square of the step", ylabel="loss", ylim=(0, 1.5 * losses[0]))
axis.legend()
plt.show()

# %% [markdown]
# L-BFGS compares the gradients of its last steps, and learns from them how the loss curves. So its
# later steps have better directions and lengths than the gradient alone. `docs/method.md` has its
# formulas.
#
# ## The transfer
#
# Fifty steps of L-BFGS make a style transfer. A callback keeps the pictures on the way.

# %%
kept = {0: content}
result = search(content, 50, lambda p: kept.update({p.evaluation: p.x}), every=5, **transfer)
moments = [step for step in (0, 5, 15, 50) if step in kept]
show([kept[step] for step in moments], [f"after {step} evaluations" for step in moments], columns=4)

# %% [markdown]
# The history has every term at every evaluation, times its weight. The style's terms fall, those of
# the shallow layers furthest. The content's term begins at 0, since the photograph was the start,
# and rises within a few evaluations: a style costs content. From then on it is the largest part.

# %%
history = result.history
fig, axis = plt.subplots(figsize=(8.5, 3.6), dpi=72, layout="constrained")
axis.semilogy(history["evaluation"], history["loss"], color="black", lw=2, label="loss")
for name in transfer:
    values = np.where(history[name] > 0, history[name], np.nan)  # a logarithm has no 0
    axis.semilogy(history["evaluation"], values, "--" if "content" in name else "-", label=name)
axis.set(xlabel="evaluation", ylabel="weighted term")
axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - `jaxnst.preset("default")` has these terms and two penalties, and goes from coarse to fine.
# - Other statistics in place of the Gram matrix are in a table of `docs/python.md`.
# - The mathematics of this page, with the names of all functions, is in `docs/method.md`.
