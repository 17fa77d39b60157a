"""Checks of caption banks: what a bank says of a finding must be true of it, and tests must not repeat training.

The rules are simple on purpose: words and their negations, no parser. They find slips of the pen, not of medicine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from medweave.corpus.captions.bank import PROMPT_KINDS, Bank, Entry, Triplet, is_absence
from medweave.corpus.vocabulary import Entry as Name
from medweave.corpus.vocabulary import Place
from medweave.errors import nearest

FEWEST_CAPTIONS = 10
FEWEST_PROMPTS = 3
WORDS = range(3, 31)
UNSAID = ("left", "right", "bilateral", "unilateral", "mild", "moderate", "severe", "massive", "slight", "slightly")

NEGATIONS = re.compile(
    r"\b(no|nothing|not|non$|without|nor|neither|never|absence|absent|lack|lacks|lacking|free of|free from|devoid"
    r"|negative for|cannot|exclude|excludes|excluded|excluding|other than|rather than|instead of|unlike|unrelated to"
    r"|rule out)\b"
)
DENIED_AFTER = re.compile(
    r" (free(?! (fluid|air))|negative(?! for)|((is|are|was|were|can be|has been|have been|could be) )?"
    r"(not|absent|excluded|ruled out|unlikely|missing|lacking))\b"
)
CLAUSE_END = re.compile(r"[.]|\b(but|however|although|though|while|whereas|with|yet)\b")


@dataclass(frozen=True)
class Problem:
    """One fault of a bank: where, what, and the text it lies in."""

    triplet: Triplet
    what: str
    text: str = ""

    def __str__(self) -> str:
        where = " / ".join(part or "any anatomy" for part in self.triplet)
        return f"{where}: {self.what}" + (f": {self.text!r}" if self.text else "")


def check(bank: Bank, vocabulary: Iterable[Name], own: Collection[Entry] | None = None) -> list[Problem]:
    """Every fault of a bank, against the vocabulary of findings.

    own: the entries of the bank that are checked, those of a user; few captions and no prompts are then no fault.
    """
    named = _by_place(vocabulary)
    entries = dict.fromkeys(bank.entries.values())
    checked = entries if own is None else dict.fromkeys(own)
    owners = _owners(entry for entry in entries if entry not in checked)
    problems: list[Problem] = []
    for entry in checked:
        few = list(lacking(entry)) if own is None else []
        for triplet in entry.triplets:
            faults = [*_faults(entry, triplet, named, bank, owners), *few]
            problems += [Problem(triplet, what, text) for what, text in faults]
    return problems


def _owners(entries: Iterable[Entry]) -> dict[Triplet, str]:
    """Who says each text in each modality and anatomy."""
    said = ((triplet, text) for entry in entries for triplet in entry.triplets for text in texts(entry))
    return {(*triplet[:2], same_words(text)): triplet[2] for triplet, text in said}


def _faults(
    entry: Entry, triplet: Triplet, named: Mapping[Place, dict[str, Name]], bank: Bank, owners: dict[Triplet, str]
) -> Iterator[tuple[str, str]]:
    """(what, text) for every fault of an entry; owners: who said each text first in this modality and anatomy."""
    near = _near(named, triplet[:2])
    if not near:
        known = nearest(str(triplet[1]), [anatomy for modality, anatomy in named if modality == triplet[0] and anatomy])
        yield f"no finding of the vocabulary is seen there; nearest anatomy: {' or '.join(known) or 'none'}", ""
        return
    if entry.finding not in near:
        yield f"not in the findings vocabulary; nearest: {' or '.join(nearest(entry.finding, near)) or 'none'}", ""
        return
    yield from repeats(entry)
    words = Words(entry, near, bank)
    for text in texts(entry):
        yield from ((what, text) for what in words.faults(text))
        owner = owners.setdefault((*triplet[:2], same_words(text)), entry.finding)
        if owner != entry.finding:
            yield f"the same text as for {owner}", text


def texts(entry: Entry) -> list[str]:
    """Every caption and prompt of an entry."""
    prompts = [text for kind in PROMPT_KINDS for text in getattr(entry.prompts, kind)] if entry.prompts else []
    return [*entry.captions, *prompts]


def lacking(entry: Entry) -> Iterator[tuple[str, str]]:
    """(what, "") for too few captions or prompts."""
    if len(entry.captions) < FEWEST_CAPTIONS:
        yield f"{len(entry.captions)} captions, at least {FEWEST_CAPTIONS} are needed", ""
    for kind in PROMPT_KINDS if entry.prompts else ():
        if len(getattr(entry.prompts, kind)) < FEWEST_PROMPTS:
            yield f"fewer than {FEWEST_PROMPTS} {kind} prompts", ""
    if entry.prompts is None:
        yield "no prompts", ""


def repeats(entry: Entry) -> Iterator[tuple[str, str]]:
    """(what, text) for repeated texts and texts of a wrong length."""
    seen: set[str] = set()
    for text in texts(entry):
        if same_words(text) in seen:
            yield "said twice", text
        seen.add(same_words(text))
        if len(text.split()) not in WORDS:
            yield f"{len(text.split())} words, not {WORDS.start} to {WORDS.stop - 1}", text


class Words:
    """The names that count for one entry: its own, and those of other findings that it must not claim."""

    def __init__(self, entry: Entry, near: dict[str, Name], bank: Bank) -> None:
        own = near[entry.finding]
        self.normal = entry.role == "normal"
        self.names = _pattern([own.name, *own.synonyms])
        self.own = _pattern([own.name, *own.synonyms, *entry.signs])
        above = _ancestors(own, near)
        self.granted = _pattern([*entry.signs, own.name, *own.synonyms, *(n for a in above for n in _names(near[a]))])
        others = [n for n in near.values() if n.name not in {own.name, *above} and not _region(n, entry, bank)]
        self.others = {n.name: _pattern(_claims(n)) for n in others if _claims(n)}
        self.said = set(normalised(" ".join([own.name, *own.synonyms])).split())

    def faults(self, text: str) -> Iterator[str]:
        """What is wrong with one text."""
        flat = normalised(text)
        if not self.own.search(flat):
            yield "names neither the finding, nor a synonym, nor a listed sign"
        if not self.normal and any(_negated(flat, m, reach=3) for m in self.names.finditer(flat)):
            yield "denies its own finding"
        if self.normal and re.search(r"\bnot normal\b|\babnormal\b", flat) and not NEGATIONS.search(flat):
            yield "denies its own finding"
        granted = [m.span() for m in self.granted.finditer(flat)]
        for name, pattern in self.others.items():
            for mention in pattern.finditer(flat):
                covered = any(start <= mention.start() and mention.end() <= stop for start, stop in granted)
                if not covered and not _negated(flat, mention):
                    yield f"claims {name}"
        for word in UNSAID:
            if re.search(rf"\b{word}\b", flat) and word not in self.said:
                yield f"says {word!r}, which the label does not"


def normalised(text: str) -> str:
    """Words in lower case, ends of clauses as full stops, no other punctuation."""
    flat = re.sub(r"(?<=\d)[.](?=\d)", " ", text.casefold().replace("'", ""))
    flat = re.sub(r"[.;:!?]+", " . ", flat)
    return " ".join(re.sub(r"[^\w.]+|_", " ", flat).split()).rstrip(" .")


def same_words(text: str) -> str:
    """Two texts that differ in case or punctuation only give the same value."""
    return normalised(text).replace(" .", "")


def _negated(flat: str, mention: re.Match[str], reach: int | None = None) -> bool:
    """Whether a mention is denied in its clause, by a negation at most `reach` words before it or by what follows."""
    before = (CLAUSE_END.split(flat[: mention.start()])[-1] or "").split()
    before = " ".join(before if reach is None else before[-reach - 1 :])
    return bool(NEGATIONS.search(before) or DENIED_AFTER.match(flat, mention.end()))


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted({normalised(name) for name in names}, key=lambda n: (-len(n), n))
    return re.compile(r"\b(?:" + "|".join(re.escape(name) for name in longest_first) + r")(?:s|es)?\b")


def _claims(other: Name) -> list[str]:
    """The names by which a text would claim another finding: for an absence only those of several words."""
    return [name for name in _names(other) if " " in name or not is_absence(other.name)]


def _names(entry: Name) -> list[str]:
    return [entry.name, *entry.synonyms]


def _region(other: Name, entry: Entry, bank: Bank) -> bool:
    found = bank.entry(entry.modality, entry.anatomies[0], other.name)
    return found is not None and found.role == "region"


def _ancestors(own: Name, near: dict[str, Name]) -> list[str]:
    above: list[str] = []
    while own.parent and own.parent in near and own.parent not in above:
        above.append(own.parent)
        own = near[own.parent]
    return above


def _near(named: Mapping[Place, dict[str, Name]], place: Place) -> dict[str, Name]:
    """The findings of a place by name: those of its anatomy and of any; for any anatomy, those of the modality."""
    modality, anatomy = place
    wider = [names for (m, a), names in named.items() if m == modality and (a is None or anatomy in (None, a))]
    return {name: entry for names in wider for name, entry in names.items()}


def _by_place(vocabulary: Iterable[Name]) -> dict[Place, dict[str, Name]]:
    places: dict[Place, dict[str, Name]] = {}
    for entry in vocabulary:
        for place in entry.places:
            places.setdefault(place, {})[entry.name] = entry
    return places
