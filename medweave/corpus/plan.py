"""The plan of a corpus: which images, in which groups, on which side of the split; and what stays outside, and why.

sources -> listing (labels, licences) -> copies (first pass) -> groups -> sides and folds. The images of a corpus that
exists keep their side, and new ones that belong to their groups follow them. n rows: old images, then new ones.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medweave.corpus import columns, grouping, sides
from medweave.corpus.copies import find_copies
from medweave.corpus.listing import SCHEMA, Label, Listing, Refused, Skipped, list_samples, open_source
from medweave.corpus.recipe import SIDES, CorpusRecipe
from medweave.corpus.sample import Sample, State, somebody
from medweave.corpus.vocabulary import Vocabulary, load
from medweave.errors import RequestError
from medweave.progress import say

FEW_GROUPS = 3
SHOWN = 10  # largest groups
STORED = ["findings", "texts", "patient"]  # what a source may tell otherwise of images that are in the corpus
COMPARED = 65_536  # images at once


class Group(NamedTuple):
    """A group of several images."""

    name: str
    images: int
    sources: tuple[str, ...]


class Thin(NamedTuple):
    """A finding that is present in too few groups of a source to be in every part of a split."""

    source: str
    finding: str
    images: int
    groups: int


class Crowd(NamedTuple):
    """A source in which single patients have more than the recipe's largest share: how many, and the largest."""

    source: str
    patients: int
    patient: str
    images: int
    of: int


@dataclass
class Plan:
    """What a build will do.

    table: `listing.SCHEMA`, one row a new image, sources in recipe order. folds: id, fold, inner of old and new images.
    skipped, refused, unmapped (label -> images, nearest names): what stays outside, or keeps its own words.
    groups, largest, near (pairs), thin, crowds: of old and new images. bytes: of the new files, None where not read.
    """

    recipe: CorpusRecipe
    table: pa.Table
    folds: pa.Table | None
    skipped: list[Skipped]
    refused: Counter[Refused]
    unmapped: dict[Label, tuple[int, list[str]]]
    groups: int = 0
    largest: list[Group] = field(default_factory=list)
    near: int = 0
    thin: list[Thin] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)
    bytes: int | None = None
    old: int = 0


def make_plan(recipe: CorpusRecipe, existing: pa.Table | None = None, folds: pa.Table | None = None) -> Plan:
    """The plan of a recipe. existing, folds: index and fold overlay of the corpus that new images are added to.

    Raises RequestError for a wrong recipe or manifest, when no image is left, and when near-duplicates chain more of a
    source together than the recipe allows.
    """
    sources = [open_source(source) for source in recipe.sources]
    vocabulary = load(recipe.findings)
    listing = listed(recipe, sources, vocabulary)
    old = SCHEMA.empty_table() if existing is None else _as_plan(existing)
    at = pc.index_in(listing.table["id"], value_set=old["id"].combine_chunks())
    _tell_of_changes(listing.table, old, at)
    new = listing.table.filter(pc.is_null(at))
    rows = _Rows(pa.concat_tables([old, new]), len(old), listing.skipped)

    copies = find_copies(rows.table, rows.old, sources, recipe)
    pairs = rows.leave_out(copies.reasons, copies.pairs)
    if not len(rows.table):
        raise _nothing_left(listing)
    groups = _Groups.of(rows.table, rows.old, pairs)
    groups.check(rows.table, recipe)
    parts = sides.parts_of(rows.table, folds)
    fixed, reasons = sides.settled(rows.table, rows.old, groups.group, parts)
    if reasons:  # what they tied together falls apart again
        parts, pairs = parts[rows.kept(reasons)], rows.leave_out(reasons, pairs)
        groups = _Groups.of(rows.table, rows.old, pairs)
        fixed, _ = sides.settled(rows.table, rows.old, groups.group, parts)
    side = sides.dealt(rows.table, groups.group, groups.names, fixed, recipe)

    rows.table = columns.replaced(
        rows.table,
        split=pa.array(SIDES).take(pa.array(side)),
        group=pa.array(groups.names[groups.group].tolist(), pa.string()),
    )
    return Plan(
        recipe,
        rows.table.slice(rows.old),
        sides.folds(rows.table, groups.group, parts, recipe),
        skipped=rows.skipped,
        refused=listing.refused,
        unmapped={label: (n, vocabulary.nearest(*label)) for label, n in listing.unmapped.most_common()},
        groups=len(np.unique(groups.group)),
        largest=groups.largest(rows.table),
        near=len(pairs),
        thin=_thin(rows.table, groups.group),
        crowds=_crowds(rows.table, recipe),
        bytes=copies.bytes,
        old=rows.old,
    )


