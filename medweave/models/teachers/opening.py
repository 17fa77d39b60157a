"""From a name of the catalogue to a model: found or fetched, opened by its family, held against its card."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from medweave.errors import RequestError, UserError
from medweave.models.preprocess import Preprocess
from medweave.models.teachers import places
from medweave.models.teachers.catalogue import UNKNOWN, Card, ImageSide, card
from medweave.models.teachers.pair import TransformersPair
from medweave.models.teachers.strict import config_in
from medweave.recipe import kinds

FAMILIES = "medweave.models.teachers.families"
FOLDER = "@"
TOLERANCE = 1e-3  # between a constant in the card and in the files


def open_teacher(reference: str) -> nn.Module:
    """The model of `NAME`, `NAME@FOLDER` (a local copy), or a card of one's own in a YAML file in place of the name.

    Raises RequestError for names that are not known, UserError for a copy that is not what the card says.
    """
    name, _, folder = reference.partition(FOLDER)
    known = card(name)
    family_of(known)
    return opened(known, places.folder_of(known, folder) if folder else places.fetched(known))


def opened(card: Card, folder: Path) -> nn.Module:
    """The model of a teacher's folder, in eval(). Raises UserError when files and card disagree."""
    family = family_of(card)
    if card.options and not hasattr(family, "Options"):
        raise RequestError(f"teachers of the family {card.family} have no options", where=f"card of {card.name}")
    model = family.open_teacher(card, folder)
    wrong = disagreements(card, model)
    if wrong:
        raise UserError(f"the card and the files of teacher {card.name} disagree", where=folder, todo="; ".join(wrong))
    model.facts = {**model.facts, **facts(card)}
    return model


def open_pair(source: str) -> TransformersPair:
    """A two-tower model in transformers' own format, of whatever family. source: a folder, or a name of the hub."""
    kind = config_in(source).model_type
    families = {name: importlib.import_module(f"{FAMILIES}.{name}") for name in kinds(FAMILIES)}
    pairs = {name: module.Pair for name, module in families.items() if hasattr(module, "Pair")}
    if kind not in pairs:
        raise RequestError(f"{source} is a {kind}", todo=f"known are: {', '.join(pairs)}")
    return pairs[kind](source)


def family_of(card: Card) -> Any:
    """The module that opens a card's files. Raises RequestError for a format without a loader."""
    if card.family is None:
        raise RequestError(f"there is no loader for {card.title}", todo=card.notes or "choose another teacher")
    if card.family not in kinds(FAMILIES):
        raise RequestError(f"no family {card.family!r}", todo=f"known are: {', '.join(kinds(FAMILIES))}")
    return importlib.import_module(f"{FAMILIES}.{card.family}")


def disagreements(card: Card, model: Any) -> list[str]:
    """Where what the card knows is not what the files say, a phrase each."""
    pairs: list[tuple[str, Any, Any]] = [("sides", card.sides, tuple(model.sides)), ("width", card.width, model.dim)]
    if card.image is not None and "images" in model.sides:
        pairs += _of_images(card.image, model.preprocess)
    if card.text is not None and "texts" in model.sides:
        pairs.append(("context", card.text.context, model.context))
        if card.text.pooling != "own":
            pairs.append(("pooling of tokens", card.text.pooling, getattr(model, "pooling", UNKNOWN)))
    if card.head is not None and len(model.sides) == 2:
        scale = UNKNOWN if model.logit_scale is None else model.logit_scale.exp().item()
        pairs += [("head", card.head.kind, model.kind), ("scale", card.head.scale, scale)]
    return [
        f"{what} is {ours} on the card and {theirs} in the files"
        for what, ours, theirs in pairs
        if not _same(ours, theirs)
    ]


def facts(card: Card) -> dict[str, Any]:
    """What an encoder tells of a teacher beyond its sizes."""
    binds = card.reaches_models_trained_on_outputs
    return {
        "teacher": card.name,
        "title": card.title,
        "domains": card.domains if card.domains is UNKNOWN else list(card.domains),
        "licence": str(card.licence),
        "licence_class": card.licence_class,
        "binds_students": None if binds is UNKNOWN else binds,
    }


def _of_images(side: ImageSide, told: Preprocess) -> list[tuple[str, Any, Any]]:
    names = ("size", "policy", "interpolation", "mean", "std", "grey", "square_first")
    pairs = [(name, getattr(side, name), getattr(told, name)) for name in names]
    return pairs + ([("edge", side.edge, told.edge or told.size)] if told.policy == "crop" else [])


def _same(ours: Any, theirs: Any) -> bool:
    if ours is UNKNOWN or theirs is UNKNOWN:
        return True
    numbers = isinstance(ours, float) or (isinstance(ours, tuple) and isinstance(ours[0], float))
    return bool(np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)) if numbers else bool(ours == theirs)
