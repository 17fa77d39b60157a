"""The vocabulary of findings: owners' labels -> canonical names, a set for each modality and anatomy.

A user's own file has the form of the shipped findings.yaml, adds to it, and wins where both name the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import TypeAlias

from pydantic import Field, field_validator

from medweave.corpus.sample import MODALITIES
from medweave.errors import RequestError, mistakes, nearest
from medweave.recipe import Section, check, read_yaml

SHIPPED = Path(__file__).with_name("findings.yaml")

Place: TypeAlias = tuple[str, str | None]  # modality, anatomy; None: any anatomy


class Entry(Section):
    """One finding."""

    name: str = Field(min_length=1, description="canonical name, in plain clinical words")
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

    @field_validator("modality")
    @classmethod
    def _known_modalities(cls, modality: tuple[str, ...]) -> tuple[str, ...]:
        if not set(modality) <= set(MODALITIES):
            raise ValueError(f"must be one of {', '.join(MODALITIES)}")
        return modality

    @property
    def places(self) -> list[Place]:
        """Every modality and anatomy that it is seen in."""
        return list(product(self.modality, self.anatomy or (None,)))

    @property
    def words(self) -> set[str]:
        """Its name and synonyms, in plain spelling."""
        return {plain(self.name), *map(plain, self.synonyms)}

    def covers(self, place: Place) -> bool:
        """Whether it is seen in a place: in this very one, or in any anatomy of its modality."""
        return place in self.places or (place[0], None) in self.places

    def at(self, place: Place) -> Entry:
        """The same finding in one place only."""
        return self.model_copy(update={"modality": (place[0],), "anatomy": place[1] and (place[1],)})


class _Entries(Section):
    findings: list[Entry]


class Vocabulary:
    """Looks labels up; iterates over its entries."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._by_label: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for label in entry.words:
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

    def changes(self, older: Vocabulary) -> list[str]:
        """What this vocabulary says otherwise than an older one, a line each; what it only adds is no change."""
        lines = []
        for entry, place in _placed(older):
            for word in (entry.name, *entry.synonyms):
                was, now = older.canonical(word, *place), self.canonical(word, *place)
                if was is not None and now != was:
                    lines.append(f"{shown(place)}: {word!r} was {was!r}, now {repr(now) if now else 'unknown'}")
            if self.ancestors(entry.name, *place) != older.ancestors(entry.name, *place):
                lines.append(f"{shown(place)}: {entry.name!r} has other parents")
        return lines


def plain(label: str) -> str:
    """A label without case, underscores and double blanks: what two spellings of one name share."""
    return " ".join(re.sub(r"[_\s]+", " ", label).lower().split())


def shown(place: Place) -> str:
    """A place for a reader: xray / chest."""
    return f"{place[0]} / {place[1] or 'any anatomy'}"


def load(own: Path | None = None) -> Vocabulary:
    """The shipped vocabulary, with a user's own file above it. Raises RequestError listing every mistake of that."""
    if own is None:
        return _shipped()
    entries = _read(own)
    names = Vocabulary(with_own(_shipped(), entries))
    wrong = [*_said_twice(entries), *_wrong_parents(entries, names)]
    if wrong:
        raise mistakes(wrong, own)
    return names


def with_own(shipped: Vocabulary, own: Sequence[Entry]) -> list[Entry]:
    """A user's own entries above the shipped ones, an entry for each place.

    An own word means the own finding alone. A shipped finding whose name is an own word becomes that own finding, which
    takes its synonyms over, and its parent unless it states one.
    """
    found = {(place, entry.name): entry.at(place) for entry, place in _placed(own)}
    words = {place: _words_of(own, place) for _, place in _placed(shipped)}
    for entry, place in _placed(shipped):
        left, heir = _left(entry.at(place), words[place]), words[place].get(plain(entry.name))
        if heir is None:
            found[place, entry.name] = left
        else:
            known = found.get((place, heir.name), heir.at(place))
            parent = known.parent if "parent" in heir.model_fields_set else known.parent or left.parent
            inherited = {"synonyms": (*known.synonyms, *left.synonyms), "parent": parent}
            found[place, heir.name] = known.model_copy(update=inherited)
    return list(found.values())


def _left(entry: Entry, mine: Mapping[str, Entry]) -> Entry:
    """What own words leave of a shipped entry: the synonyms that are not theirs, its parent by the name it has now."""
    synonyms = tuple(word for word in entry.synonyms if plain(word) not in mine)
    parent = mine.get(plain(entry.parent)) if entry.parent else None
    return entry.model_copy(update={"synonyms": synonyms, "parent": parent.name if parent else entry.parent})


def _words_of(entries: Iterable[Entry], place: Place) -> dict[str, Entry]:
    """What each word means in a place; what is said of this very place before what is said of any anatomy."""
    here = sorted((entry for entry in entries if entry.covers(place)), key=lambda entry: place in entry.places)
    return {word: entry for entry in here for word in entry.words}


def _placed(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Place]]:
    return ((entry, place) for entry in entries for place in entry.places)


@cache
def _shipped() -> Vocabulary:
    return Vocabulary(_read(SHIPPED))


def _read(path: Path) -> list[Entry]:
    data = read_yaml(path)
    if not isinstance(data, list):
        raise RequestError("a vocabulary is a YAML list of findings", where=path)
    return check({"findings": data}, _Entries, where=path).findings


def _said_twice(entries: Iterable[Entry]) -> Iterator[str]:
    """A line for each word that two entries claim in one place."""
    owners: dict[tuple[Place, str], Entry] = {}
    for entry, place in _placed(entries):
        for word in sorted(entry.words):
            other = owners.setdefault((place, word), entry)
            if other is not entry:
                whose = "two entries" if other.name == entry.name else f"{other.name!r} and {entry.name!r}"
                yield f"{shown(place)}: {word!r} is a word of {whose}"


def _wrong_parents(entries: Iterable[Entry], names: Vocabulary) -> Iterator[str]:
    """A line for each parent that is no canonical name of its place, or that the finding is itself a parent of."""
    for entry, place in _placed(entries):
        if entry.parent is not None and names.canonical(entry.parent, *place) != entry.parent:
            near = " or ".join(names.nearest(entry.parent, *place)) or "none"
            yield f"{shown(place)}: the parent {entry.parent!r} of {entry.name!r} is no name here; nearest: {near}"
        elif entry.name in names.ancestors(entry.name, *place):
            yield f"{shown(place)}: {entry.name!r} is a parent of its own parent"
