"""Dermoscopy of pigmented skin lesions: pattern, border, symmetry and colours on skin with hairs."""

from __future__ import annotations

import numpy as np

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    Stroke,
    blob,
    colour_tone,
    ellipse,
    fractal,
    hue,
    inside,
    lookup,
    outlines,
    over,
    pixels,
    plane,
    polygons,
    posed,
    smooth,
    strokes,
    wander,
)

ANATOMY = "skin"
FINDINGS = ("melanocytic nevus", "melanoma", "seborrhoeic keratosis")
LEVELS = (0.18, 0.34, 0.5, 0.66, 0.74, 0.86)
SKIN = np.array([0.86, 0.66, 0.56])
BROWN = np.array([0.5, 0.3, 0.18])
BLACK = np.array([0.14, 0.09, 0.09])
VEIL = np.array([0.42, 0.47, 0.58])
RED = np.array([0.75, 0.36, 0.33])
SCAR = np.array([0.88, 0.8, 0.78])
WAX = np.array([0.62, 0.46, 0.3])
MILIUM = np.array([0.97, 0.93, 0.82])
BLOTCHES = ((BLACK, 0.3, 0.9), (VEIL, 0.34, 0.8), (SCAR, 0.22, 0.75), (RED, 0.25, 0.7), (BLACK, 0.16, 0.9))
"""Colours of a melanoma: paint, radius as a share of the lesion's, how much it covers."""
CANVAS = 192


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """A dermoscopic image of one lesion, uint8 [s, s, 3]."""
    spot = Spot(patient, finding)
    y, x = posed(image, size, turn=0.6, zoom=0.1, shift=0.08)
    colour, lesion = spot.painted(y, x)
    colour = colour * (1 + 0.05 * smooth(image, size, 0.4))[..., None] + image.normal(0, 0.01, (size, size, 3))
    shown = colour_tone(image, _hairs(colour, image), LEVELS, spread=0.18)
    if image.random() < 0.4:
        tube = ellipse(*plane(size), (0, 0), (image.uniform(1.0, 1.25),) * 2)
        shown = shown * inside(tube, 0.05)[..., None]
    return Phantom(pixels(shown), lesion > 0.5)


