"""A teacher's preprocessing: as a transformers processor, a timm configuration or a card tells it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from medweave.errors import UserError
from medweave.models.preprocess import FILTERS, Preprocess
from medweave.models.reaching import reaching
from medweave.models.teachers.catalogue import UNKNOWN, Card, image_of
from medweave.models.whole import need

PILLOW_FILTERS = {2: "bilinear", 3: "bicubic"}
BYTE = 1 / 255
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def of_processor(source: str | Path) -> Preprocess:
    """What the image processor of a folder or of the hub does. Raises UserError for one that we cannot repeat."""
    need(source, *PROCESSOR_FILES)
    with reaching(str(source), "preprocessing"):
        processor = AutoImageProcessor.from_pretrained(str(source), use_fast=False)
    _check_steps(processor, source)
    shortest, edge = _sides(processor, source)
    size = _crop(processor, edge) if shortest else edge
    if size > edge:
        raise _not_ours("it cuts out more than it resizes to", source)
    plain = not getattr(processor, "do_normalize", True)
    return Preprocess(
        size=size,
        policy="crop" if shortest else "squash",
        interpolation=_filter(PILLOW_FILTERS.get(int(processor.resample)), source),
        mean=(0.0, 0.0, 0.0) if plain else tuple(processor.image_mean),
        std=(1.0, 1.0, 1.0) if plain else tuple(processor.image_std),
        edge=None if size == edge else edge,
        downward=shortest,
    )


def of_timm(config: Mapping[str, Any], where: str | Path) -> Preprocess:
    """What timm's own evaluation transform does for a `pretrained_cfg`. Raises UserError for one we cannot repeat."""
    channels, *sides = config["input_size"]
    mode, size = config.get("crop_mode") or "center", sides[0]
    edge = math.floor(size / (config.get("crop_pct") or 1.0))
    if channels != 3 or sides[0] != sides[1] or mode not in ("center", "squash") or (mode == "squash" and edge != size):
        raise _not_ours(f"input {config['input_size']}, crop mode {mode}", where)
    return Preprocess(
        size=size,
        policy="crop" if mode == "center" else "squash",
        interpolation=_filter(config.get("interpolation"), where),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        edge=None if edge == size else edge,
    )


def of_card(card: Card) -> Preprocess:
    """What the card says, for files that say nothing. Raises UserError for a card that leaves something open."""
    side = image_of(card)
    needed = ("size", "policy", "interpolation", "mean", "std") + (("edge",) if side.policy == "crop" else ())
    unknown = [name for name in needed if getattr(side, name) is UNKNOWN]
    if unknown:
        raise UserError(
            f"neither the files nor the card tell how {card.name} sees images", todo=f"unknown: {', '.join(unknown)}"
        )
    known: dict[str, Any] = {name: getattr(side, name) for name in needed}
    if side.edge == side.size:
        known["edge"] = None
    return Preprocess(**known, square_first=side.square_first, grey=side.grey)


def _check_steps(processor: Any, source: str | Path) -> None:
    if not getattr(processor, "do_resize", True):
        raise _not_ours("it does not resize", source)
    if not getattr(processor, "do_rescale", True) or not math.isclose(processor.rescale_factor, BYTE, rel_tol=1e-3):
        raise _not_ours("it does not divide by 255", source)
    if getattr(processor, "do_pad", False):
        raise _not_ours("it pads", source)


def _sides(processor: Any, source: str | Path) -> tuple[bool, int]:
    """Whether the shorter side is meant, and its length or that of both."""
    size = dict(processor.size)
    shortest, height, width = (size.get(name) for name in ("shortest_edge", "height", "width"))
    if shortest:
        return True, int(shortest)
    if not height or height != width:
        raise _not_ours("no square input", source)
    if _crop(processor, int(height)) != height:
        raise _not_ours("it cuts the centre out of a squashed image", source)
    return False, int(height)


def _crop(processor: Any, edge: int) -> int:
    """Side of the square that is cut out; the edge where nothing is."""
    if not getattr(processor, "do_center_crop", False):
        return edge
    crop = dict(processor.crop_size)
    return int(crop["height"]) if crop.get("height") == crop.get("width") else edge + 1


def _filter(name: Any, where: str | Path) -> str:
    if name not in FILTERS:
        raise _not_ours("neither bicubic nor bilinear", where)
    return str(name)


def _not_ours(what: str, where: str | Path) -> UserError:
    return UserError(f"its preprocessing cannot be repeated here: {what}", where=where)
