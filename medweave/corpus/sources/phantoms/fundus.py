"""Colour fundus photograph: a red-orange disc with optic disc, macula and the arcades of the retinal vessels."""

from __future__ import annotations

import numpy as np

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    Point,
    Stroke,
    blob,
    blur,
    colour_tone,
    ellipse,
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
    tree,
)

ANATOMY = "eye"
FINDINGS = ("normal", "diabetic retinopathy", "glaucoma", "drusen")
LEVELS = (0.14, 0.27, 0.36, 0.47, 0.56, 0.78)
RETINA = np.array([0.78, 0.36, 0.14])
BLOOD = np.array([0.52, 0.12, 0.06])
NERVE = np.array([0.92, 0.56, 0.28])
CUP = np.array([1.0, 0.93, 0.75])
LIPID = np.array([1.0, 0.92, 0.5])
DRUSE = np.array([0.97, 0.75, 0.36])
CANVAS = 192


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """A fundus photograph with one finding, uint8 [s, s, 3]."""
    eye = Eye(patient, finding)
    y, x = posed(image, size, turn=0.08, zoom=0.04, shift=0.05)
    retina, lesion = eye.retina(y, x)
    lit = 1 + 0.12 * smooth(image, size, 0.4)
    grain = image.normal(0, 0.012, (size, size, 3))
    field = ellipse(*plane(size), (0, 0), (image.uniform(0.9, 0.97),) * 2)
    lit = lit * (1 - 0.35 * np.clip(field, 0, 1) ** 3)
    seen = blur(retina, image.uniform(0.002, 0.005)) * lit[..., None] + grain
    shown = colour_tone(image, seen, LEVELS, spread=0.17, region=field < 1)
    return Phantom(pixels(shown * inside(field, 0.03)[..., None]), (lesion > 0.4) & (field < 1))


