"""Caption banks: many true sentences for each (modality, anatomy, finding), as YAML that anyone can read and extend.

Idea: the label-info triplets of UniMed-CLIP, arXiv 2412.10372. A caption is drawn anew at every visit of a sample, so
a label of two words teaches varied language. Prompts are for tests and never equal a caption.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field, field_validator

from medweave.corpus.captions import frames
from medweave.corpus.sample import MODALITIES, State
from medweave.errors import RequestError, mistakes, unknown_name
from medweave.files import hash_of_file
from medweave.recipe import Section, check, read_yaml

SHIPPED = Path(__file__).parent / "banks"
MOST_ABSENT = 3

Triplet: TypeAlias = tuple[str, str | None, str]


class Prompts(Section):
    """Three complete sets of test prompts, so that the spread over wordings can be measured."""

    plain: tuple[str, ...] = Field(min_length=1, description="plain descriptions, as a layman's search would put it")
    report: tuple[str, ...] = Field(min_length=1, description="sentences of a report")
    signs: tuple[str, ...] = Field(min_length=1, description="what is to be seen, in words of its signs")


PROMPT_KINDS = tuple(Prompts.model_fields)


class Entry(Section):
    """The captions and prompts of one finding, in one modality and one or several anatomies."""

    modality: str = Field(description="a modality of Medweave")
    anatomy: str | tuple[str, ...] | None = Field(description="body part or parts; null for any")
    finding: str = Field(description="canonical name of the vocabulary")
    role: Literal["finding", "normal", "region"] = Field(
        "finding", description="a finding, an absence of findings (normal), or the body region shown"
    )
    signs: tuple[str, ...] = Field((), description="words that stand for the finding where a caption does not name it")
    captions: tuple[str, ...] = Field(min_length=1, description="training captions")
    prompts: Prompts | None = Field(None, description="test prompts; generic ones where none are given")

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, value: str) -> str:
        if value not in MODALITIES:
            raise ValueError(f"must be one of {', '.join(MODALITIES)}")
        return value

    @property
    def anatomies(self) -> tuple[str | None, ...]:
        """Every anatomy this entry is for."""
        return self.anatomy if isinstance(self.anatomy, tuple) else (self.anatomy,)

    @property
    def triplets(self) -> list[Triplet]:
        """Every (modality, anatomy, finding) this entry is for."""
        return [(self.modality, anatomy, self.finding) for anatomy in self.anatomies]


class _File(Section):
    bank: tuple[Entry, ...]


class Bank:
    """Captions and prompts by (modality, anatomy, finding). A later entry of a triplet replaces an earlier one."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries: dict[Triplet, Entry] = {}
        for entry in entries:
            self.entries.update({_key(*triplet): entry for triplet in entry.triplets})
        self._found: dict[Triplet, Entry | None] = {}

    @classmethod
    def load(cls, paths: Iterable[Path] | None = None) -> Bank:
        """The bank of some YAML files, later files winning; the shipped files by default. Raises RequestError."""
        return cls(entry for path in (shipped() if paths is None else paths) for entry in read_entries(Path(path)))

    def entry(self, modality: str, anatomy: str | None, finding: str) -> Entry | None:
        """The entry for a triplet: its own, else one for any anatomy; where the anatomy is unknown, the only one."""
        asked = (modality, anatomy, finding)
        if asked not in self._found:
            self._found[asked] = self._search(*_key(*asked))
        return self._found[asked]

    def captions(self, modality: str, anatomy: str | None, finding: str) -> Sequence[str]:
        """The training captions of a triplet; generic sentences where no bank has it (see `missing`)."""
        entry = self.entry(modality, anatomy, finding)
        return entry.captions if entry else frames.captions(modality, anatomy, finding)

    def prompts(self, modality: str, anatomy: str | None, finding: str, kind: str) -> Sequence[str]:
        """The test prompts of a triplet in one set of PROMPT_KINDS. Raises RequestError for another kind."""
        if kind not in PROMPT_KINDS:
            raise unknown_name("set of prompts", kind, PROMPT_KINDS)
        entry = self.entry(modality, anatomy, finding)
        if entry is None or entry.prompts is None:
            return frames.prompts(modality, anatomy, finding, kind)
        return getattr(entry.prompts, kind)

    def all_prompts(self, modality: str, anatomy: str | None, finding: str) -> list[str]:
        """The test prompts of a triplet in every set, one after the other."""
        return [text for kind in PROMPT_KINDS for text in self.prompts(modality, anatomy, finding, kind)]

    def findings(self, modality: str, anatomy: str | None) -> list[str]:
        """What the bank knows to tell apart in a modality and anatomy, in the order of its files; no body regions."""
        near = [e for (m, a, _), e in self.entries.items() if m == modality and (a is None or a == _folded(anatomy))]
        return list(dict.fromkeys(e.finding for e in near if e.role != "region"))

    def places(self) -> list[tuple[str, str | None]]:
        """Every (modality, anatomy) that the bank has entries for, in sorted order."""
        return sorted({(m, a) for m, a, _ in self.entries}, key=lambda place: (place[0], place[1] or ""))

    def missing(self, triplets: Iterable[Triplet]) -> list[Triplet]:
        """The triplets that no entry covers, in sorted order: their captions are generic sentences."""
        return sorted({t for t in triplets if self.entry(*t) is None}, key=lambda t: (t[0], t[1] or "", t[2]))

    def draw(
        self, modality: str, anatomy: str | None, findings: Mapping[str, State], generator: np.random.Generator
    ) -> str | None:
        """One caption for what is known of an image, the same for the same generator; None where nothing is."""
        parts = self.draw_parts(modality, anatomy, findings, generator)
        return joined(parts) if parts else None

    def draw_parts(
        self, modality: str, anatomy: str | None, findings: Mapping[str, State], generator: np.random.Generator
    ) -> list[str]:
        """The captions that `draw` joins: one of each present finding, in drawn order.

        Where findings are only known to be absent, one text that denies up to three of them.
        """
        present = sorted(name for name, state in findings.items() if state == State.PRESENT)
        if present:
            texts = [_one_of(self.captions(modality, anatomy, name), generator) for name in present]
            return texts if len(texts) == 1 else [texts[i] for i in generator.permutation(len(texts))]
        absent = sorted(name for name, state in findings.items() if state == State.ABSENT)
        deniable = [name for name in absent if self._deniable(modality, anatomy, name)]
        if not deniable:
            return []
        chosen = generator.permutation(len(deniable))[: generator.integers(1, MOST_ABSENT + 1)]
        return [_one_of(frames.denials(modality, anatomy, [deniable[i] for i in chosen]), generator)]

    def _search(self, modality: str, anatomy: str | None, finding: str) -> Entry | None:
        exact = self.entries.get((modality, anatomy, finding)) or self.entries.get((modality, None, finding))
        if exact or anatomy is not None:
            return exact
        anywhere = {id(e): e for (m, _, f), e in self.entries.items() if (m, f) == (modality, finding)}
        return next(iter(anywhere.values())) if len(anywhere) == 1 else None

    def _deniable(self, modality: str, anatomy: str | None, finding: str) -> bool:
        """Whether "without FINDING" makes sense: not for a normal ("without no tumor"), not for a body region."""
        entry = self.entry(modality, anatomy, finding)
        return entry.role == "finding" if entry else not is_absence(finding)


