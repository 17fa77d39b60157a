"""Colonoscopy: a folded tube in perspective under the endoscope's own light, with wet highlights."""

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
    fractal,
    hue,
    inside,
    lookup,
    over,
    pixels,
    plane,
    posed,
    smooth,
    strokes,
    tree,
)

ANATOMY = "colon"
FINDINGS = ("normal", "polyp", "ulcer")
LEVELS = (0.06, 0.25, 0.42, 0.56, 0.66, 0.85)
MUCOSA = np.array([0.88, 0.5, 0.4])
VESSEL = np.array([0.66, 0.22, 0.2])
POLYP = np.array([0.86, 0.36, 0.32])
FIBRIN = np.array([0.96, 0.84, 0.5])
FLUSH = np.array([0.72, 0.16, 0.14])
CANVAS = 160
Scene = tuple[np.ndarray, Field, Field, Field]
"""Colour of the wall [s, s, 3], its relief, the light that returns from it, and how far a pixel is lesion (0..1)."""


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """A colonoscopic view with one finding, uint8 [s, s, 3]."""
    colon = Colon(patient, finding)
    y, x = posed(image, size, turn=0.5, zoom=0.08, shift=0.06, bend=0.03)
    colour, height, light, lesion = colon.view(y, x)
    gloss = _gloss(height, image) * np.clip(2 * light, 0, 1)
    colour = colour * light[..., None] + gloss[..., None] + image.normal(0, 0.01, (size, size, 3))
    v, u = plane(size)
    corner = np.abs(v) + np.abs(u) - image.uniform(1.55, 1.8)
    frame = inside(1 + corner, 0.03) if image.random() < 0.5 else inside(ellipse(v, u, (0, 0), (1.02, 1.08)), 0.03)
    shown = colour_tone(image, colour, LEVELS, spread=0.2, region=frame > 0.5)
    return Phantom(pixels(shown * frame[..., None]), (lesion > 0.5) & (frame > 0.5))


