"""Frontal chest radiograph: attenuation of solids summed along the beam (Beer-Lambert), detected and displayed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medweave.corpus.sources.phantoms.fields import (
    Field,
    Phantom,
    Stroke,
    bent,
    blob,
    blur,
    dome,
    ellipse,
    fractal,
    inside,
    lookup,
    pixels,
    plane,
    posed,
    smooth,
    strokes,
    tone,
    tree,
    wander,
)

ANATOMY = "chest"
FINDINGS = ("normal", "pneumonia", "pleural effusion", "cardiomegaly", "pneumothorax")
LEVELS = (0.02, 0.16, 0.36, 0.62, 0.8, 0.95)
RIBS = 9


def draw(patient: np.random.Generator, image: np.random.Generator, finding: str, size: int) -> Phantom:
    """A frontal chest radiograph with one finding, uint8 [s, s]."""
    body = Body(patient, finding)
    y, x = posed(image, size, turn=0.04, zoom=0.06, shift=0.04)
    attenuation, lesion = body.project(y, x, image)
    film = tone(image, _detected(attenuation, image), LEVELS, spread=0.25)
    film = _marked(film, image)
    return Phantom(pixels(film), lesion > 0.3)


class Body:
    """One patient's chest: where the organs lie, in the coordinates of an unturned image."""

    def __init__(self, rng: np.random.Generator, finding: str) -> None:
        self.finding = finding
        self.breadth = rng.uniform(0.86, 1.1)
        self.height = rng.uniform(0.86, 1.1)
        self.fat = rng.uniform(0.02, 0.12)
        self.diaphragm = rng.uniform(0.42, 0.6, 2)
        self.rib_step, self.rib_slope = rng.uniform(0.13, 0.18), rng.uniform(0.05, 0.45)
        self.bone = rng.uniform(0.1, 0.2)
        self.breast = rng.choice([0.0, rng.uniform(0.06, 0.16)])
        self.heart = rng.uniform(0.27, 0.33)
        self.aorta = rng.uniform(0.05, 0.09)
        self.vessels = _vessels(rng)
        self.side = 1 if rng.random() < 0.5 else -1
        self.shapes = rng
        self.extent, self.place = rng.random(), rng.random(2)
        if finding == "cardiomegaly":
            self.heart = 0.45 + 0.12 * self.extent

    def project(self, y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field]:
        """Attenuation along the beam, and how much of it is the lesion's (0..1)."""
        y, x = bent(self.shapes, y / self.height, x / self.breadth, 0.03)
        floor = self._floor(y, x)
        left, right = self._lung(y, x, 1, floor), self._lung(y, x, -1, floor)
        air = left + right
        heart, mediastinum = self._heart(y, x), self._mediastinum(y, x)
        lesion, lost, line = self._lesion(y, x, left if self.side > 0 else right)
        air = air * (1 - lost) * (1 - 0.85 * np.clip(1.6 * heart, 0, 1)) * (1 - 0.85 * mediastinum)
        vessels = lookup(self.vessels, y, x) * np.clip(1.6 * air, 0, 1)
        if self.finding == "pneumothorax":
            vessels, air = vessels * (1 - lesion), air * (1 + 0.14 * lesion)
        if self.finding == "cardiomegaly":
            lesion = inside(1 - heart + 0.15, 0.3)
        organs = 0.13 * heart + 0.1 * mediastinum + 0.12 * vessels + 0.1 * line - 0.78 * air
        body = self._trunk(y, x) + organs + self._bones(y, x)
        return body + 0.012 * smooth(rng, y.shape[0], 0.06), lesion

    def _trunk(self, y: Field, x: Field) -> Field:
        shoulders = 0.78 + 0.26 * np.clip((y + 0.95) / 0.3, 0, 1)
        trunk = dome(ellipse(y, x, (0.2, 0), (1.7, 1.0)) / shoulders, 0.4)
        neck = dome(np.abs(x) / 0.3) * (y < -0.7)
        breasts = sum(dome(ellipse(y, x, (0.42, 0.48 * s), (0.3, 0.34))) for s in (-1, 1))
        belly = np.clip((y - 0.45) / 0.5, 0, 1)
        return np.maximum(trunk, 0.6 * neck) * (1 + self.fat) + self.breast * breasts + 0.2 * belly

    def _floor(self, y: Field, x: Field) -> Field:
        """Depth below the diaphragm's dome; the right one stands higher."""
        height = np.where(x > 0, self.diaphragm.max(), self.diaphragm.min() - 0.03)
        return y - height - 0.95 * (np.abs(np.abs(x) - 0.38) / 0.5) ** 2.2

    def _lung(self, y: Field, x: Field, side: int, floor: Field) -> Field:
        centre = (0.02, 0.42 * side)
        outline = ellipse(y, x, centre, (0.82, 0.36 + 0.06 * np.clip(y, -0.6, 0.5)), 0.08 * side)
        return dome(outline, 0.35) * inside(1 + floor, 0.06)

    def _heart(self, y: Field, x: Field) -> Field:
        width = self.heart
        main = dome(ellipse(y, x, (0.26, 0.1 + 0.35 * (width - 0.3)), (0.75 * width + 0.06, width), 0.5), 0.45)
        atrium = dome(ellipse(y, x, (0.22, -0.1 - 0.3 * (width - 0.3)), (0.24, 0.14)), 0.5)
        return np.maximum(main, 0.8 * atrium)

    def _mediastinum(self, y: Field, x: Field) -> Field:
        column = inside(np.abs(x) / (0.13 + 0.03 * y), 0.4)
        knob = inside(ellipse(y, x, (-0.3, 0.13), (self.aorta + 0.05, self.aorta)), 0.4)
        hila = sum(0.5 * inside(ellipse(y, x, (-0.04, 0.2 * s), (0.13, 0.07)), 1.0) for s in (-1, 1))
        trachea = inside(ellipse(y, x, (-0.75, 0), (0.5, 0.05)), 0.5)
        return np.clip(np.maximum(np.maximum(column, knob), hila) - 0.45 * trachea, 0, 1)

    def _bones(self, y: Field, x: Field) -> Field:
        bones = 0.9 * inside(np.abs(x) / 0.085, 0.3) * (0.8 + 0.2 * np.cos(2 * np.pi * y / 0.13))
        across = np.clip(np.abs(x) / 0.85, 0, 1)
        back = -0.82 + self.rib_slope * across - 0.5 * across * (1 - across)
        front = -0.6 + 0.44 * (1 - across) ** 1.5
        cage = (across < 1) & (across > 0.1)
        bones = bones + 0.75 * self._ribs(y - back) * cage
        bones = bones + 0.35 * self._ribs(y - front) * (cage & (across > 0.45))
        for side in (-1, 1):
            line = -0.7 + 0.12 * np.sin(3.2 * side * x - 0.5) - 0.12 * side * x
            bones = bones + 1.1 * _band(y - line, 0.035) * inside(np.abs(side * x - 0.4) / 0.36, 0.2)
        return self.bone * bones

    def _ribs(self, depth: Field) -> Field:
        """Evenly spaced ribs; depth: below the line of the first one."""
        number = np.clip(np.round(depth / self.rib_step), 0, RIBS - 1)
        return _band(depth - number * self.rib_step, 0.03)

    def _lesion(self, y: Field, x: Field, lung: Field) -> tuple[Field, Field, Field]:
        """The lesion (0..1), the share of the lung's air that it takes away, and the line of a detached pleura."""
        nothing = np.zeros_like(y)
        if self.finding == "pneumonia":
            lesion, lost = self._consolidation(y, x, lung)
            return lesion, lost, nothing
        if self.finding == "pleural effusion":
            rise = 0.35 * np.clip((self.side * x - 0.25) / 0.5, 0, 1) ** 2
            lesion = inside(1 + (0.42 - 0.5 * self.extent - rise - y) / 0.1, 0.5) * np.clip(3 * lung, 0, 1)
            return lesion, 0.97 * lesion, nothing
        if self.finding == "pneumothorax":
            gap = 0.1 + 0.14 * self.extent
            shrunken = ellipse(y, x, (0.02 + 0.8 * gap, (0.42 - 0.6 * gap) * self.side), (0.82 - gap, 0.36 - gap))
            outer = (lung > 0.1) & (self.side * x > 0.25)
            return inside(2 - shrunken, 0.05) * outer, nothing, _band(shrunken - 1, 0.04) * outer
        return nothing, nothing, nothing

    def _consolidation(self, y: Field, x: Field, lung: Field) -> tuple[Field, Field]:
        """A cloudy, ill-defined area of one lung, patchy with air that is left in it."""
        centre = (-0.3 + 0.65 * self.place[0], self.side * (0.3 + 0.25 * self.place[1]))
        reach = 0.2 + 0.12 * self.extent
        cloud = inside(blob(self.shapes, y, x, centre, (reach, 1.1 * reach), rough=0.15), 0.8)
        patchy = np.clip(0.75 + 0.35 * lookup(fractal(self.shapes, 96, 1.6), y, x), 0, 1)
        lesion = cloud * np.clip(3 * lung, 0, 1)
        return lesion, 0.95 * lesion * patchy


