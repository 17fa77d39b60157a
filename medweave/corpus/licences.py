"""Licence classes: what an owner's words allow. Data: licences.yaml, to be read by a person before relying on it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from medweave.corpus.sample import LICENCE_CLASSES
from medweave.recipe import read_yaml

TABLE = Path(__file__).with_name("licences.yaml")
MEANING = {
    "open": "any use, with attribution where asked",
    "non-commercial": "no commercial use",
    "share-alike": "what is made from it must be shared on the same terms",
    "no-derivatives": "no adapted copies",
    "research": "research (and teaching) only",
    "unknown": "nobody stated the terms",
}


@cache
def licence_class(words: str | None) -> str:
    """The class of an owner's words, one of LICENCE_CLASSES; `unknown` where nothing is recognised."""
    if words in LICENCE_CLASSES:
        return str(words)
    text = _plain(words or "")
    return next((name for name, pattern in _rows() if pattern.search(text)), "unknown")


@cache
def _rows() -> list[tuple[str, re.Pattern[str]]]:
    return [(row["class"], _whole_words(row["phrases"])) for row in read_yaml(TABLE)]


def _whole_words(phrases: list[str]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(" + "|".join(re.escape(_plain(p)) for p in phrases) + r")(?!\w)")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[-_\s]+", " ", text).lower().split())