class Eye:
    """One patient's eye. Temporal is +x before `side` mirrors it."""

    def __init__(self, rng: np.random.Generator, finding: str) -> None:
        self.finding = finding
        self.side = 1 if rng.random() < 0.5 else -1
        self.pigment = hue(rng, 0.15)
        self.disc: Point = (rng.normal(0, 0.03), -rng.uniform(0.4, 0.48))
        self.radius = rng.uniform(0.2, 0.25)
        self.cup = rng.uniform(0.22, 0.4)
        self.fovea: Point = (rng.uniform(0.0, 0.08), rng.uniform(0.3, 0.38))
        self.vessels = _vessels(rng, self.disc)
        self.choroid, self.mottle = smooth(rng, CANVAS, 0.03), smooth(rng, CANVAS, 0.008)
        self.shapes = rng
        self.extent, self.place = rng.random(), rng.random(2)
        if finding == "glaucoma":
            self.cup = 0.7 + 0.17 * self.extent

    def retina(self, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Colour [s, s, 3], and how far a pixel is lesion (0..1)."""
        x = x * self.side
        colour = (
            RETINA
            * self.pigment
            * (1 + 0.02 * lookup(self.choroid, y, x) + 0.02 * lookup(self.mottle, y, x))[..., None]
        )
        macula = np.exp(-((ellipse(y, x, self.fovea, (0.2, 0.2))) ** 2))
        colour = colour * (1 - 0.38 * macula[..., None])
        lesion = np.zeros_like(y)
        if self.finding == "drusen":
            colour, lesion = self._drusen(colour, y, x)
        if self.finding == "diabetic retinopathy":
            colour, lesion = self._retinopathy(colour, y, x)
        colour = self._disc(colour, y, x)
        pale = 1 - 0.45 * inside(ellipse(y, x, self.disc, (self.radius,) * 2), 0.3)
        colour = over(colour, 0.8 * pale * lookup(self.vessels, y, x), BLOOD * self.pigment)
        if self.finding == "glaucoma":
            lesion = inside(ellipse(y, x, self.disc, (self.cup * self.radius,) * 2), 0.1)
        return colour, lesion

    def _disc(self, colour: np.ndarray, y: Field, x: Field) -> np.ndarray:
        disc = blob(self.shapes, y, x, self.disc, (1.05 * self.radius, 0.95 * self.radius), rough=0.02)
        cup = blob(self.shapes, y, x, self.disc, (1.08 * self.cup * self.radius, self.cup * self.radius), rough=0.03)
        colour = over(colour, 0.35 * inside(disc / 1.15, 0.2) - 0.35 * inside(disc, 0.1), BLOOD)
        colour = over(colour, inside(disc, 0.12), NERVE)
        return over(colour, 0.95 * inside(cup, 0.2), CUP)

    def _drusen(self, colour: np.ndarray, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Round, soft, yellowish deposits that crowd around the fovea."""
        count = 22 + int(25 * self.extent)
        lesion = lookup(_spots(self.shapes, self.shapes.normal(self.fovea, 0.17, (count, 2)), 0.02, 0.048, 0.05), y, x)
        return over(colour, 0.8 * lesion, DRUSE), lesion

    def _retinopathy(self, colour: np.ndarray, y: Field, x: Field) -> tuple[np.ndarray, Field]:
        """Microaneurysms, dot and blot haemorrhages, and clusters or part rings of hard exudates."""
        rng, count = self.shapes, 16 + int(18 * self.extent)
        out, theta = 0.85 * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
        bleeds = np.stack([out * np.sin(theta), 0.1 + out * np.cos(theta)], axis=1)
        blots = _spots(rng, bleeds[: count // 3], 0.03, 0.06, 0.14)
        dark = lookup(np.maximum(blots, _spots(rng, bleeds[count // 3 :], 0.015, 0.024, 0.1)), y, x)
        rings = []
        for middle in rng.normal(self.fovea, 0.22, (2 + int(2 * self.extent), 2)):
            theta = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(0.2, 0.5, 9))
            reach = rng.uniform(0.1, 0.15, 9)
            rings.append(middle + np.stack([reach * np.sin(theta), reach * np.cos(theta)], axis=1))
        hard = lookup(_spots(rng, np.concatenate(rings), 0.012, 0.032, 0.15), y, x)
        colour = over(colour, 0.9 * dark, 0.75 * BLOOD * self.pigment)
        return over(colour, 0.95 * hard, LIPID), np.maximum(dark, hard)


def _spots(rng: np.random.Generator, centres: np.ndarray, least: float, most: float, rough: float) -> Field:
    """Soft spots at centres [m, 2], of radii from least to most."""
    count = len(centres)
    across = rng.uniform(least, most, count)
    shape = np.stack([across, across * rng.uniform(0.8, 1.3, count), rng.uniform(0, np.pi, count)], axis=1)
    return blur(polygons(CANVAS, outlines(rng, np.concatenate([centres, shape], axis=1), rough), [1.0] * count), 0.004)


def _vessels(rng: np.random.Generator, disc: Point) -> Field:
    """Arteries and veins: two temporal arcades that sweep around the macula, two nasal branches, small ones between."""
    lines: list[Stroke] = []
    for up in (-1, 1):
        for offset, width in ((0.0, 0.032), (0.09, 0.024)):
            lines += _arcade(rng, disc, up, rng.uniform(0.42, 0.55) + offset, width)
        lines += tree(rng, disc, np.pi - up * rng.uniform(0.4, 0.9), 0.3, 0.024, thin=0.011)
        lines += tree(rng, disc, up * rng.uniform(0.15, 0.35), 0.22, 0.012, thin=0.01)
        lines += tree(rng, disc, -up * rng.uniform(1.5, 1.9), 0.3, 0.02, thin=0.01)
    return blur(strokes(CANVAS, lines), 0.002)


def _arcade(rng: np.random.Generator, disc: Point, up: int, height: float, width: float) -> list[Stroke]:
    """A main vessel on half an ellipse around the macula, with branches to both sides."""
    theta = np.linspace(np.pi, 0.35, 15)
    y = disc[0] - up * height * np.sin(theta) + rng.normal(0, 0.006, 15).cumsum()
    x = 0.42 + 0.86 * np.cos(theta) + rng.normal(0, 0.006, 15).cumsum()
    x[0], y[0] = disc[1], disc[0]
    lines = [Stroke(np.stack([y, x], axis=1)[i : i + 3], width * (1 - 0.045 * i)) for i in range(13)]
    for i in range(3, 13, 2):
        along = np.arctan2(y[i + 1] - y[i], x[i + 1] - x[i])
        side = 1 if (i // 2) % 2 else -1
        reach = 0.2 if side * up < 0 else 0.16
        lines += tree(rng, (y[i], x[i]), along + side * rng.uniform(0.5, 0.9), reach, 0.5 * width, thin=0.01)
    return lines
