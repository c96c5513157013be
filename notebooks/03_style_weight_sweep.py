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
# # How much style? Many weights at once
#
# Style transfer minimises a sum: a distance to the photograph, plus a *weight* times a distance to
# the style of the painting. No theory gives the weight. You have to look at pictures, so this
# notebook makes many of them with one call. At the end you will know
#
# - what `jax.vmap` does to a loss, and why many weights cost hardly more than one,
# - what a *lane* of `jaxnst.sweep` is, and that it equals a run of its own,
# - how to read the trade-off between content and style, and what the weight means on that curve,
# - how to sweep over two weights at once, and how to choose.
#
# Everything runs on a CPU. To install: `pip install "jaxnst[notebooks]"`.

# %%
import dataclasses
import io
from importlib.resources import files

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import jaxnst


def show(images, titles, columns, width=11):
    """Return pictures side by side as a JPEG."""
    rows, (h, w, _) = -(-len(images) // columns), images[0].shape
    size = (width, rows * (width / columns * h / w + 0.3))
    fig, axes = plt.subplots(rows, columns, figsize=size, dpi=80, layout="constrained")
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, image, title in zip(np.ravel(axes), images, titles, strict=False):
        axis.imshow(image, interpolation="bicubic")
        axis.set_title(title, fontsize=10)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="jpeg", pil_kwargs={"quality": 88})
    plt.close(fig)
    return Image(buffer.getvalue())


# %% [markdown]
# ## The pictures and the recipe
#
# A sweep is a search, and a search should be cheap: we use small pictures. In the recipe `default`
# both losses are relative, so that a weight means the same for dim and vivid pictures, and for
# small and large ones. With $F$ and $G$ the features and Gram matrices of the picture, and $C$ and
# $A$ those of the photograph and of the painting, they are
#
# $$L_c = \frac{\sum (F - C)^2}{\sum C^2} \qquad \text{and} \qquad
# L_s = \sum_l \omega_l \, \frac{\sum (G^l - A^l)^2}{\sum (A^l)^2}$$
#
# A content loss of 0 means: the photograph itself. A content loss of 1 is as far from the
# photograph as features that are zero everywhere (`docs/method.md` has all formulas).
#
# Our recipe is a cheaper form of `default`: one scale and 40 evaluations, where the original works
# from coarse to fine.

# %%
demo = files("jaxnst") / "demo"
params = jaxnst.load_params()
content = jaxnst.load_image(demo / "content.jpg", size=128)
style = jaxnst.load_image(demo / "style.jpg", size=128)
config, weights = jaxnst.preset("default")
config = dataclasses.replace(config, min_size=None, num_steps=40)
objective = config.objective
show([content, style[: len(content)]], ["content", "style"], columns=2, width=6)

# %% [markdown]
# ## Numbers with a leading axis
#
# `weights` is a `LossWeights`: a number for each term of the loss (its *scale*), and one for each
# layer of each term. JAX sees a tree whose leaves are these numbers. `replace` changes some of
# them. A list becomes an array, so that the leaf `style` gets a *leading axis*. Here it has seven
# values, each four times the one before. All other leaves stay single numbers.

# %%
style_weights = 2 * 4.0 ** np.arange(-3, 4)
several = weights.replace(style=style_weights)
print(style_weights)
{name: np.shape(scale) for name, scale in several.scales.items()}

# %% [markdown]
# ## `vmap` of the loss alone
#
# `jaxnst.perceptual_loss` is a pure function. `jax.vmap` turns a function of one weight into a
# function of many. Its `in_axes` says which leaves have a leading axis: 0 for those that do, None
# for those that all lanes share. It is a tree like the argument itself, and a None may stand for a
# whole branch.
#
# The loss below is that of one fixed picture, half photograph and half painting, for all seven
# weights: first in one call, then one by one. For a fixed picture the loss is a straight line in
# the style weight $w$: $L = L_c + w L_s + \dots$ So its slope is the same between any two weights.

# %%
sources = {"content": content, "style": style}
targets = jax.jit(
    lambda sources, params: jaxnst.compute_targets(sources, params, objective=objective)
)(sources, params)
mixture = (content + style[: len(content)]) / 2


