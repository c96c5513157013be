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
# # Control
#
# A picture in the style of a painting is a start. Then an artist asks for more: two styles, one
# style here and another there, the eyes as they are, the colours of the photograph, larger
# strokes. At the end of this notebook you know an argument of jaxnst for each of these wishes, and
# what it changes in the formula. Each picture stands beside the plain one.
#
# The notebook needs `pip install "jaxnst[plot]"`. It runs in some minutes on two cores, so its
# pictures are small: 144 pixels wide.

# %%
import dataclasses
import io
from importlib.resources import files

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import jaxnst


def show(columns=3, **pictures):
    """Show pictures with their names."""
    rows = -(-len(pictures) // columns)
    size = (8.4, 8.4 / columns * 0.75 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        cmap = "gray" if picture.ndim == 2 else None
        axis.imshow(picture, interpolation="lanczos", cmap=cmap, vmin=0, vmax=1)
        axis.set_title(name.replace("_", " "), fontsize=9)
    jpeg = io.BytesIO()
    figure.savefig(jpeg, format="jpeg", dpi=88, pil_kwargs={"quality": 88})
    plt.close(figure)
    return Image(jpeg.getvalue())


# %% [markdown]
# ## The formula, and where to reach into it
#
# Style transfer searches for the image $x$ that minimises (Gatys, Ecker & Bethge 2016)
#
# $$L(x) = \alpha \, d\bigl(F(x), F(c)\bigr)
# + \beta \sum_l \omega_l \, d\bigl(S_l(x), A_l\bigr), \qquad
# S_l(x) = \frac{\sum_p w_p F^l_p {F^l_p}^\top}{\sum_p w_p}.$$
#
# $F^l_p$ are the features of VGG19 at layer $l$ and position $p$, $c$ is the content, and $A_l$ is
# the Gram matrix of the style. Nearly every wish changes one symbol:
#
# | wish | symbol | argument |
# |---|---|---|
# | several styles | $A_l$ | `blend` |
# | a style for each region, a part left alone | $w_p$ | `regions`, `protect` |
# | other colours | $c$ and the style, before; $x$, after | functions of images |
# | larger or smaller strokes | $A_l$, of a larger or smaller style | `style_scale` |
# | another idea of style | $S_l$ and $d$ | `Style(statistic=…, distance=…)` |
# | another start | the first $x$ | `init`, `initial_image` |
# | no content at all | $\alpha = 0$ | `synthesize_texture` |

# %% [markdown]
# ## The plain picture
#
# The recipe is the preset `fast`, made cheaper: one size, 25 evaluations, style layers up to
# relu4_1, and zeros around the picture as in VGG19's training. `config` determines the compiled
# program. `weights` are numbers, which compile nothing.

# %%
params = jaxnst.load_params()
demo = files("jaxnst") / "demo"
content = jaxnst.load_image(demo / "content.jpg", size=144)
style = jaxnst.load_image(demo / "style.jpg", size=144)

config, weights = jaxnst.preset("fast")
layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
gram = dataclasses.replace(config.objective.terms["style"], layers=layers)
terms = {**config.objective.terms, "style": gram}
objective = dataclasses.replace(config.objective, terms=terms, padding="zero")
config = dataclasses.replace(config, objective=objective, min_size=None, num_steps=25)
weights = jaxnst.LossWeights.ones(objective).replace(style=8.0, tv=1.0, range=1e3)


# %%
def paint(content, style, config=config, weights=weights, **options):
    """Run a style transfer with the settings of this notebook."""
    return jaxnst.style_transfer(
        content, style, params=params, config=config, weights=weights, **options
    )


plain = paint(content, style).image
show(content=content, style=style, plain=plain)

# %% [markdown]
# ## Several styles
#
# A list of styles with shares $b_k$ has the target $A_l = \sum_k b_k A_{l,k} / \sum_k b_k$, the
# mean of their Gram matrices. The picture then gets strokes of both styles everywhere. Our two
# styles come from one painting: its sky and its field.

# %%
painting = jaxnst.load_image(demo / "style.jpg", size=320)
sky, field = painting[:120, 56:216], painting[200:, 64:224]
blends = {
    f"{first} sky + {second} field": paint(content, [sky, field], blend=[first, second]).image
    for first, second in ((1, 0), (1, 1), (0, 1))
}
show(plain=plain, sky=sky, field=field, **blends)

# %% [markdown]
# The shares are traced numbers: all three pictures came from one compiled program. They are
# normalised, so `[1, 1]` and `[0.5, 0.5]` are the same. That the target is the mean can be checked
# with `compute_targets`, which is where a blend happens.

# %%
of_style = dataclasses.replace(objective, terms={"style": gram})


def target(*styles):
    targets = jaxnst.compute_targets({"style": list(styles)}, params, objective=of_style)
    return targets["style"]["relu2_1"]


mean = (target(sky) + 2 * target(field)) / 3
blended = target(jaxnst.Picture(sky, share=1), jaxnst.Picture(field, share=2))
print(f"largest difference, relative: {jnp.abs(blended - mean).max() / mean.max():.0e}")

# %% [markdown]
# ## A style for each region
#
# A mask is an array $(H, W)$ in [0, 1]. Each region $r$ has its own weights $w_{r,p}$, and so its
# own Gram matrix, which is compared with that of its own style (Gatys et al. 2017). With as many
# `regions` as styles, the first style belongs to the first region, and so on. A soft edge is a mask
# with greys. `jaxnst.load_mask` reads masks from files; here we draw an oval around the face.

# %%
height, width = content.shape[:2]
rows, columns = np.mgrid[:height, :width]


def oval(row, column, tall, wide, soft):
    """Return a mask that falls from 1 to 0 across the edge of an oval; all in shares of a side."""
    away = np.hypot((rows / height - row) / tall, (columns / width - column) / wide)
    return np.clip((1 - away) / soft + 0.5, 0, 1)


pictures = {}
for name, soft, other in (("hard", 0.01, "plain"), ("soft", 0.4, "half and half")):
    face = oval(0.5, 0.44, 0.5, 0.4, soft)
    both = paint(content, [field, sky], regions=np.stack([face, 1 - face]))
    before = plain if other == "plain" else blends["1 sky + 1 field"]
    pictures |= {other: before, f"{name} mask": face, f"{name} edge": both.image}
show(**pictures)

# %% [markdown]
# The face is golden and the rest is blue, where the blend mixes both everywhere. The masks have the
# size of the content; jaxnst resizes them to each layer. Features of deep layers see far beyond
# their position, so the styles mix a little at the border, even with the hard edge, and the two
# pictures differ little. `Objective(guides="inside")` counts only positions that see nothing but
# their own region.

# %% [markdown]
# ## A part that stays as it is
#
# Sometimes a part must not be painted at all, for example the eyes. The content's features do not
# protect it: deep features say little about pixels. `jaxnst.protect` returns the arguments of a
# transfer that does. It takes the mask $m$ out of the style, whose weights become $w_p = 1 - m_p$,
# and adds a term `kept`, the squared difference of the pixels inside the mask.

# %%
eyes = np.maximum(oval(0.385, 0.375, 0.13, 0.09, 0.3), oval(0.43, 0.71, 0.12, 0.07, 0.3))
protected = jaxnst.protect(content, style, mask=eyes, params=params, config=config, weights=weights)
kept = jaxnst.style_transfer(**protected._asdict(), params=params).image
show(plain=plain, mask=eyes, protected=kept)

# %%
for name, picture in (("plain", plain), ("protected", kept)):
    change = jnp.abs(picture - content).mean(axis=-1)
    inside, outside = (jnp.average(change, weights=part) for part in (eyes, 1 - eyes))
    print(f"{name:>9}: mean change inside {inside:.3f}, outside {outside:.3f}")

# %% [markdown]
# ## Colours
#
# Strokes are one thing, colours another. There are three ways to take the colours from the
# photograph (Gatys et al. 2016, arXiv:1606.05897). All work on images, before or after the
# transfer, in the space YIQ: luminance Y, and chroma I and Q. The program is the same, so nothing
# is compiled again.
#
# **The content's luminance.** Transfer between grey pictures, then add the chroma of the content.
# The grey style is first given the mean and deviation of the content,
# $Y' = \frac{\sigma_c}{\sigma_s} (Y - \mu_s) + \mu_c$.

# %%
grey = jaxnst.luminance(content)
grey_style = jnp.clip(jaxnst.match_luminance(jaxnst.luminance(style), grey), 0, 1)
grey_result = paint(grey, grey_style).image
by_luminance = jaxnst.transfer_chroma(grey_result, content)
show(grey_style=grey_style, grey_result=grey_result, with_chroma=by_luminance)

# %% [markdown]
# **Matched first.** Give the style the mean and covariance of the content's colours,
# $s' = \Sigma_c^{1/2} \Sigma_s^{-1/2} (s - \mu_s) + \mu_c$, and transfer from $s'$. The strokes
# have colours of their own, out of the palette of the photograph.
#
# **The content's chroma after.** Keep the luminance of the plain picture, and replace its chroma.

# %%
matched_style = jaxnst.fit_gamut(jaxnst.match_colors_pca(style, content))
by_match = paint(content, matched_style).image
after = jaxnst.transfer_chroma(plain, content)
show(
    columns=4,
    **{"content": content, "style": style, "matched style": matched_style, "plain": plain},
    **{"luminance": by_luminance, "matched first": by_match, "chroma after": after},
)

# %% [markdown]
# In numbers: how far is the chroma from the content's, and how far is the luminance?

# %%
results = {"plain": plain, "luminance": by_luminance, "matched": by_match, "after": after}
for name, picture in results.items():
    off = jnp.abs(jaxnst.srgb_to_yiq(picture) - jaxnst.srgb_to_yiq(content)).mean(axis=(0, 1))
    print(f"{name:>9}: Y {off[0]:.3f}   I {off[1]:.3f}   Q {off[2]:.3f}")

# %% [markdown]
# The first and the last have the chroma of the content exactly. The first changes the luminance
# least, because the contrast of the style was matched; the last has the contrast of the painting.

# %% [markdown]
# ## The size of strokes
#
# A Gram matrix has no scale of its own: it knows how features go together within the view of a
# layer. So strokes in the result are as large, in pixels, as those in the style picture.
# `style_scale` is the long side of the style as a multiple of the result's. Styles are never
# enlarged, since that would only add blur: for large strokes give a large file.

# %%
file = jaxnst.load_image(demo / "style.jpg")  # 512 pixels wide
scaled = {
    f"style_scale {scale}": paint(
        content, file, dataclasses.replace(config, style_scale=scale)
    ).image
    for scale in (0.5, 2.0)
}
scaled = {"plain, style scale 1": plain} | scaled
cheek = {f"{name}, cheek": picture[44:88, :66] for name, picture in scaled.items()}
show(**scaled, **cheek)

# %% [markdown]
# The lower row shows the cheek alone. At 0.5 the patches of colour are small, and whole suns fit on
# the forehead. At 2 the strokes are long, and their colours cover larger areas.

# %% [markdown]
# ## Another idea of style
#
# A Gram matrix is one choice of $S_l$. Others describe each layer by the means and deviations of
# its channels (Huang & Belongie 2017), or by their means $\mu$ and covariances $\Sigma$. These can
# be compared as two Gaussians, by optimal transport. With $\nu$ and $T$ those of the style, the
# squared Wasserstein distance is
#
# $$\lVert \mu - \nu \rVert^2
# + \operatorname{tr} \bigl( \Sigma + T - 2 (T^{1/2} \Sigma \, T^{1/2})^{1/2} \bigr).$$
#
# A distance is a function of two statistics. Ours divide those of jaxnst by the size of the style's
# second moments, so that deep layers, whose features are larger, do not outweigh the others.


# %%
def relative_moments(x, y):
    return jaxnst.moments_error(x, y) / jnp.mean(y["square"])


def relative_transport(x, y):
    return jaxnst.wasserstein_gaussian(x, y) / jnp.mean(jnp.diagonal(y["product"]))


statistics = {
    "mean and deviation": (jaxnst.mean_and_deviation, relative_moments),
    "mean and covariance": (jaxnst.mean_and_covariance, relative_transport),
}

# %% [markdown]
# To be fair, the style's term should begin at the same value with each statistic. A run of one
# evaluation says what it is, and a weight is a number: the longer run reuses the program.


# %%
def first_loss(config):
    once = dataclasses.replace(config, num_steps=1)
    return paint(content, style, once).history["style"][0]


by_statistic = {}
for name, (statistic, distance) in statistics.items():
    term = dataclasses.replace(gram, statistic=statistic, distance=distance)
    other = dataclasses.replace(objective, terms={**terms, "style": term})
    chosen = dataclasses.replace(config, objective=other)
    scale = 8.0 * first_loss(config) / first_loss(chosen)
    by_statistic[name] = paint(content, style, chosen, weights.replace(style=scale)).image
show(**{"plain, Gram matrix": plain}, **by_statistic)

# %% [markdown]
# Means and deviations ignore how channels go together, yet the picture is close to the plain one.
# Optimal transport paints flatter areas and clearer swirls, and moves further from the photograph
# in as many evaluations. K. Crowson's style-transfer-pytorch is built on this distance; the preset
# `crowsonkb` follows it. jaxnst has more statistics, among them histograms and whole distributions.

# %% [markdown]
# ## The first image
#
# The loss has many minima, so the result depends on where the search begins. By default that is the
# content. `init` chooses the style, its mean colour, or noise, whose spectrum `noise_exponent`
# sets: 0 is white, 1 falls as in photographs. None of this is part of the program. We make 40
# evaluations here, since the other starts have further to go.

# %%
starts = {
    "content": {"init": "content"},
    "style": {"init": "style"},
    "mean colour": {"init": "mean"},
    "noise": {"init": "noise", "noise_exponent": 1.0},
}
runs = {
    f"from {name}": paint(content, style, dataclasses.replace(config, num_steps=40, **start))
    for name, start in starts.items()
}
show(columns=2, **{name: run.image for name, run in runs.items()})

# %%
plt.figure(figsize=(6, 3), dpi=80)
for name, run in runs.items():
    plt.semilogy(run.history["evaluation"], run.history["loss"], label=name)
plt.xlabel("evaluation")
plt.ylabel("loss")
plt.legend()
plt.show()

# %% [markdown]
# The losses come close, yet the pictures differ. From the content, the lines of the photograph
# stay. From the style, its suns and its field stay. From the mean colour, the picture is blurred so
# far, and from noise it has grains: both need more evaluations than 40. `initial_image=` starts
# from a picture of yours, for example an earlier result.

# %% [markdown]
# ## Textures
#
# Without the content term, the style term alone makes a texture (Gatys, Ecker & Bethge 2015). It
# may have any size. With `tileable=True` all convolutions wrap around, so the picture has no border
# at all, and copies fit together.

# %%
recipe = jaxnst.texture_recipe()
short = dataclasses.replace(recipe.config, num_steps=60, min_size=None)
tiles = {}
for name, tileable in (("plain", False), ("tileable", True)):
    tiles[name] = jaxnst.synthesize_texture(
        sky, shape=(80, 112), params=params, config=short, tileable=tileable
    ).image
two_by_two = {f"{name}, 2×2": np.tile(tile, (2, 2, 1)) for name, tile in tiles.items()}
show(sky=sky, **two_by_two)

# %% [markdown]
# A seam is where neighbours differ more across the border than inside. So we divide the mean
# difference between the first and the last row, which meet there, by the mean difference of
# neighbouring rows, and do the same with columns. A value near 1 means no seam.


# %%
def seam(tile, axis):
    across = jnp.abs(tile - jnp.roll(tile, 1, axis)).mean(axis=(1 - axis, 2))
    return across[0] / across[1:].mean()


for name, tile in tiles.items():
    print(f"{name:>9}: rows {seam(tile, 0):.2f}, columns {seam(tile, 1):.2f}")

# %% [markdown]
# ## Everything together
#
# Each control is an argument, so they combine. Here the face has the strokes of the field and the
# rest those of the sky, the eyes stay, and the picture keeps the colours of the photograph.

# %%
both = jaxnst.protect(
    grey,
    [jaxnst.match_luminance(jaxnst.luminance(crop), grey) for crop in (field, sky)],
    regions=np.stack([face, 1 - face]),
    mask=eyes,
    params=params,
    config=config,
    weights=weights,
)
painted = jaxnst.style_transfer(**both._asdict(), params=params).image
show(content=content, in_grey=painted, with_its_colours=jaxnst.transfer_chroma(painted, content))

# %% [markdown]
# ## What compiles, and what does not
#
# | change | compiles again |
# |---|---|
# | weights, shares, masks, colours, first image, number of evaluations | no |
# | number of styles or regions, a protected part, size of a picture, `style_scale` | yes |
# | layers, statistic, distance, padding, tileable | yes |
#
# So try weights and masks freely, and settle the rest first. For better pictures than these, go
# back to the whole recipe: `jaxnst.preset("default")` at 512 pixels or more, with an accelerator if
# you have one.