def listed(recipe: CorpusRecipe, sources: Sequence[Any], vocabulary: Vocabulary) -> Listing:
    """What the sources offer, with patients that stand for nobody as not known, and extra values as plain JSON.

    Raises RequestError for a wrong manifest, and for a name in `accept` that is neither a licence class nor a source.
    """
    return list_samples(recipe, [_Told(source) for source in sources], vocabulary)


class _Told:
    """A source as the plan takes its rows over."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def samples(self) -> Iterator[Sample]:
        """The source's samples, in its order."""
        for sample in self.source.samples():
            extra = {name: _json(value) for name, value in sample.extra.items()}
            yield replace(sample, patient=somebody(sample.patient), extra=extra)


def _json(value: Any) -> Any:
    """A value of a manifest as JSON has it: dates as ISO text, null for what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _json(item) for name, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else str(value)


def _as_plan(index: pa.Table) -> pa.Table:
    """The index of a corpus with the columns of a plan. Its sources are not asked again."""
    own = set(index.column_names)
    return pa.table(
        [index[f.name].cast(f.type) if f.name in own else pa.nulls(len(index), f.type) for f in SCHEMA], schema=SCHEMA
    )


def _tell_of_changes(listing: pa.Table, old: pa.Table, at: pa.ChunkedArray) -> None:
    """One line for images of the corpus that their source tells otherwise by now. at: places in `old`, or null."""
    changed = 0
    known = listing.select(STORED).filter(pc.is_valid(at))
    places = at.drop_null().to_numpy()
    for start in range(0, len(known), COMPARED):
        some = columns.taken(old.select(STORED), places[start : start + COMPARED])
        pairs = zip(some.to_pylist(), known.slice(start, COMPARED).to_pylist(), strict=True)
        changed += sum(_sorted(before) != _sorted(now) for before, now in pairs)
    if changed:
        say(
            f"WARNING: {changed:,} images of the corpus have other findings, texts or patients in their source by now. "
            "What is stored stays: correct findings by an overlay (docs/corpus.md), or build into a new path"
        )


def _sorted(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"findings": sorted(row["findings"], key=lambda finding: finding["name"])}


def _nothing_left(listing: Listing) -> RequestError:
    refused = sum(listing.refused.values())
    classes = ", ".join(sorted({item.licence_class for item in listing.refused}))
    if refused:
        return RequestError(
            f"no image is left: {refused:,} are refused by licence", todo=f"accept what you may use of: {classes}"
        )
    if listing.skipped:
        first = listing.skipped[0]
        return RequestError(
            f"no image is left: all are skipped, {first.item} because {first.reason}", todo=first.remedy
        )
    return RequestError("the sources hold no image", todo="check their paths, include and exclude")


@dataclass
class _Rows:
    """Old and new rows of a plan in the making, and the new ones that left it."""

    table: pa.Table
    old: int
    skipped: list[Skipped]

    def kept(self, reasons: Mapping[int, tuple[str, str]]) -> np.ndarray:
        """bool [n]: which rows stay."""
        kept = np.ones(len(self.table), bool)
        kept[list(reasons)] = False
        return kept

    def leave_out(self, reasons: Mapping[int, tuple[str, str]], pairs: np.ndarray | None = None) -> np.ndarray:
        """List rows as skipped and drop them; the pairs int64 [p,2] of the rows that stay, in their new numbers."""
        for row, (reason, remedy) in sorted(reasons.items()):
            item, source = self.table["id"][row].as_py(), self.table["source"][row].as_py()
            self.skipped.append(Skipped(item, source, reason, remedy))
        kept = self.kept(reasons)
        self.table = self.table.filter(pa.array(kept))
        pairs = np.empty((0, 2), np.int64) if pairs is None else pairs
        return (np.cumsum(kept) - 1)[pairs[kept[pairs].all(1)]]


@dataclass
class _Groups:
    """group: int64 [n] from 0. names: [g], the smallest id of each, or what an old group is called.

    person: int64 [n], the groups as they would be without near-duplicates.
    """

    group: np.ndarray
    names: np.ndarray
    person: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, old: int, pairs: np.ndarray) -> _Groups:
        """Connected components of same patient, same old group, and near-duplicate."""
        same = [grouping.same_value(columns.numbers(table[name])[0]) for name in ("patient", "group")]
        person = grouping.components(len(table), np.concatenate(same))
        group = grouping.components(len(table), np.concatenate([*same, pairs]))
        ids = np.array(table["id"].to_pylist(), object)
        names = np.empty(int(group.max(initial=-1)) + 1, object)
        descending = np.argsort(ids, kind="stable")[::-1]
        names[group[descending]] = ids[descending]
        names[group[:old]] = table["group"].slice(0, old).to_pylist()
        return cls(group, names, person)

    def check(self, table: pa.Table, recipe: CorpusRecipe) -> None:
        """Raises RequestError when near-duplicates chain too much of one source together."""
        source, names = columns.numbers(table["source"])
        size, limits = np.bincount(source), recipe.groups
        chained = np.bincount(np.unique(np.stack([self.group, self.person]), axis=1)[0]) > 1
        members, counts = np.unique(np.stack([self.group, source]), axis=1, return_counts=True)
        for place in np.argsort(-counts, kind="stable"):
            group, code, count = *members[:, place], counts[place]
            if chained[group] and count > max(limits.largest_images, limits.largest_share * size[code]):
                raise RequestError(
                    f"{count} of the {size[code]} images of {names[code]} hang together through near-duplicates, "
                    f"around {self.names[group]}",
                    todo=f"if they are false, raise groups.sources.{names[code]}.correlation; "
                    "if they are true, raise groups.largest_share",
                )

    def largest(self, table: pa.Table) -> list[Group]:
        """The largest groups of several images."""
        sizes = np.bincount(self.group)
        first = [int(g) for g in np.argsort(-sizes, kind="stable")[:SHOWN] if sizes[g] > 1]
        sources = [table["source"].filter(pa.array(self.group == g)).unique().to_pylist() for g in first]
        return [Group(self.names[g], int(sizes[g]), tuple(s)) for g, s in zip(first, sources, strict=True)]


def _thin(table: pa.Table, group: np.ndarray) -> list[Thin]:
    """Findings of a source that are present in fewer than three groups, those that are only ever absent included."""
    source, source_names = columns.numbers(table["source"])
    row, finding, names = columns.labels(table)
    seen = np.unique(source[row] * len(names) + finding)
    row, finding, names = columns.labels(table, State.PRESENT)
    present = np.searchsorted(seen, source[row] * len(names) + finding)
    images = np.bincount(present, minlength=len(seen))
    groups = np.bincount(np.unique(np.stack([present, group[row]]), axis=1)[0], minlength=len(seen))
    return [
        Thin(source_names[code // len(names)], names[code % len(names)], int(images[place]), int(groups[place]))
        for place, code in enumerate(seen)
        if groups[place] < FEW_GROUPS
    ]


def _crowds(table: pa.Table, recipe: CorpusRecipe) -> list[Crowd]:
    """The sources in which one patient has more images than a group of near-duplicates might have."""
    source, names = columns.numbers(table["source"])
    patient, people = columns.numbers(table["patient"])
    size = np.bincount(source, minlength=len(names))
    pairs, counts = np.unique(np.stack([source, patient])[:, patient >= 0], axis=1, return_counts=True)
    large = counts > np.maximum(recipe.groups.largest_images, recipe.groups.largest_share * size[pairs[0]])
    pairs, counts = pairs[:, large], counts[large]
    crowds = []
    for code in np.unique(pairs[0]):
        own = np.flatnonzero(pairs[0] == code)
        first = own[np.argmax(counts[own])]
        value = people[pairs[1, first]].partition("/")[2]
        crowds.append(Crowd(names[code], len(own), value, int(counts[first]), int(size[code])))
    return crowds
