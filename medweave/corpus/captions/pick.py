"""Which text stands beside an image: one of its own, or a bank caption, by the shares of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medweave.corpus.captions import frames
from medweave.corpus.captions.bank import Bank
from medweave.corpus.recipe import CaptionShares
from medweave.corpus.sample import State


def pick(fields: Mapping[str, Any], shares: CaptionShares, bank: Bank, generator: np.random.Generator) -> str:
    """One text for a sample, the same for the same generator. fields: its KEY.json (`Corpus.fields`).

    Where only one kind of text is to be had, it is taken whatever the shares; where none is, modality and anatomy.
    """
    own = [text["text"] for text in fields["texts"]]
    findings = {name: State(state) for name, state in fields["findings"].items()}
    drawn = bank.draw(fields["modality"], fields["anatomy"], findings, generator)
    wants_own = generator.random() * (shares.own + shares.bank) < shares.own
    if own and (wants_own or drawn is None):
        return own[int(generator.integers(len(own)))]
    return drawn or _bare(fields["modality"], fields["anatomy"])


def _bare(modality: str, anatomy: str | None) -> str:
    """What can be said of an image of which nothing else is known."""
    image = frames.IMAGE_WORDS.get(modality, "medical image")
    return f"{image[0].upper()}{image[1:]}{f' of the {anatomy}' if anatomy else ''}."
