"""Augmentation that keeps a picture's diagnosis true: what may be changed depends on the modality, in `ALLOWED`.

Geometry is one crop, one anti-aliased scaling and, where the picture is rotated, one rotation with its surroundings;
tone is one table of 256 greys, the same for all channels, so that no hue moves. Arrays are uint8; s = size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from medweave.corpus.resize import Policy, placed, scaled
from medweave.recipe import Section

Share = Annotated[float, Field(gt=0, le=1)]


class AugmentRecipe(Section):
    """Random changes of a training picture. Chances are shares of pictures; every range is drawn from evenly."""

    area: tuple[Share, Share] = Field((0.7, 1.0), description="least and most of the area that a random crop keeps")
    stretch: float = Field(1.1, ge=1, le=2, description="most change of width against height, as a factor")
    rotation: float = Field(8.0, ge=0, le=180, description="most degrees of a small rotation, either way")
    rotate: float = Field(0.5, ge=0, le=1, description="chance of a small rotation")
    mirror: bool = Field(True, description="mirror and quarter-turn where the modality has no side and no upright")
    brightness: float = Field(0.1, ge=0, le=1, description="most shift of all greys, as a share of white")
    contrast: float = Field(0.2, ge=0, lt=1, description="most change of contrast around the middle grey")
    gamma: float = Field(
        0.2, ge=0, le=2, description="most change of gamma, as a power of e; only where colour is free"
    )
    blur: float = Field(
        0.1, ge=0, le=1, description="chance of a loss of resolution, to between a half and nine tenths"
    )
    noise: float = Field(0.15, ge=0, le=1, description="chance of light noise, the same in all channels")
    border: float = Field(0.1, ge=0, le=1, description="chance of black margins, as collimators and scanners leave")
    erase: float = Field(0.0, ge=0, le=1, description="chance of a grey patch; off by default: it can hide the finding")

    @model_validator(mode="after")
    def _least_first(self) -> AugmentRecipe:
        if self.area[0] > self.area[1]:
            raise ValueError("area: give the least share first")
        return self


@dataclass(frozen=True)
class Allowed:
    """mirror: left-right, up-down and quarter turns change nothing a reader would say. tone: share of the tone changes.

    gamma: greys are free to bend, for they depend on window and exposure; not where colour is the diagnosis.
    """

    mirror: bool
    tone: float
    gamma: bool


GREYS = Allowed(mirror=False, tone=1.0, gamma=True)  # sides count: heart, liver, laterality, probe mark
CELLS = Allowed(mirror=True, tone=0.5, gamma=False)  # a slide has no upright; stain is the diagnosis
SIDED = Allowed(mirror=False, tone=0.5, gamma=False)  # colour counts, and so does the side
ALLOWED = {
    **dict.fromkeys(("xray", "ct", "mri", "ultrasound", "mammography", "oct", "pet"), GREYS),
    **dict.fromkeys(("pathology", "cytology", "microscopy", "dermoscopy"), CELLS),
    "fundus": SIDED,  # a mirrored right eye is a left eye: the disc lies on the side of the nose
    "endoscopy": SIDED,  # larynx and joints have sides
    "other": SIDED,  # nothing is known: the most careful choice
}


@dataclass(frozen=True)
class Box:
    """The part of a picture, in its pixels, that becomes the square. It may reach beyond the picture."""

    top: float
    left: float
    height: float
    width: float


def augment(
    array: np.ndarray,
    size: int,
    recipe: AugmentRecipe,
    generator: np.random.Generator,
    modality: str,
    policy: Policy = "squash",
) -> np.ndarray:
    """uint8 [h,w] or [h,w,3] -> uint8 [s,s,3], the same for the same generator.

    policy: how a picture that is no square becomes one, as in `resize`; under `crop` the square lies anywhere in it.
    """
    allowed = ALLOWED[modality]
    table = _tones(recipe, allowed, generator)
    square = _geometry(array, size, recipe, generator, policy, table)
    if recipe.mirror and allowed.mirror:
        square = _turned(square, generator)
    square = _disturbed(square, recipe, generator)
    if square.ndim == 2:
        square = np.repeat(square[..., None], 3, axis=2)
    return np.ascontiguousarray(square)


def _geometry(
    array: np.ndarray,
    size: int,
    recipe: AugmentRecipe,
    generator: np.random.Generator,
    policy: Policy,
    table: np.ndarray,
) -> np.ndarray:
    """A random part of the picture as [s,s] or [s,s,3], perhaps rotated a little; black beyond the picture's edge."""
    box = _random_box(array.shape[0], array.shape[1], recipe, generator, policy)
    degrees = generator.uniform(-recipe.rotation, recipe.rotation) if generator.random() < recipe.rotate else 0.0
    radians = math.radians(degrees)
    reach = abs(math.cos(radians)) + abs(math.sin(radians))
    top, bottom = _visible(box.top, box.height, reach, array.shape[0])
    left, right = _visible(box.left, box.width, reach, array.shape[1])
    down, across = size / box.height, size / box.width
    part = array[top:bottom, left:right]
    small = scaled(part, max(1, round(part.shape[0] * down)), max(1, round(part.shape[1] * across)))
    small = np.take(table, small)
    corner = (top - box.top) * down, (left - box.left) * across
    if degrees == 0:
        return placed(small, round(corner[0]), round(corner[1]), size)
    return _rotated(small, corner, radians, size)


