"""Axial abdominal CT: attenuation of a slice, its parallel projections with counting noise, filtered back projection.

The slice is seen from the feet: the liver lies on the image's left. p: pixels of the grid, a: angles, d: detector bins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft, ndimage, sparse

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    bent,
    blob,
    ellipse,
    inside,
    lookup,
    pixels,
    plane,
    posed,
    smooth,
    tone,
)

ANATOMY = "abdomen"
FINDINGS = ("normal", "liver lesion", "kidney stone", "ascites")
LEVELS = (0.02, 0.2, 0.42, 0.6, 0.72, 0.95)
GRID, ANGLES = 128, 110
WATER = 3.2
"""Attenuation of water along the width of half an image."""


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """An axial CT slice with one finding, uint8 [s, s]."""
    body = Body(patient, finding)
    y, x = posed(image, GRID, turn=0.06, zoom=0.05, shift=0.04)
    hounsfield, lesion, trunk = body.slice(y, x, image)
    seen = _scanned(hounsfield, image)
    high = image.uniform(190, 320)
    shown = tone(image, np.clip(seen, image.uniform(-200, -120), high), LEVELS, spread=0.2, region=trunk)
    fine_y, fine_x = plane(size)
    return Phantom(pixels(lookup(shown, fine_y, fine_x)), lookup(lesion, fine_y, fine_x) > 0.3)


class Body:
    """One patient's upper abdomen in Hounsfield units."""

    def __init__(self, rng: np.random.Generator, finding: str) -> None:
        self.finding = finding
        self.depth, self.width = rng.uniform(0.68, 0.76), rng.uniform(0.86, 0.96)
        self.fat = rng.uniform(0.06, 0.15)
        self.contrast = rng.uniform(0.3, 1)
        self.liver = rng.uniform(0.9, 1.1, 2)
        self.kidney = rng.uniform(-0.04, 0.04, 4)
        self.gas = rng.uniform(0.2, 0.9)
        self.extent, self.place = rng.random(), rng.random(2)
        self.side = 1 if rng.random() < 0.5 else -1
        self.shapes = rng

    def slice(self, y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field, np.ndarray]:
        """Hounsfield units, how far a pixel is lesion (0..1), and which pixels are the trunk."""
        y, x = bent(self.shapes, y, x, 0.025)
        skin = blob(self.shapes, y, x, (0, 0), (self.depth, self.width), rough=0.015)
        wall = ellipse(y, x, (0, 0), (self._cavity[0] + 0.13, self._cavity[1] + 0.08))
        cavity = blob(self.shapes, y, x, (-0.06, 0), self._cavity, rough=0.02)
        hounsfield = np.full_like(y, -1000.0)
        _fill(hounsfield, skin, -100 + 8 * smooth(rng, GRID, 0.03), border=0.02)
        _fill(hounsfield, wall, 55 + 8 * smooth(rng, GRID, 0.02))
        _fill(hounsfield, cavity, -95 + 10 * smooth(rng, GRID, 0.03))
        lesion = np.zeros_like(y)
        if self.finding == "ascites":
            lesion = self._fluid(hounsfield, cavity)
        self._bones(hounsfield, y, x)
        liver = self._organs(hounsfield, y, x, cavity)
        self._bowel(hounsfield, y, x, cavity)
        if self.finding == "liver lesion":
            lesion = self._liver_lesion(hounsfield, y, x) * inside(liver, 0.1)
        if self.finding == "kidney stone":
            lesion = self._stone(hounsfield, y, x)
        return hounsfield, lesion, skin < 1

    def _fluid(self, hounsfield: Field, cavity: Field) -> Field:
        """Free fluid in the cavity's outer part: organs drawn afterwards lie in it."""
        level = 0.9 - 0.35 * self.extent
        lesion = inside(cavity, 0.05) * inside(1 + (level - cavity) * 4, 0.4)
        hounsfield += lesion * (10 - hounsfield)
        return lesion

    def _bones(self, hounsfield: Field, y: Field, x: Field) -> None:
        _fill(hounsfield, ellipse(y, x, (0.36, 0), (0.13, 0.15)), 240)
        _fill(hounsfield, ellipse(y, x, (0.35, 0), (0.1, 0.12)), 150)
        _fill(hounsfield, ellipse(y, x, (0.53, 0), (0.09, 0.04)), 300)
        for side in (-1, 1):
            _fill(hounsfield, ellipse(y, x, (0.47, 0.15 * side), (0.035, 0.12), 0.25 * side), 280)
            _fill(hounsfield, ellipse(y, x, (0.44, 0.27 * side), (0.1, 0.12)), 55)
        _fill(hounsfield, ellipse(y, x, (0.47, 0), (0.04, 0.05)), 30)
        down, right = self._cavity[0] + 0.08, self._cavity[1] + 0.05
        for angle in np.linspace(0.25, 2 * np.pi + 0.25, 13)[:-1] + 0.3 * self.place[0]:
            cy, cx = down * np.sin(angle), right * np.cos(angle)
            if abs(cx) > 0.3:
                _fill(hounsfield, ellipse(y, x, (cy, cx), (0.03, 0.075), np.arctan2(cx / right, -cy / down)), 380)

    def _organs(self, hounsfield: Field, y: Field, x: Field, cavity: Field) -> Field:
        """Liver, spleen, kidneys and great vessels; the liver's outline is returned."""
        bright = self.contrast
        texture = 5 * lookup(smooth(self.shapes, GRID, 0.02), y, x)
        right = blob(self.shapes, y, x, (-0.02, -0.4), (0.4 * self.liver[0], 0.34 * self.liver[1]), 0.15, rough=0.05)
        lobe = blob(self.shapes, y, x, (-0.26, -0.12), (0.16, 0.32 * self.liver[1]), 0.12, rough=0.05)
        liver = np.maximum(np.minimum(right, lobe), cavity / self._gap)
        _fill(hounsfield, liver, 60 + 55 * bright + texture)
        for vein in self.shapes.uniform(-1, 1, (4, 2)):
            spot = ellipse(y, x, (-0.05 + 0.22 * vein[0], -0.42 + 0.2 * vein[1]), (0.022, 0.05), 3 * vein[0])
            _fill(hounsfield, np.maximum(spot, liver / 0.95), 60 + 100 * bright, 0.5)
        spleen = np.maximum(blob(self.shapes, y, x, (0.1, 0.56), (0.24, 0.15), -0.25, rough=0.05), cavity / self._gap)
        _fill(hounsfield, spleen, 55 + 65 * bright + texture)
        for side in (-1, 1):
            cy, cx = self._kidney(side)
            kidney = ellipse(y, x, (cy, cx), (0.18, 0.125), 0.4 * side)
            _fill(hounsfield, kidney, 40 + 130 * bright + texture)
            sinus = ellipse(y, x, (cy - 0.02, cx - 0.05 * side), (0.075, 0.05), 0.4 * side)
            _fill(hounsfield, sinus, 10 + 60 * bright)
        _fill(hounsfield, ellipse(y, x, (0.17, 0.05), (0.06, 0.06)), 45 + 160 * bright)
        _fill(hounsfield, ellipse(y, x, (0.15, -0.12), (0.055, 0.07)), 45 + 90 * bright)
        return liver

    def _bowel(self, hounsfield: Field, y: Field, x: Field, cavity: Field) -> None:
        stomach = np.maximum(blob(self.shapes, y, x, (-0.22, 0.36), (0.15, 0.24), 0.4, rough=0.06), cavity / self._gap)
        _fill(hounsfield, stomach, 45)
        _fill(hounsfield, stomach / 0.85, 20 + 15 * smooth(self.shapes, GRID, 0.03))
        air = np.maximum(stomach / 0.82, 1 + (y + 0.38 - 0.18 * self.gas) / 0.2)
        _fill(hounsfield, air, -900, 0.1)
        for loop in self.shapes.uniform(-1, 1, (5, 3)):
            gut = blob(self.shapes, y, x, (0.02 + 0.12 * loop[0], 0.16 + 0.2 * loop[1]), (0.065, 0.08), rough=0.08)
            _fill(hounsfield, gut, 40 + 30 * self.contrast)
            _fill(hounsfield, gut / 0.6, -400 if loop[2] > 0.5 else 15, 0.3)

    def _liver_lesion(self, hounsfield: Field, y: Field, x: Field) -> Field:
        """One to three ill-defined dark masses, darkest in the middle."""
        lesion = np.zeros_like(y)
        for reach in (0.11 + 0.07 * self.extent) * np.array([1, 0.6, 0.6])[: 1 + int(3 * self.place[0])]:
            centre = (self.shapes.uniform(-0.2, 0.18), self.shapes.uniform(-0.55, -0.28))
            spot = blob(self.shapes, y, x, centre, (reach, 1.1 * reach), rough=0.12)
            _fill(hounsfield, spot, 20, 0.25)
            _fill(hounsfield, spot / 0.5, 5, 0.4)
            lesion = np.maximum(lesion, inside(spot, 0.1))
        return lesion

    def _stone(self, hounsfield: Field, y: Field, x: Field) -> Field:
        """A stone in a pelvis that it has dilated."""
        cy, cx = self._kidney(self.side)
        pelvis = ellipse(y, x, (cy, cx - 0.03 * self.side), (0.11, 0.085), 0.4 * self.side)
        _fill(hounsfield, pelvis, 8, 0.3)
        centre = (cy - 0.05 + 0.1 * self.place[0], cx + (-0.06 + 0.05 * self.place[1]) * self.side)
        spot = blob(self.shapes, y, x, centre, (0.032 + 0.025 * self.extent, 0.04 + 0.03 * self.extent), rough=0.1)
        _fill(hounsfield, spot, 750, 0.3)
        return inside(spot, 0.1)

    def _kidney(self, side: int) -> tuple[float, float]:
        shift = self.kidney[:2] if side > 0 else self.kidney[2:]
        return 0.32 + float(shift[0]), (0.42 + float(shift[1])) * side

    @property
    def _cavity(self) -> tuple[float, float]:
        """Radii of the abdominal cavity along y and x."""
        return self.depth - self.fat - 0.13, self.width - 1.3 * self.fat - 0.08

    @property
    def _gap(self) -> float:
        """How far out in the cavity organs reach: fluid pushes them inwards."""
        return 0.86 - 0.2 * self.extent if self.finding == "ascites" else 0.97


