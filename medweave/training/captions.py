"""The text that a sample is trained with at one step: drawn anew at each visit by (seed, step, sample number)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medweave.corpus.captions.bank import Bank, Entry
from medweave.corpus.captions.pick import Picked, pick
from medweave.corpus.recipe import CaptionShares
from medweave.corpus.sample import State
from medweave.corpus.store import Corpus
from medweave.errors import unknown_name
from medweave.files import hash_of
from medweave.seeds import generator
from medweave.training.recipe import CaptionsRecipe

Kind = Literal["own", "bank", "other"]  # other: only a denial, or modality and anatomy, could be said


class Caption(NamedTuple):
    """A text and where it is from. own, parts: as `pick` says."""

    text: str
    kind: Kind
    own: int | None = None
    parts: tuple[str, ...] = ()


class Captions:
    """Draws captions. Small enough to live in every loader process."""

    def __init__(self, bank: Bank, shares: Mapping[str, CaptionShares], seed: int) -> None:
        self.bank, self.shares, self.seed = bank, dict(shares), seed

    def draw(self, step: int, number: int, fields: Mapping[str, Any]) -> Caption:
        """The caption of one sample at one step. fields: its KEY.json."""
        shares = self.shares.get(fields["source"]) or CaptionShares()
        picked = pick(fields, shares, self.bank, generator(self.seed, "caption", step, number))
        return Caption(picked.text, _kind(picked, fields), picked.own, picked.parts)


def _kind(picked: Picked, fields: Mapping[str, Any]) -> Kind:
    if picked.own is not None:
        return "own"
    return "bank" if State.PRESENT in fields["findings"].values() else "other"


def captions_of(corpus: Corpus, recipe: CaptionsRecipe, seed: int) -> Captions:
    """The captions of a run. Raises RequestError for a source that the corpus does not have."""
    sources = {stratum.source for stratum in corpus.strata}
    for name in recipe.sources:
        if name not in sources:
            raise unknown_name("source", name, sources, where="train.captions.sources")
    return Captions(bank_of(corpus.banks(), recipe), {**_built_with(corpus), **recipe.sources}, seed)


def _built_with(corpus: Corpus) -> dict[str, CaptionShares]:
    """The shares that the corpus was built with, by source."""
    return {source: CaptionShares.model_validate(of) for source, of in corpus.facts["captions"].items()}


def bank_of(built: Sequence[Path], recipe: CaptionsRecipe) -> Bank:
    """The caption bank of a run: the corpus's own files unless the recipe names others."""
    bank = Bank.load(built if recipe.banks is None else recipe.banks)
    return bank if recipe.most is None else _FirstCaptions(bank.entries.values(), recipe.most)


def bank_hash(bank: Bank) -> str:
    """sha256 of all that captions are drawn from."""
    captions = sorted((str(triplet), list(entry.captions)) for triplet, entry in bank.entries.items())
    return hash_of([captions, bank.most if isinstance(bank, _FirstCaptions) else None])


class _FirstCaptions(Bank):
    """A bank of which only the first captions of each finding are used, generic ones too."""

    def __init__(self, entries: Sequence[Entry] | Any, most: int) -> None:
        super().__init__(entries)
        self.most = most

    def captions(self, modality: str, anatomy: str | None, finding: str) -> Sequence[str]:
        return super().captions(modality, anatomy, finding)[: self.most]
