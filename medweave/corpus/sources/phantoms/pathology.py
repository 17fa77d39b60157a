"""Colon histology in H&E: glands and nuclei absorb light by Beer-Lambert with the colours of the two stains.

Stain vectors after Ruifrok and Johnston, 2001. Concentrations are fields [s, s]; nuclei are small outlines.
"""

from __future__ import annotations

import numpy as np

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    Point,
    blob,
    colour_tone,
    fractal,
    inside,
    outlines,
    pixels,
    plane,
    polygons,
    smooth,
)

ANATOMY = "colon"
FINDINGS = ("normal", "adenocarcinoma", "inflammation", "necrosis")
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.12, 0.95, 0.25])
LEVELS = (0.24, 0.46, 0.58, 0.7, 0.8, 0.96)


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """A field of colon mucosa with one finding, uint8 [s, s, 3]."""
    tissue = Tissue(patient, image, finding, size)
    haematoxylin, eosin, lesion = tissue.stained()
    light = np.exp(-haematoxylin[..., None] * _stain(image, HAEMATOXYLIN) - eosin[..., None] * _stain(image, EOSIN))
    return Phantom(pixels(colour_tone(image, light, LEVELS, spread=0.2)), lesion > 0.5)


Nucleus = tuple[float, ...]
"""y, x, radius across, radius along, turn, darkness, roughness of the outline."""


