"""The schedule of a transfer: its scales from coarse to fine."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxnst.pyramid import Shape, pyramid_shapes
from jaxnst.recipes import TransferConfig
from jaxnst.vgg import min_size


class Scale(NamedTuple):
    """One step of the image pyramid."""

    shape: Shape  #: height and width of the content and the image
    num_steps: int  #: evaluations of the loss


def schedule(shape: Sequence[int], config: TransferConfig) -> list[Scale]:
    """Return the scales from coarse to fine for a content of this shape (…, H, W, 3)."""
    finest, steps = (shape[-3], shape[-2]), config.steps
    if config.min_size is None:
        return [Scale(finest, steps[0])]
    least = min_size(config.objective.layers)
    shapes = pyramid_shapes(
        finest,
        min_size=config.min_size,
        scale_factor=config.scale_factor,
        # A side that pools do not halve evenly shows a seam where an image tiles the plane.
        multiple=least if config.objective.circular else 1,
    )
    # The short side of a long and narrow picture may be too small for the network at some scales.
    shapes = [shape for shape in shapes if min(shape) >= least or shape == finest]
    return [Scale(shape, steps[min(i, len(steps) - 1)]) for i, shape in enumerate(shapes)]
