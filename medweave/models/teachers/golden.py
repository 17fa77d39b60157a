"""Golden vectors: a copy of a teacher is right when it gives a fixed image and a fixed text the rows it should.

What is kept are the first numbers of each unit row, in the teacher's card or in `golden.json` of a local copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medweave.errors import RequestError, UserError, in_short
from medweave.files import read_json, write_json
from medweave.models.teachers.catalogue import Card, Golden
from medweave.recipe import as_data, check

if TYPE_CHECKING:
    from medweave.models.encoder import Encoder

FILE = "golden.json"
NUMBERS = 32  # kept of each row: enough where a tower ends in ReLUs and most of its row is 0
TOLERANCE = 1e-3
UNIT = 0.01  # how far the length of a row may be from 1
BROKEN = "its weights are broken: get the copy again"
HEIGHT, WIDTH = 240, 320
TEXT = "chest radiograph of an adult with a small pleural effusion on the right"


def picture() -> NDArray[np.uint8]:
    """The fixed image [240, 320, 3]: two ramps, a chequerboard and a bright disc, by whole numbers only."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    board = (x // 16 + y // 16) % 2 * 255
    image = np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), board], axis=-1)
    image[(x - 100) ** 2 + (y - 120) ** 2 < 60**2] = 230
    return image.astype(np.uint8)


def try_out(encoder: Encoder) -> None:
    """Embed the fixed image, and a text as long as the context.

    Raises UserError for a model that cannot, and where a row is not of length 1 or the scale is no number above 0.
    """
    if "images" in encoder.sides:
        with embedding(encoder, f"an image of {encoder.preprocess.size} pixels"):
            row = encoder.embed_images(picture())[0]
        _check_length(row, f"{encoder.name} gives an image")
    if "texts" in encoder.sides:
        context = int(encoder.facts["context"])
        with embedding(encoder, f"a text of {context} tokens"):
            row = encoder.embed_texts(" ".join(["lung"] * context))[0]
        _check_length(row, f"{encoder.name} gives a text")
    if len(encoder.sides) == 2 and encoder.model.logit_scale is not None:
        check_head(encoder)


def measured(encoder: Encoder) -> Golden:
    """The golden vectors of an encoder, for the sides that it has."""
    image = encoder.embed_images(picture())[0] if "images" in encoder.sides else None
    text = encoder.embed_texts(TEXT)[0] if "texts" in encoder.sides else None
    return Golden(image=_kept(image), text=_kept(text))


def write(encoder: Encoder, folder: Path) -> Path:
    """Write `golden.json` into a copy that is known to be right."""
    write_json(folder / FILE, as_data(measured(encoder)))
    return folder / FILE


def expected(card: Card, folder: Path) -> Golden | None:
    """The golden vectors of a copy: those of its folder, else those of the card; None where neither has any.

    Raises RequestError for vectors without a number.
    """
    file = folder / FILE
    found = check(read_json(file), Golden, where=file) if file.is_file() else card.golden
    if found is not None and not (found.image or found.text):
        where = file if file.is_file() else f"card of {card.name}"
        raise RequestError("the golden vectors hold no numbers", where=where, todo="write them anew, or delete them")
    return found


def deviations(encoder: Encoder, wanted: Golden) -> dict[str, float]:
    """The largest difference of each side. Raises UserError when one is above the tolerance or a side is lacking."""
    given, found = measured(encoder), {}
    for side, right, ours in (("image", wanted.image, given.image), ("text", wanted.text, given.text)):
        if not right:
            continue
        if ours is None or len(right) > len(ours):
            raise UserError(f"the golden vectors have a row of the {side}, which {encoder.name} cannot give")
        found[side] = float(np.abs(np.array(right) - np.array(ours[: len(right)])).max())
    wrong = [f"{side} {value:.4f}" for side, value in found.items() if not value <= TOLERANCE]
    if wrong:
        raise UserError(
            f"{encoder.name} gives other rows than it should: off by {', '.join(wrong)}",
            todo=f"{TOLERANCE} is allowed: another version of the weights, or of the preprocessing",
        )
    return found


@contextmanager
def embedding(encoder: Encoder, what: str) -> Iterator[None]:
    """Raises UserError where an encoder cannot embed something."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has its own for pixels or tokens that do not fit its towers
        raise UserError(
            f"{encoder.name} cannot embed {what}, which its files or its card tell it to", todo=in_short(error)
        ) from error


def check_head(encoder: Encoder) -> None:
    """Raises UserError for a scale that is no number above 0, or a bias that is no number."""
    head = encoder.head
    if not (np.isfinite(head.scale) and head.scale > 0):
        raise UserError(f"the scale of {encoder.name} is {head.scale:.3g}, no number above 0", todo=BROKEN)
    if not np.isfinite(head.bias):
        raise UserError(f"the bias of {encoder.name} is {head.bias:.3g}, no number", todo=BROKEN)


def _check_length(row: NDArray[np.float32], who: str) -> None:
    """Raises UserError for a row, [d], that is not of length 1."""
    length = float(np.linalg.norm(row))
    if not abs(length - 1) < UNIT:
        what = f"of length {length:.3g} instead of 1" if np.isfinite(length) else "that is not a number"
        raise UserError(f"{who} a row {what}", todo=BROKEN)


def _kept(row: NDArray[np.float32] | None) -> tuple[float, ...] | None:
    return None if row is None else tuple(round(float(value), 5) for value in row[:NUMBERS])