class Spot:
    """One patient's lesion and skin."""

    def __init__(self, rng: np.random.Generator, finding: str) -> None:
        self.finding = finding
        self.skin = SKIN * hue(rng, 0.1)
        self.brown = BROWN * hue(rng, 0.15)
        self.size, self.oval = rng.uniform(0.42, 0.68), rng.uniform(0.75, 1.0)
        self.fine, self.clouds, self.patches = (smooth(rng, CANVAS, scale) for scale in (0.008, 0.035, 0.09))
        self.relief = fractal(rng, CANVAS, 1.4)
        self.mesh = rng.uniform(0.055, 0.08)
        self.shapes = rng
        self.extent = rng.random()

    def painted(self, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Colour [s, s, 3], and how far a pixel is lesion (0..1)."""
        furrows = 1 + 0.015 * lookup(self.fine, y, x) + 0.012 * lookup(self.clouds, y, x)
        skin = self.skin * furrows[..., None]
        if self.finding == "melanoma":
            return self._melanoma(skin, y, x)
        if self.finding == "seborrhoeic keratosis":
            return self._keratosis(skin, y, x)
        return self._nevus(skin, y, x)

    def _nevus(self, skin: np.ndarray, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Symmetric and regular: one or two browns, an even network that thins out at the border."""
        outline = blob(self.shapes, y, x, (0, 0), (self.size, self.size * self.oval), rough=0.035)
        lesion = inside(outline, 0.25)
        net = self._network(y, x, 0.02)
        colour = over(skin, 0.72 * lesion, self.brown * (1 + 0.05 * lookup(self.clouds, y, x))[..., None])
        colour = over(colour, 0.42 * net * inside(outline / 1.03, 0.2), 0.6 * self.brown)
        return over(colour, 0.4 * inside(outline / 0.55, 0.6), 0.65 * self.brown), inside(outline, 0.1)

    def _melanoma(self, skin: np.ndarray, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Asymmetric, notched, many-coloured: broken network, black blotches, streaks, blue-white veil, regression."""
        rng, r = self.shapes, self.size
        first = blob(rng, y, x, (0, -0.12), (r, 0.8 * r), rough=0.22)
        second = blob(rng, y, x, tuple(rng.uniform(0.1, 0.35, 2)), (0.65 * r, 0.7 * r), rough=0.25)
        outline = np.minimum(first, second)
        edge = inside(outline + 0.05 * lookup(self.clouds, y, x), 0.12)
        colour = over(skin, 0.8 * edge, self.brown * (1 + 0.15 * lookup(self.clouds, y, x))[..., None])
        colour = over(
            colour, 0.5 * self._network(y, x, 0.045) * edge * (lookup(self.patches, y, x) > 0), 0.45 * self.brown
        )
        for paint, reach, share in BLOTCHES:
            theta, out = rng.uniform(0, 2 * np.pi), r * rng.uniform(0.2, 0.55)
            radii = (1.7 * reach * r, 1.3 * reach * r)
            patch = blob(rng, y, x, (out * np.sin(theta), out * np.cos(theta)), radii, rough=0.25)
            colour = over(colour, share * inside(patch, 0.35) * edge, paint)
        return self._globules(colour, y, x, outline), edge

    def _globules(self, colour: np.ndarray, y: Field, x: Field, outline: Field) -> np.ndarray:
        """Dots and globules of all sizes at the border."""
        theta, out = self.shapes.normal(0.8, 0.7, 14), self.size * self.shapes.uniform(0.6, 1.0, 14)
        dots = _spots(self.shapes, theta, out, 0.015, 0.045)
        return over(colour, 0.85 * lookup(dots, y, x) * inside(outline / 1.1, 0.1), BLACK)

    def _keratosis(self, skin: np.ndarray, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Stuck on and sharply cut: waxy ridges and fissures, white milia-like cysts, dark comedo-like openings."""
        outline = blob(self.shapes, y, x, (0, 0), (self.size, self.size * self.oval), rough=0.06)
        lesion = inside(outline, 0.04)
        wax = WAX * np.exp(0.5 * np.log(self.brown / BROWN))
        relief, clouds = lookup(self.relief, y, x), lookup(self.clouds, y, x)
        colour = over(skin, 0.92 * lesion, wax * (1 + 0.12 * relief)[..., None])
        colour = over(colour, 0.55 * lesion * np.exp(-((clouds / 0.16) ** 2)), 0.5 * wax)
        count = 26 + int(14 * self.extent)
        theta, out = self.shapes.uniform(0, 2 * np.pi, count), 0.85 * self.size * np.sqrt(self.shapes.random(count))
        cysts = _spots(self.shapes, theta[::2], out[::2] * self.oval, 0.02, 0.042)
        plugs = _spots(self.shapes, theta[1::2], out[1::2] * self.oval, 0.02, 0.042)
        colour = over(colour, 0.85 * lookup(cysts, y, x), MILIUM)
        return over(colour, 0.85 * lookup(plugs, y, x), 0.3 * wax), inside(outline, 0.1)

    def _network(self, y: Field, x: Field, uneven: float) -> Field:
        """Lines of a pigment network: a honeycomb, bent by noise."""
        v = y + uneven * lookup(self.clouds, y, x)
        u = x + uneven * lookup(self.clouds, -x, y)
        k = 2 * np.pi / self.mesh
        waves = np.cos(k * u) + np.cos(k * (0.5 * u + 0.866 * v)) + np.cos(k * (0.5 * u - 0.866 * v))
        return np.clip(0.55 - waves, 0, 1.2) / 1.2


def _spots(rng: np.random.Generator, theta: np.ndarray, out: np.ndarray, least: float, most: float) -> Field:
    """Small ovals at polar coordinates theta, out, of radii from least to most."""
    count = len(theta)
    across = rng.uniform(least, most, count)
    shape = [out * np.sin(theta), out * np.cos(theta), across, across * rng.uniform(0.8, 1.4, count), theta]
    return polygons(CANVAS, outlines(rng, np.stack(shape, axis=1), 0.05), [1.0] * count)


def _hairs(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some dark hairs across the image, or none."""
    size = colour.shape[0]
    lines: list[Stroke] = []
    for _ in range(max(0, int(rng.normal(2, 4)))):
        down, right, heading, length = rng.uniform((-1, -1, 0, 0.5), (1, 1, 2 * np.pi, 1.5)).tolist()
        lines.append(wander(rng, (down, right), heading, length, 0.014, bend=0.08, steps=12))
    return over(colour, 0.75 * strokes(size, lines), BLACK)
