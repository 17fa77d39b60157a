"""Fields and shapes that phantoms are drawn from: coordinates, smooth noise, blobs, strokes, tone.

All of it is float64 and drawn from NumPy generators in a fixed order, so that a seed gives the same uint8 pixels
anywhere. A field is [s, s]; coordinates run from -1 to 1, y down and x right; a length is in the same unit, so that the
image is 2 wide. s: size in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import fft, ndimage

Field = np.ndarray
Point = tuple[float, float]
OVERSAMPLE = 2  # shapes are drawn larger, and made smaller for smooth edges
BEND = 0.1  # radians that a vessel turns by at each step, standard deviation
QUANTILES = np.array([0, 0.02, 0.15, 0.35, 0.65, 0.85, 0.98, 1])
FINE = np.array([0, 0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.9, 0.95, 0.98, 0.995, 1])


class Phantom(NamedTuple):
    """One drawn image, uint8 [s, s] or [s, s, 3], and where its lesion is, bool [s, s]."""

    image: np.ndarray
    mask: np.ndarray


class Stroke(NamedTuple):
    """A line through points [n, 2] (y, x) of one width, drawn with one value in 0..1."""

    points: np.ndarray
    width: float
    value: float = 1.0


def plane(size: int) -> tuple[Field, Field]:
    """y and x of every pixel's centre."""
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def posed(
    rng: np.random.Generator,
    size: int,
    turn: float = 0.08,
    zoom: float = 0.08,
    shift: float = 0.06,
    bend: float = 0.015,
) -> tuple[Field, Field]:
    """y and x of every pixel in a body that lies turned (radians), scaled, shifted and a little bent."""
    y, x = plane(size)
    angle, scale = rng.normal(0, turn), np.exp(rng.normal(0, zoom))
    down, right = rng.normal(0, shift, 2)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    warp = [bend * smooth(rng, size, 0.5) for _ in range(2)]
    return cosine * (y - down) + sine * (x - right) + warp[0], cosine * (x - right) - sine * (y - down) + warp[1]


def bent(rng: np.random.Generator, y: Field, x: Field, amount: float) -> tuple[Field, Field]:
    """y and x in a body shaped a little unlike the next one; amount: deviation of the shift, which is less sideways."""
    down, right = (lookup(smooth(rng, 64, 0.16), y, x) for _ in range(2))
    return y + amount * down, x + 0.7 * amount * right


def ellipse(y: Field, x: Field, centre: Point, radii: Point, angle: float = 0.0) -> Field:
    """Distance from the centre as a share of the radius: 1 on the border. radii: along y and x, then turned."""
    dy, dx = y - centre[0], x - centre[1]
    if angle:
        cosine, sine = np.cos(angle), np.sin(angle)
        dy, dx = cosine * dy + sine * dx, cosine * dx - sine * dy
    return np.sqrt((dy / radii[0]) ** 2 + (dx / radii[1]) ** 2)


def dome(radius: Field, power: float = 0.5) -> Field:
    """Thickness of a solid over its outline: 1 at the centre, 0 from the border on; power 0.5 is an ellipsoid."""
    return np.clip(1 - radius * radius, 0, 1) ** power


