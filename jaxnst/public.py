"""The public names, one explicit list, which `jaxnst` itself imports at first use."""

from jaxnst.color import (
    fit_gamut,
    linear_to_oklab,
    linear_to_srgb,
    luminance,
    match_luminance,
    oklab_to_linear,
    srgb_to_linear,
    srgb_to_yiq,
    transfer_chroma,
    yiq_to_srgb,
)
from jaxnst.color_matching import (
    match_colors_cholesky,
    match_colors_histogram,
    match_colors_pca,
    match_colors_transport,
)
from jaxnst.first_image import noise_image
from jaxnst.formats import load_params, quantize_params, save_params
from jaxnst.images import Geometry, load_alpha, load_image, load_mask, save_image
from jaxnst.lanes import SweepProgress, SweepResult
from jaxnst.lbfgs import lbfgs
from jaxnst.loss_weights import LossWeights
from jaxnst.losses import (
    gram_matrix,
    half_squared_error,
    mean_squared_error,
    raw_gram_matrix,
    relative_squared_error,
)
from jaxnst.matching import (
    color_distances,
    cosine_distances,
    moment_differences,
    nearest_neighbors,
    palette_distance,
    relaxed_earth_movers,
    self_similarity,
)
from jaxnst.minimize import Progress, Result, minimize
from jaxnst.moments import (
    mean_and_covariance,
    mean_and_deviation,
    moments_error,
    wasserstein_gaussian,
)
from jaxnst.normalization import NormalizedGradient, RelativeContent
from jaxnst.objective import Objective, Targets, loss_and_grad, perceptual_loss
from jaxnst.optimize import Info, State, Status, init, outcome, restart, step
from jaxnst.optimizers import Adam, Lbfgs
from jaxnst.penalties import (
    gradient_only_variation,
    nine_point_variation,
    out_of_range,
    squared_total_variation,
    total_variation,
)
from jaxnst.preconditioners import circular_preconditioner, spectral_preconditioner
from jaxnst.presets import PRESETS, preset
from jaxnst.preview import live_preview
from jaxnst.protection import Protected, protect
from jaxnst.pyramid import resize
from jaxnst.recipes import Recipe, TransferConfig
from jaxnst.rescaling import rescale_params
from jaxnst.samples import Samples, SelfSimilarity
from jaxnst.scales import TransferState
from jaxnst.sources import Picture
from jaxnst.statistics import (
    autocorrelation,
    pooled_gram_matrix,
    quantile_means,
    shifted_gram_matrix,
    sliced_quantile_means,
    spectrum_error,
)
from jaxnst.sweep import sweep, weight_grid
from jaxnst.targets import compute_targets
from jaxnst.terms import Content, Penalty, Style, Term
from jaxnst.texture import mix_recipe, mix_styles, synthesize_texture, texture_recipe
from jaxnst.transfer import TransferResult, style_transfer
from jaxnst.vgg import LAYERS, VGG19, Params, extract_features

__all__ = [
    "LAYERS",
    "PRESETS",
    "VGG19",
    "Adam",
    "Content",
    "Geometry",
    "Info",
    "Lbfgs",
    "LossWeights",
    "NormalizedGradient",
    "Objective",
    "Params",
    "Penalty",
    "Picture",
    "Progress",
    "Protected",
    "Recipe",
    "RelativeContent",
    "Result",
    "Samples",
    "SelfSimilarity",
    "State",
    "Status",
    "Style",
    "SweepProgress",
    "SweepResult",
    "Targets",
    "Term",
    "TransferConfig",
    "TransferResult",
    "TransferState",
    "autocorrelation",
    "circular_preconditioner",
    "color_distances",
    "compute_targets",
    "cosine_distances",
    "extract_features",
    "fit_gamut",
    "gradient_only_variation",
    "gram_matrix",
    "half_squared_error",
    "init",
    "lbfgs",
    "linear_to_oklab",
    "linear_to_srgb",
    "live_preview",
    "load_alpha",
    "load_image",
    "load_mask",
    "load_params",
    "loss_and_grad",
    "luminance",
    "match_colors_cholesky",
    "match_colors_histogram",
    "match_colors_pca",
    "match_colors_transport",
    "match_luminance",
    "mean_and_covariance",
    "mean_and_deviation",
    "mean_squared_error",
    "minimize",
    "mix_recipe",
    "mix_styles",
    "moment_differences",
    "moments_error",
    "nearest_neighbors",
    "nine_point_variation",
    "noise_image",
    "oklab_to_linear",
    "out_of_range",
    "outcome",
    "palette_distance",
    "perceptual_loss",
    "pooled_gram_matrix",
    "preset",
    "protect",
    "quantile_means",
    "quantize_params",
    "raw_gram_matrix",
    "relative_squared_error",
    "relaxed_earth_movers",
    "rescale_params",
    "resize",
    "restart",
    "save_image",
    "save_params",
    "self_similarity",
    "shifted_gram_matrix",
    "sliced_quantile_means",
    "spectral_preconditioner",
    "spectrum_error",
    "squared_total_variation",
    "srgb_to_linear",
    "srgb_to_yiq",
    "step",
    "style_transfer",
    "sweep",
    "synthesize_texture",
    "texture_recipe",
    "total_variation",
    "transfer_chroma",
    "wasserstein_gaussian",
    "weight_grid",
    "yiq_to_srgb",
]
