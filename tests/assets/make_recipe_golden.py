"""Write recipes_golden.npz: what version 0.1.0 made of three presets, before its loop was redrawn.

Run it with jaxnst 0.1.0 (git show 5a40a9d) and `JAX_ENABLE_X64=1`; later versions have other
signatures. In float64 rounding does not grow along a run, so that any machine gives the same.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxnst

demo = Path(jaxnst.__file__).parent / "demo"
content, style = (
    jaxnst.load_image(demo / f"{name}.jpg", size=128).astype(jnp.float64)
    for name in ("content", "style")
)
params = jaxnst.load_params()
arrays = {}
for name in ("default", "article", "gatys2016"):
    config, weights = jaxnst.preset(name)
    objective = dataclasses.replace(config.objective, dtype="float64")
    config = dataclasses.replace(config, objective=objective, num_steps=20)
    result = jaxnst.style_transfer(content, style, params=params, weights=weights, config=config)
    arrays[f"{name}_image"] = np.float32(result.image)
    arrays[f"{name}_loss"] = result.history["loss"]
np.savez_compressed(Path(__file__).with_name("recipes_golden.npz"), **arrays)
