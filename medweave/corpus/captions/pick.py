"""Which text stands beside an image: one of its own, or a bank caption, by the shares of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from medweave.corpus.captions import frames
from medweave.corpus.captions.bank import Bank, joined
from medweave.corpus.recipe import CaptionShares
from medweave.corpus.sample import State


class Picked(NamedTuple):
    """A text and what it is made of. own: its place among the sample's own texts; None: it is none of them.

    parts: the captions that it joins, in order.
    """

    text: str
    own: int | None
    parts: tuple[str, ...]


def pick(fields: Mapping[str, Any], shares: CaptionShares, bank: Bank, generator: np.random.Generator) -> Picked:
    """One text for a sample, the same for the same generator. fields: its KEY.json (`Corpus.fields`).

    Where only one kind of text is to be had, it is taken whatever the shares; where none is, modality and anatomy.
    """
    own = [text["text"] for text in fields["texts"]]
    findings = {name: State(state) for name, state in fields["findings"].items()}
    parts = bank.draw_parts(fields["modality"], fields["anatomy"], findings, generator)
    wants_own = generator.random() * (shares.own + shares.bank) < shares.own
    if own and (wants_own or not parts):
        place = int(generator.integers(len(own)))
        return Picked(own[place], place, (own[place],))
    parts = parts or [_bare(fields["modality"], fields["anatomy"])]
    return Picked(joined(parts), None, tuple(parts))


def _bare(modality: str, anatomy: str | None) -> str:
    """What can be said of an image of which nothing else is known."""
    image = frames.IMAGE_WORDS.get(modality, "medical image")
    return f"{image[0].upper()}{image[1:]}{f' of the {anatomy}' if anatomy else ''}."
