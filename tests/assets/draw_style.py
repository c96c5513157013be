"""Paint the demo style picture: an impasto night landscape, stroke by stroke.

The canvas is divided into regions (sky, hills, field, cypress). Each region has a flow field
and a colour plan. Brush strokes follow the flow, large ones first; every stroke is a bundle of
bristles that lay down colour and paint thickness. The thickness is then lit from the upper left
as a relief, and the supersampled canvas is reduced. Everything is seeded: for given versions of
numpy and Pillow the result is always the same.

Usage: python draw_style.py [OUTPUT]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray

SCALE = 3
WIDTH, HEIGHT = 512 * SCALE, 400 * SCALE
SKY, FAR, HILL, TREE, FIELD = range(5)  # from far to near

# Each ramp runs from 0 (shadow) to 1 (light).
RAMPS: dict[int, list[str]] = {
    SKY: ["0a1340", "12246b", "1b3f9c", "2a63b8", "2f8fb5", "58b9b4", "b5d8b4", "f6e9b4"],
    FAR: ["0c1a4a", "17357d", "27609f", "3d93a3", "7fc1a4"],
    HILL: ["081f38", "0f4351", "1d6b5e", "4c9460", "a8b94c"],
    FIELD: ["6b2a17", "b0541a", "d98a1c", "f0b427", "f8d860", "fbf0c0"],
    TREE: ["040912", "07182a", "0b2c3a", "17483f", "6f7d2c"],
}
GLOW = ["2f8fb5", "7cc4a8", "e8dc8a", "f6c62e", "f39a1b", "f7cf3a", "fdf3c8"]
CRIMSON, CREAM, ORANGE = "b3122e", "fdf3d0", "ee7a1c"
HEART = [(0.56, "f3b02a"), (0.40, "f7cf3a"), (0.30, ORANGE), (0.22, "f9dc62"), (0.12, CREAM)]

# Lights in the sky: x, y, radius (fractions of the height) and turning sense.
LIGHTS = [
    (1.02, 0.23, 0.150, 1.0),
    (0.53, 0.43, 0.050, -1.0),
    (0.12, 0.17, 0.052, 1.0),
    (0.50, 0.12, 0.050, 1.0),
    (0.80, 0.50, 0.030, -1.0),
    (1.21, 0.47, 0.034, 1.0),
    (0.07, 0.44, 0.036, -1.0),
]
# Swirls of wind without a light: x, y, radius, turning sense.
SWIRLS = [(0.67, 0.27, 0.15, -1.0), (0.41, 0.27, 0.08, 1.0)]


@dataclass
class Plan:
    """What to paint at each pixel: region, stroke direction, tone, glow and its colours."""

    region: Array
    angle: Array
    tone: Array
    glow: Array

    def fill(self, where: Array, label: int, angle: Array, tone: Array) -> None:
        """Give the pixels of a mask to a nearer region."""
        self.region[where], self.glow[where] = label, 0.0
        self.angle[where], self.tone[where] = angle[where], tone[where]


def rgb(code: str) -> Array:
    """Return a hexadecimal colour as three floats."""
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], dtype=float)


def ramp(codes: list[str], t: float) -> Array:
    """Interpolate a colour ramp at ``t`` in [0, 1]."""
    stops = np.stack([rgb(code) for code in codes])
    at = np.linspace(0.0, 1.0, len(stops))
    return np.array([np.interp(t, at, stops[:, c]) for c in range(3)])


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur with wrap-around borders."""
    fy = np.fft.fftfreq(image.shape[0])[:, None]
    fx = np.fft.rfftfreq(image.shape[1])[None, :]
    kernel = np.exp(-2.0 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))
    return np.fft.irfft2(np.fft.rfft2(image) * kernel, s=image.shape)


def noise(rng: np.random.Generator, sigma: float) -> Array:
    """Smooth noise with zero mean and unit deviation."""
    field = blur(rng.standard_normal((HEIGHT, WIDTH)), sigma)
    return (field - field.mean()) / field.std()


def plant(plan: Plan, x: Array, y: Array, mottle: Array) -> None:
    """Set two cypresses before the hills: dark flames whose feet the field will cover."""
    for cx, top, half in [(0.275, 0.02, 0.074), (0.150, 0.37, 0.048)]:
        t = np.clip((y - top) / (0.92 - top), 0.0, 1.0)
        body = half * t**0.75 * (1.25 - 0.45 * t**3) * (1.0 + 0.13 * np.sin(38.0 * t + 45.0 * x))
        side = (x - cx - 0.022 * t * np.sin(9.0 * t + 14.0 * cx)) / (body + 1e-6)
        flame = -np.pi / 2 - 0.35 * side + 0.50 * np.sin(19.0 * t + 3.0 * side)
        value = 0.38 + 0.34 * side + 0.26 * np.sin(25.0 * t + 6.0 * side) + 0.08 * mottle
        plan.fill((np.abs(side) < 1.0) & (y > top), TREE, flame, value)


