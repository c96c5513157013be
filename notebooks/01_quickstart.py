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
# # A picture in a few lines
#
# At the end of this notebook you have a photograph in the strokes of a painting. You know what each
# line of the program does, and which numbers to change.
#
# Neural style transfer searches for an image $x$ with the *content* of one picture and the *style*
# of another, as VGG19 sees them (Gatys, Ecker & Bethge 2016). VGG19 is a network that was trained
# to recognise objects. The image is the argument of a function, the loss $L(x)$, and the transfer
# minimises that function.
#
# `pip install 'jaxnst[notebooks]'` installs what this notebook needs. Nothing else is downloaded:
# the network and the two pictures are part of the package.

# %%
import dataclasses
from importlib.resources import files

import jaxnst

demo = files("jaxnst") / "demo"
content = jaxnst.load_image(demo / "content.jpg", size=256)
style = jaxnst.load_image(demo / "style.jpg", size=256)
params = jaxnst.load_params()
config, weights = jaxnst.preset("default")
config = dataclasses.replace(config, num_steps=(60, 30))
settings = {"params": params, "config": config, "weights": weights}
result = jaxnst.style_transfer(content, style, callback=jaxnst.live_preview(), **settings)
jaxnst.save_image("quickstart.png", result.image)

# %% [markdown]
# The last two lines made the picture and saved it. While the transfer runs, the callback
# `live_preview` updates this output in place, about once a second: the picture so far, the loss,
# and its terms. What you see here is the last update.
#
# If you interrupt the kernel, the transfer ends, and `result` has the best image so far.
#
# ## The pictures
#
# An image is an array of shape `(height, width, 3)`: float32, sRGB, values in [0, 1]. `size` is
# the longer side in pixels; proportions are kept. The style may have another shape than the
# content. The result has the shape of the content.

# %%
import matplotlib.pyplot as plt
from matplotlib_inline.backend_inline import set_matplotlib_formats

set_matplotlib_formats("jpeg", pil_kwargs={"quality": 85})


def show(images):
    """Show images side by side, each with its name."""
    _, axes = plt.subplots(1, len(images), figsize=(9.5, 2.8), layout="constrained")
    for plot, (name, image) in zip(axes, images.items(), strict=True):
        plot.imshow(image)
        plot.set_title(name, fontsize=10)
        plot.axis("off")


show({"content": content, "style": style, "result": result.image})
print(content.shape, style.shape, result.image.shape, result.image.dtype)

# %% [markdown]
# ## The recipe
#
# `preset` returns a pair. The `config` says what is computed: the terms of the loss, the layers at
# which they compare features, the optimiser, the number of evaluations. The `weights` say how much
# each term counts:
#
# $$L(x) = \sum_{\text{terms } t} w_t \sum_{\text{layers } l} w_{t,l} \, L_{t,l}(x)$$
#
# `content` compares features, `style` their Gram matrices, and two small penalties keep the image
# smooth (`tv`) and within [0, 1] (`range`).

# %%
for name, term in config.objective.terms.items():
    print(f"{name:8} weight {weights.scales[name]:<6g} at {', '.join(term.layers)}")

# %% [markdown]
# The recipe works from coarse to fine. It first paints the picture at 128 pixels, where an
# evaluation is cheap and large strokes are soon made. Then it enlarges the picture to 256 pixels
# and makes the fine strokes. `num_steps=(60, 30)` are the evaluations at these two sizes. The
# recipe itself has more, (100, 85); here we save time.
#
# `result.history` has a NumPy array for each term, with an entry for each evaluation. The transfer
# starts from the photograph, so at first the content term is zero, and the style term is large.

# %%
history = result.history
for size in (128, 256):
    at = history["size"] == size
    for name in ("loss", "content", "style"):
        values = history[name][at]
        print(f"{size} px   {name:8} {values[0]:8.3f} → {values[-1]:.3f}")

# %% [markdown]
# ## Other numbers
#
# `weights` and `config` cannot be changed, so `weights.replace` and `dataclasses.replace` return
# new ones. A weight is an argument of the compiled program, not a part of it. So the runs below
# compile nothing and start at once. They differ only in the weight of the style.

# %%
print(f"the run above: first evaluations after {history['seconds'][0]:.1f} s")
shorter = settings | {"config": dataclasses.replace(config, num_steps=(20, 8))}
pictures = {}
for style_weight in (0.5, 4.0, 32.0):
    shorter["weights"] = weights.replace(style=style_weight)
    run = jaxnst.style_transfer(content, style, **shorter)
    pictures[f"style weight {style_weight:g}"] = run.image
    print(f"style weight {style_weight:g}: after {run.history['seconds'][0]:.1f} s")
show(pictures)

# %% [markdown]
# With a small weight the photograph keeps its shapes and much of its colours. With a large one the
# strokes and colours of the painting cover them.
#
# ## From here
#
# - Your own pictures: `jaxnst.load_image("photo.jpg", size=512)`. Without the line that changes
#   `num_steps` you get the whole recipe. At 512 pixels and above, use an accelerator.
# - Several styles: a list in place of `style`, such as `[style, other]`, blends them.
# - Many weights at once: `jaxnst.sweep`, which takes `callback=jaxnst.live_preview()` too.
# - Another recipe: `jaxnst.PRESETS` names them all.
# - Without Python: `jaxnst transfer photo.jpg painting.jpg -o picture.png`.
