"""Axial brain MRI: tissues with the grey values of a weighting, bias field, and noise added in k-space."""

from __future__ import annotations

import numpy as np
from scipy import fft

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    blob,
    blur,
    ellipse,
    inside,
    lookup,
    outlines,
    pixels,
    polygons,
    posed,
    smooth,
    tone,
)

ANATOMY = "brain"
FINDINGS = ("normal", "glioma", "white matter lesions", "hydrocephalus")
LEVELS = (0.03, 0.25, 0.42, 0.6, 0.75, 0.95)
TISSUES = ("fat", "muscle", "fluid", "grey", "white", "lesion", "rim")
WEIGHTINGS = {
    "FLAIR": (0.7, 0.35, 0.06, 0.52, 0.42, 0.92, 0.95),
    "T2": (0.6, 0.25, 1.0, 0.55, 0.38, 0.85, 0.8),
    "T1": (1.0, 0.42, 0.12, 0.45, 0.66, 0.26, 0.98),
}

NUCLEI = ((-0.17, 0.17, 0.1, 0.04, 0.3), (-0.05, 0.28, 0.15, 0.055, -0.25), (0.08, 0.11, 0.1, 0.075, 0.3))
"""Caudate, putamen and thalamus: y, x, radius along y, radius along x, turn."""


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """An axial slice at the level of the lateral ventricles with one finding, uint8 [s, s]."""
    head = Head(patient, finding, size)
    y, x = posed(image, size, turn=0.08, zoom=0.05, shift=0.03)
    signal, lesion, skin = head.slice(y, x)
    signal = signal * np.exp(image.uniform(0.03, 0.15) * smooth(image, size, 0.3))
    seen = _acquired(signal, image)
    return Phantom(pixels(tone(image, seen, LEVELS, spread=0.2, region=skin)), lesion > 0.4)