def compose(rng: np.random.Generator) -> Plan:
    """Lay out the picture: regions, directions and tones."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / HEIGHT
    big, mid = noise(rng, 0.10 * HEIGHT), noise(rng, 0.03 * HEIGHT)

    # Sky: a rolling wind, bent around every light and swirl.
    wave = 0.45 * np.sin(5.2 * x + 1.0 + 2.0 * y) + 0.18 * big
    u, v = np.cos(wave), np.sin(wave)
    tone = 0.34 + 0.10 * np.sin(30.0 * (y + 0.07 * np.sin(5.2 * x + 1.0)) + 1.2 * big) + 0.05 * mid
    tone += 0.22 * np.clip((y - 0.25) / 0.4, 0.0, 1.0)
    glow = np.zeros_like(x)
    for cx, cy, radius, sense in LIGHTS + SWIRLS:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-6
        lit = (cx, cy, radius, sense) in LIGHTS
        pull = (7.0 if lit else 5.0) * np.exp(-((r / (1.9 * radius if lit else radius)) ** 2))
        inward = 0.0 if lit else 0.22
        u += pull * (-sense * dy / r - inward * dx / r)
        v += pull * (sense * dx / r - inward * dy / r)
        if lit:
            level = 1.12 - 0.62 * r / radius + 0.05 * np.cos(r / radius * 11.0)
            glow = np.maximum(glow, level)
            tone += 0.20 * np.exp(-((r / (2.6 * radius)) ** 2)) * np.cos(r / radius * 6.0)
        else:
            arms = np.cos(2.0 * np.arctan2(dy, dx) - sense * 3.2 * np.log(r / radius + 0.05))
            tone += 0.30 * np.exp(-((r / radius) ** 2)) * (arms + 0.45)
    angle = np.arctan2(v, u)
    plan = Plan(np.full(x.shape, SKY), angle, tone, glow)

    # Land, from far to near: the crest line and how strongly the strokes roll with the ground.
    lands = [
        (FAR, 0.600 + 0.040 * np.sin(4.1 * x + 0.6) + 0.018 * np.sin(11.0 * x), 0.9),
        (HILL, 0.680 + 0.050 * np.sin(3.3 * x + 2.9) + 0.012 * np.sin(9.0 * x + 1.0), 0.8),
        (FIELD, 0.805 + 0.040 * np.sin(2.6 * x + 0.4), 0.3),
    ]
    for label, crest, roll in lands:
        depth = y - crest
        if label == FIELD:
            plant(plan, x, y, mid)
            lean = -0.60 + 0.40 * big
            value = 0.54 + 0.28 * np.sin(26.0 * depth - 5.0 * x + big) + 0.10 * mid
        else:
            lean = np.arctan(np.gradient(crest, axis=1) * HEIGHT)
            value = 0.52 + 0.28 * np.sin(10.0 * x + 34.0 * depth + big) - 1.5 * depth + 0.08 * mid
            value += 0.28 * np.exp(-((depth / 0.012) ** 2))
        lean = lean + roll * np.sin(9.0 * x + 14.0 * depth) * np.clip(depth / 0.08, 0.0, 1.0)
        plan.fill(depth > 0, label, lean, value)
    return plan


def mix_paint(plan: Plan, py: int, px: int, rng: np.random.Generator, vary: float) -> Array:
    """Choose the paint of one stroke: the planned tone, broken by chance and accents."""
    label = int(plan.region[py, px])
    glow = plan.glow[py, px] + 0.5 * vary * rng.standard_normal()
    chance = rng.random()
    if label == SKY and glow > 0.12:
        paint = rgb(ORANGE) if 0.35 < glow < 0.9 and chance < 0.10 else ramp(GLOW, glow)
    elif label == FIELD and chance < 0.035:
        paint = rgb(CRIMSON)
    else:
        paint = ramp(RAMPS[label], plan.tone[py, px] + vary * rng.standard_normal())
    return paint + 5.0 * rng.standard_normal(3)


class Canvas:
    """Colour and paint thickness, both built up bristle by bristle."""

    def __init__(self) -> None:
        """Prime the canvas with a dark blue ground."""
        self.colour = Image.new("RGB", (WIDTH, HEIGHT), (18, 24, 66))
        self.thick = Image.new("F", (WIDTH, HEIGHT), 0.0)
        self.pens = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.thick)

    def stroke(self, path: Array, width: float, paint: Array, rng: np.random.Generator) -> None:
        """Drag a loaded brush along ``path`` (points as x, y)."""
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-6
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        along = np.linspace(0.0, 1.0, len(path))
        spread = np.minimum(1.0, 0.45 + 2.5 * np.minimum(along, 1.25 * (1.0 - along)))[:, None]
        count = int(np.clip(width / 2.6, 4, 16))
        lift, warm = 0.5 + 0.6 * rng.random(), rng.normal(0.0, 9.0)
        for offset in rng.permutation(np.linspace(-1.0, 1.0, count)):
            first = rng.integers(0, 2)
            last = len(path) - int(abs(offset) * 2 * rng.random() + 1.6 * rng.random())
            if last - first < 3:
                continue
            line = path + normal * spread * (0.5 * width * offset + rng.normal(0.0, 0.4))
            points = [tuple(p) for p in line[first:last]]
            shade = 1.0 + 0.09 * rng.standard_normal()
            ink = np.clip(paint * shade + offset * warm, 0, 255).astype(int)
            ridge = lift * (0.55 + 0.45 * abs(offset) ** 3) + 0.22 * rng.standard_normal()
            size = max(2, round(1.7 * width / count))
            self.pens[0].line(points, fill=tuple(ink.tolist()), width=size, joint="curve")
            self.pens[1].line(points, fill=float(ridge * width**0.5), width=size, joint="curve")


def trace(plan: Plan, start: Array, steps: int, stride: float) -> Array:
    """Follow the flow both ways from all starting points; returns (strokes, points, 2) as x, y."""
    halves = []
    for sense in (-1.0, 1.0):
        points, heading = [start], None
        for _ in range(steps):
            ix = np.clip(points[-1][:, 0], 0, WIDTH - 1).astype(int)
            iy = np.clip(points[-1][:, 1], 0, HEIGHT - 1).astype(int)
            a = plan.angle[iy, ix]
            step = sense * np.stack([np.cos(a), np.sin(a)], axis=1)
            heading = step if heading is None else 0.3 * heading + 0.7 * step
            points.append(points[-1] + stride * heading)
        halves.append(points)
    return np.stack(halves[0][:0:-1] + halves[1], axis=1)


def paint_layer(
    canvas: Canvas, plan: Plan, rng: np.random.Generator, label: int, width: float, cover: float
) -> None:
    """Cover one region with strokes of about one width; they may run under nearer regions."""
    steps, stride = 5, 0.56 * width
    count = int(cover * WIDTH * HEIGHT / (width * 2 * steps * stride))
    start = rng.random((count, 2)) * [WIDTH, HEIGHT]
    start = start[plan.region[start[:, 1].astype(int), start[:, 0].astype(int)] == label]
    paths = trace(plan, start, steps, stride)
    ix = np.clip(paths[..., 0], 0, WIDTH - 1).astype(int)
    iy = np.clip(paths[..., 1], 0, HEIGHT - 1).astype(int)
    outside = plan.region[iy, ix] < label
    for k, path in enumerate(paths):
        before = np.nonzero(outside[k, :steps])[0]
        after = np.nonzero(outside[k, steps:])[0]
        first = int(before[-1]) + 1 if len(before) else 0
        last = steps + int(after[0]) if len(after) else 2 * steps + 1
        if last - first >= 4:
            paint = mix_paint(plan, iy[k, steps], ix[k, steps], rng, 0.10)
            canvas.stroke(path[first:last], width * rng.uniform(0.7, 1.2), paint, rng)


def paint_lights(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the heart of every light with short curved dabs, orange below and cream on top."""
    for cx, cy, radius, sense in LIGHTS:
        for share, code in HEART:
            size = radius * HEIGHT * share
            for turn in rng.random(7) * 2.0 * np.pi:
                arc = turn + sense * np.linspace(0.0, 2.2, 9)
                ring = np.stack([np.cos(arc), np.sin(arc)], axis=1) * size * rng.uniform(0.5, 1.1)
                paint = rgb(code) + 7.0 * rng.standard_normal(3)
                canvas.stroke(ring + np.array([cx, cy]) * HEIGHT, 0.9 * size + 5, paint, rng)