class Tissue:
    """One field of view; the patient sets magnification and the habit of glands and nuclei, the image their places."""

    def __init__(self, patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> None:
        self.finding, self.size, self.rng = finding, size, image
        self.gland = patient.uniform(0.26, 0.38)
        self.nucleus = patient.uniform(0.024, 0.032)
        self.atypia = patient.uniform(0.6, 1.0)
        self.mucin = patient.uniform(0.4, 0.9)
        self.fibres = patient.uniform(0.05, 0.13)
        self.cells = patient.integers(60, 110)
        self.y, self.x = plane(size)
        self.clouds = smooth(image, size, 0.02)
        self.eosin = 0.5 + self.fibres * fractal(image, size, 1.1)
        self.haze = np.full((size, size), 0.08)
        self.glands = np.zeros((size, size))
        self.lesion = self._region()
        self.nuclei: list[Nucleus] = []

    def stained(self) -> tuple[Field, Field, Field]:
        """Concentrations of haematoxylin and eosin, and how far a pixel is lesion (0..1)."""
        for centre in self._centres():
            sick = self._sick(centre)
            if sick and self.finding == "adenocarcinoma":
                self._cancer(centre)
            elif not (sick and self.finding == "necrosis"):
                self._crypt(centre)
        if self.finding == "necrosis":
            self._necrosis()
        self._stroma()
        chromatin = self._chromatin() * (1 + 0.25 * smooth(self.rng, self.size, 0.008))
        return (
            np.maximum(self.haze + 1.4 * chromatin, 0),
            np.maximum(self.eosin * (1 - 0.3 * chromatin), 0.02),
            self.lesion,
        )

    def _region(self) -> Field:
        if self.finding == "normal":
            return np.zeros((self.size, self.size))
        cy, cx = self.rng.uniform(-0.45, 0.45, 2)
        reach = self.rng.uniform(0.75, 1.3)
        return inside(blob(self.rng, self.y, self.x, (cy, cx), (reach, reach), rough=0.2), 0.1)

    def _centres(self) -> list[Point]:
        """Glands on a shaken hexagonal lattice that reaches over the border."""
        step = 2.3 * self.gland
        turn, shift = self.rng.uniform(0, np.pi), self.rng.uniform(-0.5, 0.5, 2)
        rows = range(-4, 5)
        lattice = np.array(
            [((i + shift[0]) * 0.87 * step, (j + shift[1] + 0.5 * (i % 2)) * step) for i in rows for j in rows]
        )
        lattice += self.rng.normal(0, 0.1 * step, lattice.shape)
        cosine, sine = np.cos(turn), np.sin(turn)
        places = np.stack(
            [cosine * lattice[:, 0] - sine * lattice[:, 1], sine * lattice[:, 0] + cosine * lattice[:, 1]], 1
        )
        return [(cy, cx) for cy, cx in places.tolist() if max(abs(cy), abs(cx)) < 1 + self.gland]

    def _crypt(self, centre: Point) -> None:
        """A round gland: a ring of basal nuclei, pale mucin, an open lumen."""
        rng, r = self.rng, self.gland * self.rng.uniform(0.8, 1.05)
        radii, angle = (r, r * rng.uniform(0.7, 1.15)), rng.uniform(0, np.pi)
        near = self._near(centre, 1.3 * r)
        outline = blob(rng, self.y[near], self.x[near], centre, radii, angle, rough=0.035)
        gland = inside(outline, 0.06)
        goblets = np.clip(0.7 + 0.7 * self.clouds[near], 0, 1) * inside(outline / 0.78, 0.1)
        lumen = inside(outline / rng.uniform(0.2, 0.38), 0.2)
        self.eosin[near] += gland * (0.5 - self.eosin[near]) - self.mucin * 0.4 * goblets
        self.haze[near] += 0.06 * self.mucin * goblets
        self._open(near, gland, lumen)
        self._ring(centre, radii, angle, layers=1, wild=0.0)

    def _cancer(self, centre: Point) -> None:
        """A crowded, broken gland: piled up large dark nuclei of all shapes, slits for lumens."""
        rng, r = self.rng, self.gland * self.rng.uniform(1.0, 1.35)
        radii, angle = (r, r * rng.uniform(0.55, 0.95)), rng.uniform(0, np.pi)
        near = self._near(centre, 1.6 * r)
        y, x = self.y[near], self.x[near]
        gland = inside(blob(rng, y, x, centre, radii, angle, rough=0.16), 0.06)
        lumen = np.zeros_like(y)
        for _ in range(rng.integers(1, 4)):
            place = (centre[0] + rng.normal(0, 0.25 * r), centre[1] + rng.normal(0, 0.25 * r))
            slit = blob(rng, y, x, place, (0.14 * r, 0.34 * r), rng.uniform(0, np.pi), rough=0.15)
            lumen = np.maximum(lumen, inside(slit, 0.25))
        self.eosin[near] += gland * (0.56 - self.eosin[near])
        self.haze[near] += 0.16 * gland
        self._open(near, gland, lumen)
        self._ring(centre, radii, angle, layers=3, wild=self.atypia)

    def _open(self, near: tuple[slice, slice], gland: Field, lumen: Field) -> None:
        self.eosin[near] *= 1 - 0.92 * lumen
        self.haze[near] *= 1 - 0.9 * lumen
        self.glands[near] = np.maximum(self.glands[near], gland)

    def _ring(self, centre: Point, radii: Point, angle: float, layers: int, wild: float) -> None:
        """Nuclei along a gland's border, their long axes pointing inwards."""
        rng, cosine, sine = self.rng, np.cos(angle), np.sin(angle)
        for layer in range(layers):
            reach = 0.88 - 0.2 * layer
            count = int(2 * np.pi * reach * np.sqrt(radii[0] * radii[1]) / (self.nucleus * (2.2 + 0.5 * layer)))
            theta = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.04 + 0.1 * wild, count)
            out = reach * (1 + rng.normal(0, 0.03 + 0.1 * wild, count))
            dy, dx = out * radii[0] * np.sin(theta), out * radii[1] * np.cos(theta)
            grown = self.nucleus * (1 + 0.45 * wild) * np.exp(rng.normal(0, 0.1 + 0.25 * wild, count))
            down, right = cosine * dy - sine * dx, cosine * dx + sine * dy
            towards = np.arctan2(down, right) + rng.normal(0, 0.15 + 0.8 * wild, count)
            dark, rough = rng.uniform(0.6, 0.85, count), np.full(count, 0.05 + 0.16 * wild)
            self._add(centre[0] + down, centre[1] + right, 0.7 * grown, 1.25 * grown, towards, dark, rough)

    def _stroma(self) -> None:
        """Spindle cells between the glands; crowds of lymphocytes where there is inflammation."""
        rng = self.rng
        for place in rng.uniform(-1, 1, (self.cells, 2)).tolist():
            if _at(self.glands, place) < 0.3 and not (self.finding == "necrosis" and self._sick(place)):
                along = self.nucleus * rng.uniform(1.1, 1.5)
                self.nuclei.append((*place, 0.45 * self.nucleus, along, rng.uniform(0, np.pi), 0.55, 0.05))
        for place in rng.uniform(-1, 1, (900 if self.finding == "inflammation" else 0, 2)).tolist():
            if self._sick(place) and rng.random() < (0.9 if _at(self.glands, place) < 0.3 else 0.08):
                across = 0.72 * self.nucleus * rng.uniform(0.85, 1.1)
                self.nuclei.append((*place, across, across, 0.0, rng.uniform(0.75, 0.95), 0.03))

    def _necrosis(self) -> None:
        """Structureless pink, ghosts of cells, dust of broken nuclei."""
        rng = self.rng
        ghosts = 0.06 * fractal(rng, self.size, 0.9) - 0.12 * np.exp(-((self.clouds / 0.25) ** 2))
        self.eosin += self.lesion * (0.72 + ghosts - self.eosin)
        self.haze += self.lesion * 0.04
        for place in rng.uniform(-1, 1, (300, 2)).tolist():
            if self._sick(place):
                across = self.nucleus * rng.uniform(0.12, 0.4)
                self.nuclei.append((*place, across, across, 0.0, rng.uniform(0.4, 0.9), 0.2))

    def _add(self, *columns: np.ndarray) -> None:
        self.nuclei += [tuple(row) for row in np.stack(columns, axis=1).tolist()]

    def _chromatin(self) -> Field:
        """All nuclei, drawn over one another."""
        table = np.array(self.nuclei)
        return polygons(self.size, outlines(self.rng, table[:, :5], table[:, 6:]), table[:, 5].tolist())

    def _near(self, centre: Point, reach: float) -> tuple[slice, slice]:
        """The rows and columns within `reach` of a point."""
        half = self.size / 2
        ends = [(max(int((c - reach + 1) * half), 0), max(int((c + reach + 1) * half) + 1, 0)) for c in centre]
        return slice(*ends[0]), slice(*ends[1])

    def _sick(self, place: Point) -> bool:
        return _at(self.lesion, place) > 0.5


def _stain(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A stain as a laboratory happens to prepare it: stronger or weaker, of another shade."""
    return colour * np.exp(rng.normal(0, 0.35) + rng.normal(0, 0.22, 3))


def _at(field: Field, place: Point) -> float:
    size = field.shape[0]
    row, column = (min(max(int((v + 1) * size / 2), 0), size - 1) for v in place)
    return float(field[row, column])
