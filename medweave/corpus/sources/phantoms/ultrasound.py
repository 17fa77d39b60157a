"""Breast ultrasound: scatterers seen through a point spread along diverging beams, attenuated and compressed.

Beams are columns and depth is rows until the last step; lesions that attenuate more or less than their surroundings
cast shadows or enhancement behind them. z: depth below the skin, x: across, both in half widths of the body.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    blob,
    ellipse,
    fractal,
    inside,
    lookup,
    pixels,
    plane,
    smooth,
    tone,
)

ANATOMY = "breast"
FINDINGS = ("normal", "cyst", "malignant mass")
LEVELS = (0.03, 0.2, 0.36, 0.55, 0.68, 0.88)
DEPTH = 1.5
TEXTURE = 128


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """A B-mode image with one finding, uint8 [s, s]."""
    breast = Breast(patient, finding)
    probe = Probe.held(image)
    z, x = probe.beams(size)
    echo, loss, lesion = breast.tissue(z + image.normal(0, 0.03), x + image.normal(0, 0.06))
    received = _received(echo, loss, z, image)
    row, column, seen = probe.converted(size)
    shown = ndimage.map_coordinates(received, [row, column], order=1, mode="nearest")
    shown = np.where(seen, tone(image, shown, LEVELS, spread=0.22, region=seen), 0.01)
    mask = ndimage.map_coordinates(lesion, [row, column], order=1, mode="nearest") * seen
    return Phantom(pixels(shown), mask > 0.5)


class Probe(NamedTuple):
    """A curved array: radius of its face, half its opening angle, and where it is held."""

    radius: float
    half: float

    @classmethod
    def held(cls, rng: np.random.Generator) -> Probe:
        """A probe as it happens to be: from nearly linear to a wide fan."""
        radius = float(rng.uniform(0.9, 3.0))
        return cls(radius, float(rng.uniform(0.6, 0.75)) / radius)

    def beams(self, size: int) -> tuple[Field, Field]:
        """z and x of every sample, depth along rows and beams along columns."""
        depth, across = (plane(size)[0] + 1) * (DEPTH / 2), plane(size)[1] * self.half
        far = self.radius + depth
        return far * np.cos(across) - self.radius * np.cos(across), far * np.sin(across)

    def converted(self, size: int) -> tuple[Field, Field, np.ndarray]:
        """Row and column of the beam sample behind every pixel, and which pixels lie in the fan."""
        y, x = plane(size)
        top = self.radius * np.cos(self.half)
        middle, half = (self.radius + DEPTH + top) / 2, (self.radius + DEPTH - top) / 2
        scale = 1.02 * max((self.radius + DEPTH) * np.sin(self.half), half)
        down, right = middle + y * scale, x * scale
        depth = (np.hypot(down, right) - self.radius) / DEPTH
        across = np.arctan2(right, down) / self.half
        seen = (depth > 0) & (depth < 1) & (np.abs(across) < 1)
        return depth * size - 0.5, (across + 1) * (size / 2) - 0.5, seen


class Breast:
    """One patient's breast under the probe: layers from the skin to the chest wall."""

    def __init__(self, rng: np.random.Generator, finding: str) -> None:
        self.finding = finding
        self.fat, self.gland = rng.uniform(0.2, 0.42), rng.uniform(0.95, 1.2)
        self.density = rng.uniform(0.25, 0.6)
        self.waves, self.clouds, self.septa = (smooth(rng, TEXTURE, scale) for scale in (0.12, 0.05, 0.06))
        self.grain = fractal(rng, TEXTURE, 1.2)
        self.rib = rng.choice([0.0, 1.0]), rng.uniform(-0.5, 0.5)
        self.shapes = rng
        self.extent, self.place = rng.random(), rng.random(2)

    def tissue(self, z: Field, x: Field) -> tuple[Field, Field, Field]:
        """Echo strength, attenuation along the beam, and how far a sample is lesion (0..1)."""
        v, u = z - 0.75, x / 1.3
        wave = lookup(self.waves, 0 * z, u)
        clouds, septa, grain = (lookup(field, v, u) for field in (self.clouds, self.septa, self.grain))
        fat, gland = self.fat + 0.07 * wave, self.gland + 0.05 * lookup(self.waves, 0 * z + 0.5, u)
        echo = 0.1 + 0.5 * np.exp(-((septa / 0.12) ** 2))
        below = _step(z - fat)
        echo = echo + below * (self.density * np.exp(0.8 * clouds + 0.3 * grain) - echo)
        muscle = _step(z - gland)
        fibres = 0.12 + 0.2 * np.maximum(np.sin(34 * z + 3 * wave + 2 * x), 0) ** 4
        echo = (
            echo
            + muscle * (fibres - echo)
            + 1.2 * np.exp(-(((z - gland) / 0.02) ** 2))
            + 1.5 * np.exp(-((z / 0.045) ** 2))
        )
        loss = 0.5 + 0.25 * below * np.maximum(1 + 0.3 * clouds, 0)
        echo, loss = self._rib(z, x, echo, loss)
        return self._lesion(z, x, echo, loss)

    def _rib(self, z: Field, x: Field, echo: Field, loss: Field) -> tuple[Field, Field]:
        there, across = self.rib
        arc = ellipse(z, x, (self.gland + 0.32, across), (0.1, 0.22))
        return echo + there * 2 * np.exp(-(((arc - 1) / 0.2) ** 2)) * (z < self.gland + 0.3), loss + 9 * there * inside(
            arc
        )

    def _lesion(self, z: Field, x: Field, echo: Field, loss: Field) -> tuple[Field, Field, Field]:
        centre = (0.55 + 0.25 * self.place[0], -0.3 + 0.6 * self.place[1])
        reach = 0.14 + 0.1 * self.extent
        if self.finding == "cyst":
            oval = blob(self.shapes, z, x, centre, (reach, 1.35 * reach), rough=0.02)
            inner = inside(oval, 0.06)
            wall = np.exp(-(((oval - 1.02) / 0.05) ** 2)) * (np.abs(z - centre[0]) > 0.5 * reach)
            return echo * (1 - inner) + 0.0008 * inner + 0.9 * wall, loss * (1 - 0.97 * inner), inner
        if self.finding == "malignant mass":
            mass = blob(self.shapes, z, x, centre, (1.25 * reach, 0.95 * reach), rough=0.3)
            inner, halo = inside(mass, 0.15), inside(mass / 1.3, 0.5)
            specks = inner * (self.shapes.random(z.shape) > 0.993) * 2.5
            dark = 0.035 * np.exp(0.5 * lookup(self.grain, z - 0.75, x))
            echo = echo + 0.5 * halo * (0.7 - echo)
            return echo + inner * (dark - echo) + specks, loss + 2.6 * inner, inner
        return echo, loss, np.zeros_like(z)


def _received(echo: Field, loss: Field, z: Field, rng: np.random.Generator) -> Field:
    """The envelope of the echoes in decibels, after time-gain compensation."""
    size = z.shape[0]
    scatter = rng.standard_normal((2, size, size)) * np.sqrt(echo)
    axial, lateral = rng.uniform(0.5, 0.8) * size / 160, rng.uniform(1.0, 1.7) * size / 160
    heard = np.hypot(*(ndimage.gaussian_filter(part, (axial, lateral)) for part in scatter))
    strength = np.exp(-2 * np.cumsum(loss, axis=0) * (DEPTH / size))
    gain = np.exp(2 * (0.62 + rng.normal(0, 0.08)) * z + 0.15 * np.sin(rng.uniform(2, 6) * z + rng.uniform(0, 6)))
    floor = 10 ** rng.uniform(-3.2, -2.4)
    return 20 * np.log10(heard * strength * gain + floor)


def _step(depth: Field, border: float = 0.02) -> Field:
    return inside(1 - depth, border)
