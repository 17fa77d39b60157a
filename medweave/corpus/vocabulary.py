"""The vocabulary of findings: owners' labels -> canonical names, a set for each modality and anatomy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from pydantic import Field, field_validator

from medweave.errors import RequestError, nearest
from medweave.recipe import Section, check, read_yaml

SHIPPED = Path(__file__).with_name("findings.yaml")


class Entry(Section):
    """One finding."""

    name: str = Field(description="canonical name, in plain clinical words")
    synonyms: tuple[str, ...] = Field((), description="other names of the same finding")
    parent: str | None = Field(
        None, description="canonical name of the wider finding, in the same modality and anatomy"
    )
    modality: tuple[str, ...] = Field(description="the modalities it is seen in")
    anatomy: tuple[str, ...] | None = Field(None, description="the body parts it is seen in; None: any")

    @field_validator("modality", "anatomy", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class _Entries(Section):
    findings: list[Entry]


class Vocabulary:
    """Looks labels up; iterates over its entries."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._by_label: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for label in {plain(entry.name), *map(plain, entry.synonyms)}:
                self._by_label.setdefault(label, []).append(entry)
        self.find = cache(self._find)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def _find(self, label: str, modality: str, anatomy: str | None) -> Entry | None:
        """The entry that `label` means here, by name or synonym; an entry for this very anatomy before one for any.

        Without an anatomy, the entry must be the only one of its name in that modality.
        """
        found = [e for e in self._by_label.get(plain(label), ()) if modality in e.modality]
        if anatomy is None:
            return found[0] if len({e.name for e in found}) == 1 else None
        here = [e for e in found if e.anatomy is not None and anatomy in e.anatomy]
        anywhere = [e for e in found if e.anatomy is None]
        return next(iter(here + anywhere), None)

    def canonical(self, label: str, modality: str, anatomy: str | None) -> str | None:
        """The canonical name of an owner's label; None when the vocabulary does not know it here."""
        entry = self.find(label, modality, anatomy)
        return entry.name if entry else None

    def ancestors(self, name: str, modality: str, anatomy: str | None) -> list[str]:
        """The wider findings that `name` implies, nearest first."""
        above: list[str] = []
        entry = self.find(name, modality, anatomy)
        while entry and entry.parent and entry.parent not in above:
            above.append(entry.parent)
            entry = self.find(entry.parent, modality, anatomy)
        return above

    def nearest(self, label: str, modality: str, anatomy: str | None, count: int = 3) -> list[str]:
        """The canonical names that are spelt most like `label`, of this anatomy if it has any, else of the modality."""
        near = [e for e in self.entries if modality in e.modality]
        here = [e for e in near if e.anatomy is None or anatomy in e.anatomy] or near
        names = {plain(word): e.name for e in here for word in (*e.synonyms, e.name)}
        close = nearest(plain(label), names, count)
        return list(dict.fromkeys(names[word] for word in close))


def plain(label: str) -> str:
    """A label without case, underscores and double blanks: what two spellings of one name share."""
    return " ".join(re.sub(r"[_\s]+", " ", label).lower().split())


@cache
def load(path: Path = SHIPPED) -> Vocabulary:
    """The vocabulary of a YAML file, the shipped one by default. Raises RequestError when the file is wrong."""
    data = read_yaml(path)
    if not isinstance(data, list):
        raise RequestError("a vocabulary is a YAML list of findings", where=path)
    return Vocabulary(check({"findings": data}, _Entries, where=path).findings)