def loss_of(image, weights, params, targets):
    return jaxnst.perceptual_loss(image, params, targets, weights, objective=objective)


style_has_lanes = jaxnst.LossWeights(
    scales=dict.fromkeys(weights.scales) | {"style": 0}, layers=None
)
losses_of = jax.vmap(loss_of, in_axes=(None, style_has_lanes, None, None))
losses, _ = jax.jit(losses_of)(mixture, several, params, targets)
one_loss = jax.jit(loss_of)
one_by_one = [
    one_loss(mixture, weights.replace(style=w), params, targets)[0] for w in style_weights
]
print("together:  ", *(f"{loss:9.4f}" for loss in losses))
print("one by one:", *(f"{loss:9.4f}" for loss in one_by_one))
print("slopes:", np.diff(losses) / np.diff(style_weights))

# %% [markdown]
# ## What a lane costs
#
# The network does not depend on the weights, and `vmap` knows that: it gives an axis only to what
# depends on an argument with an axis. JAX can count the arithmetic of a function before it is
# compiled. Seven weights for one picture cost as much as one weight. Seven pictures cost seven
# times as much. The pictures of a sweep differ after the first step, so a sweep of seven lanes
# costs seven runs. What it saves is all the rest: there is one program to compile, one call, and
# one result. On an accelerator that one small picture leaves idle, lanes also fill it.


# %%
def operations(function, *args):
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


pictures = np.stack([mixture] * len(style_weights))
one = operations(loss_of, mixture, weights, params, targets)
of_weights = operations(losses_of, mixture, several, params, targets)
losses_of_pictures = jax.vmap(loss_of, in_axes=(0, None, None, None))
of_pictures = operations(losses_of_pictures, pictures, weights, params, targets)
print(f"one loss: {one / 1e9:.1f} GFLOP")
print(f"seven weights: {of_weights / one:.2f} times as many")
print(f"seven pictures: {of_pictures / one:.2f} times as many")

# %% [markdown]
# ## A sweep
#
# `jaxnst.sweep` takes the arguments of `style_transfer`. Whatever has a leading axis differs from
# *lane* to lane, and a lane is one transfer. Here the style weight differs. It could also be the
# weight of a layer, the content, the style, the noise, or the learning rate of an optimiser: any
# leaf will do, as long as all leading axes have the same length.
#
# How many lanes run at the same time is a matter of the machine. On a GPU it is as many as fit in
# memory. On a CPU it is one for each device, because more gain little. With
# `callback=jaxnst.live_preview()` you can watch the lanes.

# %%
results = jaxnst.sweep(content, style, params=params, weights=several, config=config)
print(results.image.shape, {status.name for status in map(jaxnst.Status, results.status)})
show(
    [content, *results.image],
    ["the photograph", *(f"style weight {weight:g}" for weight in style_weights)],
    columns=4,
)

# %% [markdown]
# With a weight of 1/32 the photograph has hardly changed, and with 1/8 only its colours. From 0.5
# to 8 the colours and strokes of the painting take over. At 32 and 128 there is hardly anything but
# style. The face remains as a layout of strokes, since the run started from the photograph, but its
# surfaces are night sky, and stars have appeared in the corner.
#
# ## A lane is a run of its own
#
# Take the lane with weight 0.5 and make the same picture with `style_transfer`. All values are
# equal, to the last bit: the lane was alone on its device, so it ran the same program.

# %%
lane = 2
single = jaxnst.style_transfer(
    content,
    style,
    params=params,
    weights=weights.replace(style=style_weights[lane]),
    config=config,
)
print("same picture:", np.array_equal(single.image, results[lane].image))
print("same losses:", np.array_equal(single.history["loss"], results[lane].history["loss"]))

# %% [markdown]
# `lane_batch` sets how many lanes run together in one program under `vmap`. Their sums are then
# rounded in another order. At first that changes the seventh digit of a loss, or nothing. Each
# evaluation starts from the picture of the last one, so the differences grow, as rounding
# differences do in any long run. Lanes never exchange anything, and none waits for another. (Points
# at the lower end of the plot are equal.)