def _vessels(rng: np.random.Generator) -> Field:
    """Pulmonary vessels that branch from both hila."""
    lines: list[Stroke] = []
    for side in (0.0, np.pi):
        hilum = (-0.02, 0.16 if side == 0 else -0.16)
        for fan in np.linspace(-1.25, 1.25, 5):
            heading = side + (fan if side == 0 else -fan) + rng.normal(0, 0.1)
            lines += tree(rng, hilum, heading, rng.uniform(0.22, 0.32), 0.035, thin=0.014)
    return blur(strokes(160, lines), 0.004)


def _band(distance: Field, half: float) -> Field:
    """A long bone seen from the side: denser at its rims."""
    r = np.abs(distance) / half
    return dome(r, 0.5) * (0.6 + 0.4 * r * r)


def _detected(attenuation: Field, rng: np.random.Generator) -> Field:
    """Line integrals as a detector sees them: scatter, focal-spot blur and counting noise, log taken again."""
    counts = np.exp(rng.uniform(7.5, 9.5))
    primary = np.exp(-2.2 * attenuation)
    beam = primary + rng.uniform(0.02, 0.15) * blur(primary, 0.12)
    beam = ndimage.gaussian_filter(beam, rng.uniform(0.3, 0.9))
    noisy = beam + np.sqrt(np.maximum(beam, 1e-6) / counts) * rng.standard_normal(beam.shape)
    return -np.log(np.maximum(noisy, 1e-3))


def _marked(film: Field, rng: np.random.Generator) -> Field:
    """Side marker, electrode leads and collimator edges, as they happen to be."""
    size = film.shape[0]
    y, x = plane(size)
    if rng.random() < 0.6:
        corner = rng.normal([-0.85, 0.8], 0.03)
        bar = np.array([[-0.06, 0], [0.06, 0], [0.06, 0.06]]) + corner
        film = np.maximum(film, strokes(size, [Stroke(bar, 0.025)]))
    if rng.random() < 0.25:
        lead = wander(rng, (-1, rng.uniform(-0.6, 0.6)), rng.normal(1.6, 0.2), 1.6, 0.008, bend=0.12, steps=24)
        film = film + 0.2 * strokes(size, [lead])
    edge = rng.uniform(0.93, 1.1, 4)
    seen = (y > -edge[0]) & (y < edge[1]) & (x > -edge[2]) & (x < edge[3])
    return np.where(seen, film, 0.02)