class Head:
    """One patient's head, and the weighting it was imaged with."""

    def __init__(self, rng: np.random.Generator, finding: str, size: int) -> None:
        self.finding = finding
        self.weighting = rng.choice(list(WEIGHTINGS), p=[0.5, 0.3, 0.2])
        self.levels = dict(zip(TISSUES, np.array(WEIGHTINGS[self.weighting]) + rng.normal(0, 0.025, 7), strict=True))
        self.length, self.breadth = rng.uniform(0.86, 0.94), rng.uniform(0.68, 0.76)
        self.scalp, self.skull = rng.uniform(0.04, 0.07), rng.uniform(0.045, 0.075)
        self.ventricle = rng.uniform(0.75, 1.15)
        self.folds, self.ripple = smooth(rng, size, 0.02), smooth(rng, size, 0.035)
        self.side = 1 if rng.random() < 0.5 else -1
        self.shapes = rng
        self.extent, self.place = rng.random(), rng.random(2)
        if finding == "hydrocephalus":
            self.ventricle = 1.75 + 0.6 * self.extent

    def slice(self, y: Field, x: Field) -> tuple[Field, Field, np.ndarray]:
        """Signal, how far a pixel is lesion (0..1), and which pixels are the head."""
        levels = self.levels
        skin = ellipse(y, x, (0, 0), (self.length, self.breadth))
        bone, inner = skin / (1 - self.scalp), skin / (1 - self.scalp - self.skull)
        signal = levels["fat"] * inside(skin, 0.03)
        signal = _over(signal, inside(bone, 0.03), 0.06)
        signal = _over(signal, inside(inner, 0.03), levels["fluid"])
        dy, dx = (y, x) if self.finding != "glioma" else self._pushed(y, x)
        cortex = skin / (0.965 - self.scalp - self.skull)
        signal = self._brain(signal, dy, dx, cortex)
        ventricles = self._ventricles(dy, dx)
        signal = _over(signal, self._deep(dy, dx) * (1 - ventricles), levels["grey"])
        signal = _over(signal, ventricles, levels["fluid"])
        lesion = np.zeros_like(y)
        if self.finding == "hydrocephalus":
            lesion = ventricles
        elif self.finding == "glioma":
            signal, lesion = self._glioma(signal, y, x, cortex)
        elif self.finding == "white matter lesions":
            lesion = self._spots(y, x) * inside(cortex / 0.85, 0.05) * (1 - ventricles)
            signal = _over(signal, 0.95 * lesion, levels["lesion"])
        return signal, lesion, skin < 1

    def _brain(self, signal: Field, y: Field, x: Field, cortex: Field) -> Field:
        """White matter, a folded grey ribbon, and fluid in the furrows and between the hemispheres."""
        folds, ripple = lookup(self.folds, y, x), lookup(self.ripple, y, x)
        grey = inside(cortex, 0.03)
        furrow = np.exp(-((folds / 0.2) ** 2)) * np.clip((cortex - 0.72) / 0.15, 0, 1)
        white = inside((cortex + 0.05 * ripple + 0.09 * np.exp(-((folds / 0.5) ** 2))) / 0.86, 0.04)
        fissure = np.exp(-((x / 0.014) ** 2)) * (np.abs(y) > 0.36 * np.sqrt(self.ventricle))
        signal = _over(signal, grey, self.levels["grey"])
        signal = _over(signal, white * grey, self.levels["white"] + 0.012 * ripple)
        return _over(signal, np.clip(0.75 * furrow + fissure, 0, 1) * grey, self.levels["fluid"])

    def _ventricles(self, y: Field, x: Field) -> Field:
        wide = self.ventricle
        long = np.sqrt(wide)
        share = np.zeros_like(y)
        for side in (-1, 1):
            front = ellipse(y, x, (-0.2, 0.09 * side * long), (0.2 * long, 0.055 * wide), -0.25 * side)
            back = ellipse(y, x, (0.22, 0.14 * side * long), (0.2 * long, 0.055 * wide), 0.4 * side)
            share = np.maximum(share, np.maximum(inside(front, 0.2), inside(back, 0.2)))
        third = inside(ellipse(y, x, (0.02, 0), (0.09, 0.018 * wide**1.5)), 0.4)
        return np.maximum(share, third)

    def _deep(self, y: Field, x: Field) -> Field:
        share = np.zeros_like(y)
        shift = 0.06 * (np.sqrt(self.ventricle) - 1)
        for side in (-1, 1):
            for cy, cx, ry, rx, turn in NUCLEI:
                centre = (cy, (cx + shift) * side)
                share = np.maximum(share, inside(ellipse(y, x, centre, (ry, rx), turn * side), 0.2))
        return 0.8 * share

    def _pushed(self, y: Field, x: Field) -> tuple[Field, Field]:
        """The brain as a mass pushes it aside."""
        cy, cx = self._centre
        away = np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / 0.16))
        return y - 0.35 * away * (y - cy), x + 0.09 * self.side * away

    def _glioma(self, signal: Field, y: Field, x: Field, cortex: Field) -> tuple[Field, Field]:
        """A ring-like, partly necrotic mass in a field of oedema."""
        reach = 0.15 + 0.09 * self.extent
        oedema = inside(blob(self.shapes, y, x, self._centre, (1.75 * reach, 1.6 * reach), rough=0.22), 0.2)
        mass = blob(self.shapes, y, x, self._centre, (reach, reach), rough=0.06)
        brain = inside(cortex / 0.97, 0.05)
        core = self.levels["fluid"] * 0.6 + 0.25
        water = 0.5 * (self.levels["lesion"] + self.levels["white"])
        signal = _over(signal, 0.85 * oedema * brain, water)
        signal = _over(signal, inside(mass, 0.12) * brain, self.levels["rim"])
        signal = _over(signal, inside(mass / 0.72 + 0.06 * lookup(self.ripple, y, x), 0.2) * brain, core)
        return signal, inside(mass, 0.12) * brain

    def _spots(self, y: Field, x: Field) -> Field:
        """Ovoid lesions around the ventricles and in the deep white matter."""
        rng, count = self.shapes, 7 + int(8 * self.extent)
        down, across = rng.uniform(-0.45, 0.45, count), rng.choice([-1, 1], count) * rng.uniform(0.17, 0.42, count)
        spots = [
            down,
            across,
            rng.uniform(0.028, 0.055, count),
            rng.uniform(0.028, 0.055, count),
            rng.uniform(-1, 1, count),
        ]
        ovals = outlines(rng, np.stack(spots, axis=1), 0.05)
        return lookup(blur(polygons(y.shape[0], ovals, [1.0] * count), 0.004), y, x)

    @property
    def _centre(self) -> tuple[float, float]:
        return -0.35 + 0.7 * float(self.place[0]), self.side * (0.3 + 0.1 * float(self.place[1]))


def _over(below: Field, share: Field, value: float | Field) -> Field:
    return below + share * (value - below)


def _acquired(signal: Field, rng: np.random.Generator) -> Field:
    """The magnitude image of a measured k-space: its outer part is not sampled, and noise is complex."""
    size = signal.shape[0]
    kspace = fft.fftshift(fft.fft2(signal))
    kept = round(size * rng.uniform(0.36, 0.48))
    middle = slice(size // 2 - kept, size // 2 + kept)
    measured = np.zeros_like(kspace)
    level = size * rng.uniform(0.015, 0.05)
    noise = rng.standard_normal((2, 2 * kept, 2 * kept))
    measured[middle, middle] = kspace[middle, middle] + level * (noise[0] + 1j * noise[1])
    return np.abs(fft.ifft2(fft.ifftshift(measured)))