def light(canvas: Canvas) -> Image.Image:
    """Shade the paint thickness as a relief lit from the upper left, then reduce."""
    colour = np.asarray(canvas.colour, dtype=float)
    thick = np.asarray(canvas.thick, dtype=float)
    thick = 0.65 * blur(thick, 1.3) + 0.6 * blur(thick, 4.0)
    gy, gx = np.gradient(thick)
    facing = np.tanh(0.9 * (0.62 * gx + 0.78 * gy))
    shaded = colour * (1.0 + 0.60 * facing)[..., None]
    shaded += (70.0 * np.clip(facing - 0.35, 0.0, 1.0) ** 1.5)[..., None] * [1.0, 0.97, 0.88]
    full = Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8))
    return full.resize((WIDTH // SCALE, HEIGHT // SCALE), Image.Resampling.LANCZOS)


def main() -> None:
    """Paint the picture and save it."""
    default = Path(__file__).resolve().parents[2] / "jaxnst" / "demo" / "style.jpg"
    parser = argparse.ArgumentParser(description="Paint the demo style picture.")
    parser.add_argument("output", type=Path, nargs="?", default=default)
    output: Path = parser.parse_args().output
    rng = np.random.default_rng(1889)
    plan, canvas = compose(rng), Canvas()
    for label in (SKY, FAR, HILL, TREE, FIELD):
        size = 1.0 if label == SKY else 0.72
        for width, cover in [(68, 8.0), (44, 3.5), (28, 1.5), (16, 0.55), (9, 0.2)]:
            paint_layer(canvas, plan, rng, label, size * width, cover)
        if label == SKY:
            paint_lights(canvas, rng)
    light(canvas).save(output, quality=92, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