def _fill(hounsfield: Field, radius: Field, value: float | Field, border: float = 0.12) -> None:
    share = inside(radius, border)
    hounsfield += share * (value - hounsfield)


def _scanned(hounsfield: Field, rng: np.random.Generator) -> Field:
    """The slice as a scanner measures it: counts behind the body at each angle, reconstructed by back projection."""
    matrix, ramp = _scanner()
    scale = WATER * 2 / GRID
    paths = (matrix @ (np.maximum(1 + hounsfield / 1000, 0) * scale).ravel()).reshape(ANGLES, -1)
    counts = np.exp(rng.uniform(12.6, 14.5))
    noise = rng.standard_normal(paths.shape) * np.sqrt(np.exp(paths) / counts)
    filtered = fft.irfft(fft.rfft(paths + noise, n=2 * GRID, axis=1) * ramp, n=2 * GRID, axis=1)[:, :GRID]
    back = (matrix.T @ filtered.ravel()).reshape(GRID, GRID) * (np.pi / ANGLES)
    sharp = ndimage.gaussian_filter(back, rng.uniform(0.3, 0.7))
    return (sharp / scale - 1) * 1000


@lru_cache(maxsize=1)
def _scanner() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Projection matrix [a * d, p] of parallel rays (each pixel shared by two bins), and the ramp filter [d + 1]."""
    y, x = (field.ravel() for field in plane(GRID))
    inner = np.flatnonzero(y * y + x * x < 0.98)
    angles = np.arange(ANGLES) * (np.pi / ANGLES)
    bins = (np.outer(np.cos(angles), x[inner]) + np.outer(np.sin(angles), y[inner]) + 1) * (GRID / 2) - 0.5
    low = np.clip(np.floor(bins).astype(np.int64), 0, GRID - 2)
    share = bins - low
    rows = low + np.arange(ANGLES)[:, None] * GRID
    columns = np.broadcast_to(inner, rows.shape)
    entries = np.concatenate([(1 - share).ravel(), share.ravel()])
    places = (np.concatenate([rows.ravel(), rows.ravel() + 1]), np.concatenate([columns.ravel()] * 2))
    matrix = sparse.csr_matrix((entries, places), shape=(ANGLES * GRID, GRID * GRID))
    return matrix, _ramp()


def _ramp() -> np.ndarray:
    """Band-limited ramp (Ram-Lak), sampled in space so that the mean comes out right, with a Hann roll-off."""
    offset = np.minimum(np.arange(2 * GRID), 2 * GRID - np.arange(2 * GRID))
    kernel = np.where(offset % 2 == 1, -1 / (np.pi * np.maximum(offset, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    roll = 0.5 + 0.5 * np.cos(np.pi * np.arange(GRID + 1) / (1.3 * GRID))
    return fft.rfft(kernel).real * roll
