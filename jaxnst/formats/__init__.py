"""Any VGG19 file becomes Flax params, and params become files."""

from jaxnst.formats.known_files import (
    KNOWN_FILES,
    KnownFile,
    cache_dir,
    cached,
    fetch,
    identify,
    sha256,
)
from jaxnst.formats.layouts import INPUT_RULES
from jaxnst.formats.params import (
    WeightsFile,
    bundled_weights,
    check_params,
    inspect_weights,
    load_params,
    save_params,
    show_shape,
)
from jaxnst.formats.quantize import quantize_params

__all__ = [
    "INPUT_RULES",
    "KNOWN_FILES",
    "KnownFile",
    "WeightsFile",
    "bundled_weights",
    "cache_dir",
    "cached",
    "check_params",
    "fetch",
    "identify",
    "inspect_weights",
    "load_params",
    "quantize_params",
    "save_params",
    "sha256",
    "show_shape",
]
