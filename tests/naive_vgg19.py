"""VGG19 in plain NumPy, forward and backward in float64: the oracle of the network."""

import jax
import numpy as np

from jaxnst.vgg import LAYERS

OFFSETS = [(i, j) for i in range(3) for j in range(3)]
CORNERS = [(i, j) for i in range(2) for j in range(2)]


MODES = {"zero": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
FACTORS = {"scaled-average": 2.0, "scaled-l2": 0.78}


def pad(x, padding="zero"):
    return np.pad(np.asarray(x, np.float64), ((1, 1), (1, 1), (0, 0)), MODES[padding])


def conv3x3(x, kernel, padding="zero"):
    height, width, channels = x.shape
    kernel, padded = np.asarray(kernel, np.float64), pad(x, padding)
    patches = [padded[i : i + height, j : j + width].reshape(-1, channels) for i, j in OFFSETS]
    rows = sum(patch @ kernel[i, j] for patch, (i, j) in zip(patches, OFFSETS, strict=True))
    return rows.reshape(height, width, -1)


def conv3x3_by_x(cotangent, kernel, padding="zero"):
    height, width, _ = cotangent.shape
    by_padded = conv3x3(pad(cotangent), np.asarray(kernel)[::-1, ::-1].swapaxes(2, 3))
    if padding == "zero":
        return by_padded[1:-1, 1:-1]
    pixels = pad(np.arange(height * width).reshape(height, width, 1), padding)
    result = np.zeros((height * width, by_padded.shape[2]))
    np.add.at(result, pixels.astype(int).ravel(), by_padded.reshape(-1, by_padded.shape[2]))
    return result.reshape(height, width, -1)


def conv3x3_by_kernel(cotangent, x, padding="zero"):
    height, width, _ = x.shape
    padded = pad(x, padding)
    patches = [padded[i : i + height, j : j + width] for i, j in OFFSETS]
    by_offset = [np.tensordot(patch, cotangent, ((0, 1), (0, 1))) for patch in patches]
    return np.reshape(by_offset, (3, 3, x.shape[2], cotangent.shape[2]))


def pool_weights(x, pooling):
    """Return the corners of each 2×2 block and their shares in the pooled value, (4, h, w, c)."""
    height, width = (side // 2 * 2 for side in x.shape[:2])
    corners = np.stack([x[i:height:2, j:width:2] for i, j in CORNERS])
    factor, pooling = FACTORS.get(pooling, 1.0), pooling.removeprefix("scaled-")
    if pooling == "average":
        return corners, np.full(corners.shape, 0.25 * factor)
    if pooling == "l2":  # the root's slopes, whose product with the corners is the root itself
        root = np.sqrt((corners**2).sum(0))
        return corners, factor * np.divide(corners, root, np.zeros(corners.shape), where=root > 0)
    first = corners.argmax(0)  # the first of equal values
    return corners, (np.arange(4)[:, None, None, None] == first).astype(np.float64)


def vgg19(image, params, pooling, layers, padding="zero"):
    """Return the features at `layers`, and their transpose.

    The transpose maps a dict of cotangents by layer to the cotangent of the image.
    """
    mean, std = (np.asarray(params["normalize"][k], np.float64) for k in ("mean", "std"))
    first, others = (padding, padding) if isinstance(padding, str) else padding
    x, features, transposes = (np.asarray(image, np.float64) - mean) / std, {}, {}
    for layer in LAYERS[: 1 + max(map(LAYERS.index, layers))]:
        if layer.startswith("conv"):
            kernel = params[layer]["kernel"]
            given = kernel, first if layer == "conv1_1" else others
            transposes[layer] = lambda ct, given=given: conv3x3_by_x(ct, *given)
            x = conv3x3(x, *given) + np.asarray(params[layer]["bias"], np.float64)
        elif layer.startswith("relu"):
            transposes[layer] = lambda ct, mask=x > 0: ct * mask
            x = np.maximum(x, 0)
        else:
            corners, weights = pool_weights(x, pooling)
            transposes[layer] = lambda ct, x=x, weights=weights: unpool(ct, x, weights)
            x = (corners * weights).sum(0)
        features[layer] = x

    def transpose(cotangents):
        ct = 0.0
        for layer in reversed(features):
            if layer in cotangents:
                ct = ct + np.asarray(cotangents[layer], np.float64)
            ct = transposes[layer](ct) if np.ndim(ct) else ct
        return ct / std

    return {layer: features[layer] for layer in layers}, transpose


def unpool(cotangent, x, weights):
    result = np.zeros(x.shape)
    height, width = (side // 2 * 2 for side in x.shape[:2])
    for (i, j), weight in zip(CORNERS, weights, strict=True):
        result[i:height:2, j:width:2] = weight * cotangent
    return result


def relative_error(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def assert_close(found, expected, tolerance=1e-5):
    errors = jax.tree.map(relative_error, found, expected)
    assert max(jax.tree.leaves(errors)) <= tolerance, errors