# %%
some = weights.replace(style=style_weights[2:5])
short = dataclasses.replace(config, num_steps=10)
together = jaxnst.sweep(content, style, params=params, weights=some, config=short, lane_batch=3)
alone = results.history["loss"][2:5, :10]
difference = np.abs(together.history["loss"] / alone - 1)
fig, axis = plt.subplots(figsize=(6, 3), dpi=80, layout="constrained")
for row, weight in zip(difference, style_weights[2:5], strict=True):
    axis.semilogy(np.arange(1, 11), np.maximum(row, 1e-8), "o-", label=f"weight {weight:g}")
axis.set(xlabel="evaluation", ylabel="relative difference", title="lanes together and alone")
axis.legend()
plt.show()

# %% [markdown]
# ## The trade-off
#
# `results.history` has the loss and each term at every evaluation, as arrays `(lanes,
# evaluations)`. Terms are weighted. To compare lanes, divide the style's by the weight.

# %%
history = results.history
content_loss = history["content"]  # its weight is 1
style_loss = history["style"] / style_weights[:, None]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), dpi=80, layout="constrained")
colors = plt.cm.viridis(np.linspace(0, 0.93, len(style_weights)))
for axis, values, name in zip(axes, (content_loss, style_loss), ("content", "style"), strict=True):
    for row, weight, color in zip(values, style_weights, colors, strict=True):
        axis.plot(np.arange(1, row.size + 1), row, color=color, label=f"{weight:g}")
    axis.set(xlabel="evaluation", title=f"{name} loss, unweighted")
axes[1].set_yscale("log")
axes[1].legend(title="style weight", bbox_to_anchor=(1.02, 1), loc="upper left")
plt.show()

# %% [markdown]
# All runs start from the photograph, where the content loss is 0. The more the style weighs, the
# further the content loss climbs, and the lower the style loss falls.
#
# Now draw one against the other. Each thin line is a run, from the start at the left to its last
# evaluation, a dot with its weight. The dots form a *Pareto curve*: none of them is better than
# another in both losses. A picture to the upper right of the curve is worse than some picture on
# it. A picture to its lower left would be better, but these runs have found none.

# %%
end_content, end_style = content_loss[:, -1], style_loss[:, -1]
fig, axis = plt.subplots(figsize=(7, 4.2), dpi=80, layout="constrained")
for x, y, color in zip(content_loss, style_loss, colors, strict=True):
    axis.plot(x, y, color=color, linewidth=1, alpha=0.8)
axis.plot(end_content, end_style, "k--", linewidth=1)
axis.scatter(end_content, end_style, color=colors, edgecolor="black", zorder=3, s=50)
for x, y, weight in zip(end_content, end_style, style_weights, strict=True):
    axis.annotate(f"{weight:g}", (x, y), (-6, -6), textcoords="offset points", ha="right", va="top")
axis.set(yscale="log", xlabel="content loss", ylabel="style loss, unweighted", xlim=(-0.4, None))
plt.show()

# %% [markdown]
# ## What the weight means
#
# The weight is a price: how much content loss you are ready to pay for one unit of style loss.
# Let $K_w$ be all of the loss but the style's, and $S_w$ the unweighted style loss, of the best
# picture at weight $w$. The best picture at $v < w$ must not be beaten by that of $w$ at its own
# price, and the other way round:
#
# $$K_v + v S_v \le K_w + v S_w, \quad K_w + w S_w \le K_v + w S_v
# \quad \Rightarrow \quad v \le \frac{K_w - K_v}{S_v - S_w} \le w$$
#
# So the slope of the curve between two neighbours lies between their weights. Forty evaluations do
# not find the best pictures, so there is no guarantee here. Check it:

# %%
rest = history["loss"][:, -1] - history["style"][:, -1]
slopes = np.diff(rest) / -np.diff(end_style)
for low, high, slope in zip(style_weights[:-1], style_weights[1:], slopes, strict=True):
    print(f"{low:8.3g} ≤ {slope:8.3f} ≤ {high:<5.3g} {bool(low <= slope <= high)}")