def inside(radius: Field, border: float = 0.05) -> Field:
    """1 where radius < 1, 0 outside, with a smooth border of the given width around 1."""
    t = np.clip((1 - radius) / border + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def blob(
    rng: np.random.Generator, y: Field, x: Field, centre: Point, radii: Point, angle: float = 0.0, rough: float = 0.1
) -> Field:
    """Like `ellipse`, with an irregular outline: rough is how far it strays, as a share of the radius."""
    waves = np.arange(2, 10)
    height = rng.normal(0, rough, waves.size) / waves**0.6
    phase = rng.uniform(0, 2 * np.pi, waves.size)
    theta = np.arctan2(y - centre[0], x - centre[1])
    table = np.linspace(-np.pi, np.pi, 181)
    outline = 1 + (height[:, None] * np.cos(waves[:, None] * table + phase[:, None])).sum(0)
    return ellipse(y, x, centre, radii, angle) / np.interp(theta, table, np.maximum(outline, 0.3))


def smooth(rng: np.random.Generator, size: int, scale: float) -> Field:
    """Noise of mean 0 and deviation 1 that is alike over `scale` (a share of the image's width)."""
    return _unit(rng.standard_normal((size, size)), _gaussian(size, scale))


def fractal(rng: np.random.Generator, size: int, power: float = 1.5) -> Field:
    """Noise of mean 0 and deviation 1 whose spectrum falls as 1 / frequency^power: cloudy, with detail."""
    return _unit(rng.standard_normal((size, size)), _falling(size, power))


def blur(field: Field, scale: float) -> Field:
    """The field smoothed by a Gaussian of deviation `scale` (a share of the image's width)."""
    return ndimage.gaussian_filter(field, scale * field.shape[0], mode="nearest", truncate=3)


def lookup(field: Field, y: Field, x: Field) -> Field:
    """The field's values at coordinates y, x (linear); mirrored outside."""
    half = field.shape[0] / 2
    return ndimage.map_coordinates(field, [(y + 1) * half - 0.5, (x + 1) * half - 0.5], order=1, mode="mirror")


def strokes(size: int, lines: Iterable[Stroke]) -> Field:
    """Lines drawn over one another, in 0..1."""
    scale = size * OVERSAMPLE / 2
    canvas = Image.new("L", (size * OVERSAMPLE,) * 2)
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        points = ((line.points[:, ::-1] + 1) * scale).ravel().tolist()
        pen.line(points, fill=round(255 * line.value), width=max(1, round(line.width * scale)), joint="curve")
    return _reduced(canvas)


def polygons(size: int, outlines: np.ndarray, values: Iterable[float]) -> Field:
    """Filled outlines [m, n, 2] (points y, x) of values 0..1, drawn over one another."""
    canvas = Image.new("L", (size * OVERSAMPLE,) * 2)
    pen = ImageDraw.Draw(canvas)
    points = ((outlines[:, :, ::-1] + 1) * (size * OVERSAMPLE / 2) - 0.5).reshape(len(outlines), -1).tolist()
    for outline, value in zip(points, values, strict=True):
        pen.polygon(outline, fill=round(255 * value))
    return _reduced(canvas)


def outlines(rng: np.random.Generator, spots: np.ndarray, rough: np.ndarray | float) -> np.ndarray:
    """Small irregular ovals [m, 12, 2] for `polygons`. spots: [m, 5], y, x, radius across, radius along, turn."""
    y, x, across, along, angle = np.asarray(spots, dtype=np.float64).T[:, :, None]
    theta = np.arange(12) * (np.pi / 6)
    bump = 1 + rough * rng.standard_normal((len(y), 12))
    dy, dx = across * bump * np.sin(theta), along * bump * np.cos(theta)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([y + cosine * dy + sine * dx, x + cosine * dx - sine * dy], axis=-1)


def hue(rng: np.random.Generator, amount: float) -> np.ndarray:
    """Factors of red, green and blue [3] that make a warm colour redder and darker, or paler."""
    return np.exp(rng.normal(0, amount) * np.array([0.3, 1.0, 1.2]) + rng.normal(0, 0.2 * amount, 3))


def over(colour: np.ndarray, share: Field, paint: np.ndarray) -> np.ndarray:
    """A colour image [s, s, 3] painted over where `share` [s, s] is more than 0."""
    return colour + share[..., None] * (paint - colour)


def tree(
    rng: np.random.Generator, start: Point, heading: float, length: float, width: float, thin: float
) -> list[Stroke]:
    """A branching vessel. heading: radians, 0 to the right, positive down. It branches until it is `thin`."""
    lines: list[Stroke] = []
    todo = [(start, heading, length, width)]
    while todo:
        point, direction, reach, wide = todo.pop()
        line = wander(rng, point, direction, reach, wide, BEND)
        lines.append(line)
        if wide > thin:
            end = (float(line.points[-1, 0]), float(line.points[-1, 1]))
            turns, reaches, widths = (
                rng.uniform([0.2] * 2, 0.75),
                rng.uniform([0.6] * 2, 0.9),
                rng.uniform([0.6] * 2, 0.8),
            )
            for side in (0, 1):
                turned = direction + (2 * side - 1) * turns[side]
                todo.append((end, turned, reach * reaches[side], wide * widths[side]))
    return lines


def wander(
    rng: np.random.Generator, start: Point, heading: float, length: float, width: float, bend: float, steps: int = 6
) -> Stroke:
    """A winding line. bend: deviation of its turn at each step, radians."""
    angles = heading + np.cumsum(rng.normal(0, bend, steps))
    points = np.empty((steps + 1, 2))
    points[0] = start
    points[1:, 0] = start[0] + np.cumsum(np.sin(angles)) * (length / steps)
    points[1:, 1] = start[1] + np.cumsum(np.cos(angles)) * (length / steps)
    return Stroke(points, width)


def tone(
    rng: np.random.Generator,
    image: Field,
    levels: Sequence[float],
    spread: float = 0.2,
    region: np.ndarray | None = None,
) -> Field:
    """The image as somebody displays it: its quantiles QUANTILES go to `levels`, with random black, white and curve.

    levels: six, between black and white; spread: how much is random; region: whose quantiles count. How bright an image
    is, and how its values are distributed, then says next to nothing about what it shows.
    """
    target = np.array([0.5 * levels[0], *levels, 0.3 * levels[-1] + 0.7]) ** np.exp(rng.normal(0, 1.5 * spread))
    steps = np.diff(target) * np.exp(rng.normal(0, spread, len(target) - 1))
    climb = np.concatenate([[0], np.cumsum(steps)]) / steps.sum()
    low, high = rng.uniform(0, 0.5 * spread), rng.uniform(1 - 1.2 * spread, 1)
    target = low + (high - low) * (target[0] + climb * (target[-1] - target[0]))
    known = np.quantile(image if region is None else image[region], FINE) + 1e-9 * np.arange(len(FINE))
    return np.interp(image, known, np.interp(FINE, QUANTILES, target))


def colour_tone(
    rng: np.random.Generator,
    image: np.ndarray,
    levels: Sequence[float],
    spread: float = 0.2,
    region: np.ndarray | None = None,
) -> np.ndarray:
    """The same of a colour image [s, s, 3], values 0..1: lightness is set as `tone` does, with a random tint."""
    image = np.clip(image, 0.004, 0.996)
    light = (0.3 * image[..., 0] + 0.59 * image[..., 1]) + 0.11 * image[..., 2]
    power = np.log(np.clip(tone(rng, light, levels, spread, region), 0.01, 0.99)) / np.log(light)
    tint = np.exp(rng.normal(0, 0.3 * spread, 3))
    return np.exp(np.log(image) * power[..., None] * tint)


def pixels(image: Field) -> np.ndarray:
    """Values 0..1 as uint8."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _unit(noise: Field, spectrum: Field) -> Field:
    field = fft.irfft2(fft.rfft2(noise) * spectrum, s=noise.shape)
    return field / field.std()


def _frequencies(size: int) -> Field:
    """Squared frequency in cycles an image, [s, s // 2 + 1]."""
    return np.add.outer((fft.fftfreq(size) * size) ** 2, (fft.rfftfreq(size) * size) ** 2)


@lru_cache(maxsize=64)
def _gaussian(size: int, scale: float) -> Field:
    spectrum = np.exp(-2 * (np.pi * scale) ** 2 * _frequencies(size))
    spectrum[0, 0] = 0
    return spectrum


@lru_cache(maxsize=64)
def _falling(size: int, power: float) -> Field:
    squared = _frequencies(size)
    squared[0, 0] = np.inf
    return squared ** (-power / 2)


def _reduced(canvas: Image.Image) -> Field:
    return np.asarray(canvas.reduce(OVERSAMPLE), dtype=np.float64) / 255