def shipped() -> list[Path]:
    """The bank files that come with Medweave."""
    return sorted(SHIPPED.glob("*.yaml"))


def read_entries(path: Path) -> tuple[Entry, ...]:
    """The entries of one bank file. Raises RequestError listing every mistake by its path in the file."""
    return _entries(path, hash_of_file(path) if path.is_file() else "")


@lru_cache(maxsize=64)
def _entries(path: Path, content: str) -> tuple[Entry, ...]:
    """The entries of a bank file, parsed anew once its content (a hash) is another."""
    data = read_yaml(path)
    if not isinstance(data, list):
        raise RequestError("a caption bank is a list of entries", where=path, todo="start each with `- modality:`")
    entries = check({"bank": data}, _File, where=path).bank
    counts = Counter(_key(*triplet) for entry in entries for triplet in entry.triplets)
    twice = [", ".join(map(str, triplet)) for triplet, count in counts.items() if count > 1]
    if twice:
        raise mistakes([f"two entries for {named}: join their captions in one entry" for named in twice], path)
    return entries


def joined(texts: Sequence[str]) -> str:
    """Captions as one text, whole sentences one after the other; one alone is left as it is."""
    if len(texts) == 1:
        return texts[0]
    trimmed = [text.strip().rstrip(".") for text in texts]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in trimmed)


def is_absence(finding: str) -> bool:
    """Whether a name says that something is not there: "normal", "no tumor", "normal kidney"."""
    return re.match(r"(no|normal|uninfected)\b", finding.casefold()) is not None


def _key(modality: str, anatomy: str | None, finding: str) -> Triplet:
    return modality, _folded(anatomy), finding.casefold()


def _folded(anatomy: str | None) -> str | None:
    return anatomy.casefold() if anatomy else None


def _one_of(texts: Sequence[str], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