# %% [markdown]
# All six slopes lie between their weights. So you can read the curve backwards: where it is steep,
# much content buys little style, and the weight is high.

# %% [markdown]
# ## Which layers are still unlike the painting?
#
# The weights of layers are leaves as well. Give each of the five style layers a weight of 1 in one
# lane and of 0 in the others, by the rows of the unit matrix. One `vmap` inside another combines
# that with an axis of pictures: the result has shape `(7, 5)`. The curves show how much of each
# layer's style is missing in each picture, where 1 is what a picture without any features misses.

# %%
layers = objective.terms["style"].layers
one_layer = weights.replace(style=1.0).replace_layers(
    style=dict(zip(layers, np.eye(len(layers)), strict=True))
)
layers_have_lanes = jaxnst.LossWeights(
    scales=None, layers=dict.fromkeys(weights.layers) | {"style": 0}
)
by_layer = jax.vmap(loss_of, in_axes=(None, layers_have_lanes, None, None))
by_picture = jax.vmap(by_layer, in_axes=(0, None, None, None))
_, terms = jax.jit(by_picture)(results.image, one_layer, params, targets)
print(terms["style"].shape)

# %%
fig, axis = plt.subplots(figsize=(7, 3.6), dpi=80, layout="constrained")
for row, name in zip(np.transpose(terms["style"]), layers, strict=True):
    axis.loglog(style_weights, row, "o-", label=name)
axis.set(xlabel="style weight", ylabel="style loss of the layer", xticks=style_weights)
axis.set_xticks(style_weights, [f"{weight:g}" for weight in style_weights])
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# ## Two weights at once
#
# `jaxnst.weight_grid` makes a lane for each point of a grid. Its names are those of the terms, and
# the last one varies fastest. The second weight here is that of the total variation, `tv`, a
# penalty of differences between neighbouring pixels. The program is that of the sweep above, since
# only numbers have changed: nothing is compiled. The same variation smooths less where the style
# weighs more: what counts is how weights compare with each other.

# %%
styles, variations = [2.0, 32.0], [0.0, 200.0]
grid = jaxnst.weight_grid(weights, style=styles, tv=variations)
print({name: grid.scales[name].tolist() for name in ("style", "tv")})
cells = jaxnst.sweep(
    content, style, params=params, weights=grid, config=dataclasses.replace(config, num_steps=25)
)
labels = [f"style {s:g}, tv {t:g}" for s in styles for t in variations]
show(cells.image, labels, columns=len(variations), width=7)

# %% [markdown]
# ## How to choose
#
# 1. Sweep at a small size, in factors of 2 or 4: what you see depends on the ratio of weights, so
#    steps should be ratios. Look at the sheet first. The losses know nothing of your taste.
# 2. On the curve, stay off both ends. At the left, the style weight buys much style for little
#    content. At the right, the last bit of style costs whatever was left of the photograph.
# 3. If you want the same degree of style for another pair of pictures, ask for a content loss
#    rather than for a weight. Between the lanes, interpolate the logarithm of the weight:


# %%
def weight_for(wanted):
    return np.exp(np.interp(wanted, end_content, np.log(style_weights)))


for wanted in (0.2, 0.5, 1.0):
    print(f"a content loss of {wanted}: style weight {weight_for(wanted):.2f}")

# %% [markdown]
# 4. Then make the picture at its full size, with the recipe as it is: from coarse to fine, with all
#    its evaluations. On the command line the sweep and the last run are
#
#        jaxnst sweep photo.jpg painting.jpg --style-weights 0.5 2 8 32 -o sweep
#        jaxnst transfer photo.jpg painting.jpg --style-weight 2 -o picture.png
#
#    The first also writes a contact sheet and a page with sliders.
#
# **From here:** `05_large_images_and_devices` spreads lanes over several devices.
# `docs/devices.md` has the rest about sweeps, and `docs/howto/trouble.md` says what to do if a
# picture looks wrong at every weight.