def _random_box(height: int, width: int, recipe: AugmentRecipe, generator: np.random.Generator, policy: Policy) -> Box:
    """crop: a square anywhere in the picture. pad: a square in the padded picture. squash: the picture's own shape."""
    shorter, longer = min(height, width), max(height, width)
    tall, wide = {"crop": (shorter, shorter), "pad": (longer, longer), "squash": (height, width)}[policy]
    around = (longer, longer) if policy == "pad" else (height, width)
    share = generator.uniform(*recipe.area)
    stretch = math.exp(generator.uniform(-1, 1) * math.log(recipe.stretch))
    box_height, box_width = min(tall, tall * math.sqrt(share * stretch)), min(wide, wide * math.sqrt(share / stretch))
    return Box(
        top=(height - around[0]) / 2 + generator.random() * (around[0] - box_height),
        left=(width - around[1]) / 2 + generator.random() * (around[1] - box_width),
        height=box_height,
        width=box_width,
    )


def _visible(start: float, length: float, reach: float, limit: int) -> tuple[int, int]:
    """The whole pixels of one axis that a box, grown to `reach` times about its middle, shares with the picture."""
    middle, half = start + length / 2, length * reach / 2
    first = min(max(round(middle - half), 0), limit - 1)
    return first, max(min(round(middle + half), limit), first + 1)


def _rotated(picture: np.ndarray, corner: tuple[float, float], radians: float, size: int) -> np.ndarray:
    """The square after a rotation about its middle, of a picture whose upper left corner lies at `corner` (y, x)."""
    import torch  # slow to import, and recipes are read without it

    height, width = picture.shape[:2]
    steps = torch.arange(size, dtype=torch.float32) + (0.5 - size / 2)
    sine, cosine = steps * math.sin(radians), steps * math.cos(radians)
    grid = torch.empty(1, size, size, 2)  # where each pixel comes from: (x, y), the picture's edges being -1 and 1
    torch.sub(cosine + (size / 2 - corner[1]), sine[:, None], out=grid[0, ..., 0]).mul_(2 / width).sub_(1)
    torch.add(sine, (cosine + (size / 2 - corner[0]))[:, None], out=grid[0, ..., 1]).mul_(2 / height).sub_(1)
    planes = torch.from_numpy(picture.reshape(height, width, -1)).permute(2, 0, 1)[None].float()
    turned = torch.nn.functional.grid_sample(planes, grid, mode="bilinear", align_corners=False)
    values = np.stack(list(turned.round_().to(torch.uint8)[0].numpy()), axis=-1)
    return values.reshape(size, size, *picture.shape[2:])


def _turned(square: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One of the eight ways a square can lie."""
    turned = np.rot90(square, int(generator.integers(4)))
    return turned[:, ::-1] if generator.random() < 0.5 else turned


def _tones(recipe: AugmentRecipe, allowed: Allowed, generator: np.random.Generator) -> np.ndarray:
    """Gamma, contrast and brightness as one table, uint8 [256]."""
    shift, slope, bend = generator.uniform(-1, 1, 3) * (recipe.brightness, recipe.contrast, recipe.gamma) * allowed.tone
    greys = np.arange(256) / 255
    greys = greys ** math.exp(bend) if allowed.gamma else greys
    return (255 * ((greys - 0.5) * (1 + slope) + 0.5 + shift)).clip(0, 255).round().astype(np.uint8)


def _disturbed(square: np.ndarray, recipe: AugmentRecipe, generator: np.random.Generator) -> np.ndarray:
    """Lower resolution, noise, margins and a patch, each with its own chance."""
    blur, noise, border, erase = generator.random(4) < (recipe.blur, recipe.noise, recipe.border, recipe.erase)
    if blur:
        side = round(len(square) * generator.uniform(0.5, 0.9))
        square = scaled(scaled(np.ascontiguousarray(square), side, side), len(square), len(square))
    if noise:
        square = _noisy(square, generator)
    if border:
        top, bottom, left, right = generator.integers(0, 1 + len(square) // 12, 4)
        square[:top], square[len(square) - bottom :] = 0, 0
        square[:, :left], square[:, len(square) - right :] = 0, 0
    if erase:
        high, wide = generator.integers(len(square) // 10, len(square) // 4, 2)
        top, left = generator.integers(0, len(square) - high), generator.integers(0, len(square) - wide)
        square[top : top + high, left : left + wide] = generator.integers(0, 256)
    return square


def _noisy(square: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Noise of 1.4 to 4 grey levels, the same in all channels: counts of eight coin throws, nearly Gaussian."""
    throws = np.bitwise_count(np.frombuffer(generator.bytes(square.shape[0] * square.shape[1]), np.uint8))
    steps = np.rint((np.arange(9) - 4) * generator.uniform(1, 3)).astype(np.int16)
    shift = np.take(steps, throws).reshape(*square.shape[:2], *[1] * (square.ndim - 2))
    return (square + shift).clip(0, 255).astype(np.uint8)