class Colon:
    """A stretch of one patient's colon, seen along its axis."""

    def __init__(self, rng: np.random.Generator, finding: str) -> None:
        self.finding = finding
        self.mucosa = MUCOSA * hue(rng, 0.15)
        theta, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.4)
        self.lumen: Point = (out * np.sin(theta), out * np.cos(theta))
        self.step, self.phase = rng.uniform(0.55, 0.8), rng.uniform(0, 1)
        self.corners, self.turn = rng.choice([2.0, 3.0, 3.0]), rng.uniform(0, 2 * np.pi)
        self.pinch = rng.uniform(0.1, 0.3)
        self.vessels = _vessels(rng)
        self.waves, self.relief = smooth(rng, CANVAS, 0.08), fractal(rng, CANVAS, 1.6)
        self.shapes = rng
        self.extent, self.place = rng.random(), rng.random(2)

    def view(self, y: Field, x: Field) -> Scene:
        """The wall with its folds, vessels and lesion."""
        waves, relief = lookup(self.waves, y, x), lookup(self.relief, y, x)
        dy, dx = y - self.lumen[0], x - self.lumen[1]
        theta = np.arctan2(dy, dx)
        across = np.hypot(dy, dx) * (1 + self.pinch * np.cos(self.corners * (theta - self.turn))) + 0.02 * waves
        depth = -np.log(np.maximum(across, 0.03))
        ring = depth / self.step + self.phase + 0.06 * waves
        fold = ring - np.floor(ring)
        crest = np.exp(-((np.minimum(fold, 1 - fold) / 0.13) ** 2))
        behind = np.maximum(np.clip(1 - fold / 0.45, 0, 1), np.clip(1 + (fold - 1) / 0.1, 0, 1))
        light = np.clip(across / 0.75, 0, 1) ** 0.75 * (1 - 0.42 * behind) + 0.25 * crest * np.clip(across / 0.3, 0, 1)
        light = light * (0.9 + 0.05 * waves)
        colour = self.mucosa * (1 + 0.04 * relief)[..., None]
        colour = over(colour, 0.5 * lookup(self.vessels, y, x) * (1 - crest), VESSEL)
        height = 0.5 * crest + 0.06 * relief
        if self.finding == "polyp":
            return self._polyp(colour, height, light, y, x)
        if self.finding == "ulcer":
            return self._ulcer(colour, height, light, y, x, relief)
        return colour, height, light, np.zeros_like(y)

    def _polyp(self, colour: np.ndarray, height: Field, light: Field, y: Field, x: Field) -> Scene:
        """A dome that stands out of the wall: bright towards the light, dark at its rim, with a shadow behind."""
        centre, reach = self._spot(), 0.2 + 0.15 * self.extent
        outline = blob(self.shapes, y, x, centre, (reach, 0.9 * reach), rough=0.06)
        inner = inside(outline, 0.08)
        shadow = inside(ellipse(y, x, (centre[0] * 0.86, centre[1] * 0.86), (1.2 * reach, 1.15 * reach)), 0.4)
        away = ((y - centre[0]) * centre[0] + (x - centre[1]) * centre[1]) / (reach * np.hypot(*centre))
        swell = np.sqrt(np.clip(1 - outline**2, 0, 1))
        lobes = 0.06 * lookup(self.relief, 2 * y - centre[0], 2 * x - centre[1])
        light = light * (1 - 0.45 * shadow)
        light = light + inner * ((0.3 + 0.55 * swell + 0.14 * away + lobes) - light)
        colour = over(colour, 0.75 * inner, POLYP)
        return colour, height * (1 - inner) + 1.1 * inner * (swell + lobes), light, inner

    def _ulcer(self, colour: np.ndarray, height: Field, light: Field, y: Field, x: Field, relief: Field) -> Scene:
        """A punched-out crater: yellow-white fibrin, a raw red irregular rim, bleeding specks."""
        centre, reach = self._spot(), 0.2 + 0.15 * self.extent
        outline = blob(self.shapes, y, x, centre, (reach, 0.8 * reach), self.shapes.uniform(0, 3), rough=0.11)
        base, rim = inside(outline, 0.12), inside(outline / 1.4 + 0.05 * relief, 0.4)
        colour = over(colour, 0.75 * rim, FLUSH)
        colour = over(colour, 0.95 * base, FIBRIN * (1 + 0.07 * relief)[..., None])
        specks = base * np.clip(relief - 1.0, 0, 1)
        colour = over(colour, specks, FLUSH)
        light = light + 0.8 * rim * (np.maximum(light, 0.55) - light)
        return colour, height * (1 - base) + 0.15 * base * relief - 0.3 * base, light * (1 - 0.12 * base), base

    def _spot(self) -> Point:
        """Where a lesion sits on the wall: off the lumen, on its far side from the border."""
        theta = 2 * np.pi * self.place[0]
        out = 0.42 + 0.16 * self.place[1]
        return out * np.sin(theta), out * np.cos(theta)


def _vessels(rng: np.random.Generator) -> Field:
    """The fine branching vessels below the mucosa."""
    lines: list[Stroke] = []
    for start in rng.uniform(-1, 1, (9, 2)).tolist():
        lines += tree(rng, (start[0], start[1]), rng.uniform(0, 2 * np.pi), 0.35, 0.022, thin=0.012)
    return blur(strokes(CANVAS, lines), 0.004)


def _gloss(height: Field, rng: np.random.Generator) -> Field:
    """Highlights where the wet surface happens to mirror the light."""
    size = height.shape[0]
    surface = blur(height, 0.012) + 0.035 * smooth(rng, size, 0.025)
    slope_y, slope_x = np.gradient(surface, 2 / size)
    tilt = np.hypot(slope_y - rng.normal(0, 0.3), slope_x - rng.normal(0, 0.3))
    return 0.75 * np.exp(-((tilt / 0.22) ** 2)) * np.clip(smooth(rng, size, 0.05) - 0.6, 0, 1)
