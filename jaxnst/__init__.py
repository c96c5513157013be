"""Neural style transfer as pure functions in JAX and Flax."""

from jaxnst.formats import load_params, quantize_params, save_params
from jaxnst.images import load_alpha, load_image, save_image
from jaxnst.lbfgs import lbfgs
from jaxnst.losses import gram_matrix, raw_gram_matrix, total_variation
from jaxnst.objective import (
    LossWeights,
    ObjectiveConfig,
    Targets,
    compute_targets,
    loss_and_grad,
    perceptual_loss,
)
from jaxnst.optimize import Progress, Result, Status, minimize
from jaxnst.presets import preset
from jaxnst.sweep import SweepProgress, SweepResult, sweep, weight_grid
from jaxnst.transfer import TransferResult, style_transfer
from jaxnst.transfer_config import TransferConfig
from jaxnst.vgg import VGG19, extract_features

__version__ = "0.1.0"

__all__ = [
    "VGG19",
    "LossWeights",
    "ObjectiveConfig",
    "Progress",
    "Result",
    "Status",
    "SweepProgress",
    "SweepResult",
    "Targets",
    "TransferConfig",
    "TransferResult",
    "compute_targets",
    "extract_features",
    "gram_matrix",
    "lbfgs",
    "load_alpha",
    "load_image",
    "load_params",
    "loss_and_grad",
    "minimize",
    "perceptual_loss",
    "preset",
    "quantize_params",
    "raw_gram_matrix",
    "save_image",
    "save_params",
    "style_transfer",
    "sweep",
    "total_variation",
    "weight_grid",
]
