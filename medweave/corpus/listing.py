"""Sources -> a table of what they offer: labels made canonical, licences judged, nothing read of any pixels.

Rows are in the order of the recipe's sources, then as each source gives them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from medweave.corpus.licences import licence_class
from medweave.corpus.limits import check_bytes
from medweave.corpus.recipe import CorpusRecipe, LimitsRecipe, SourceRecipe
from medweave.corpus.sample import LICENCE_CLASSES, Sample, State
from medweave.corpus.shards import PLANNED
from medweave.corpus.vocabulary import Vocabulary, plain
from medweave.errors import unknown_name
from medweave.files import canonical_json
from medweave.recipe import kind_of

SCHEMA = pa.schema(
    [
        *PLANNED,
        pa.field("recipe", pa.int32()),  # number of the source in the recipe
        pa.field("place", pa.string()),  # where that source finds the pixels
    ]
)
BATCH = 10_000
STRENGTH = {State.PRESENT: 3, State.UNCERTAIN: 2, State.ABSENT: 1, State.UNKNOWN: 0}


class Skipped(NamedTuple):
    """One item that does not get into the corpus."""

    item: str
    source: str
    reason: str
    remedy: str


class Refused(NamedTuple):
    """Images that the recipe does not accept: the licence in the owner's words, and its class."""

    source: str
    licence_class: str
    licence: str | None


class Label(NamedTuple):
    """An owner's label where it occurs."""

    label: str
    modality: str
    anatomy: str | None


@dataclass
class Listing:
    """table: SCHEMA, with groups not known yet. refused, unmapped: how many images each."""

    table: pa.Table
    skipped: list[Skipped] = field(default_factory=list)
    refused: Counter[Refused] = field(default_factory=Counter)
    unmapped: Counter[Label] = field(default_factory=Counter)


def open_source(recipe: SourceRecipe) -> Any:
    """The source that a recipe describes: `samples()`, `image(place)`."""
    return kind_of("medweave.corpus.sources", recipe.kind, "Source")(recipe)


def fetched(source: Any, place: str, limits: LimitsRecipe) -> Any:
    """An image as its source gives it. Raises BadImage for one that is too large, before it is read."""
    if hasattr(source, "stat"):
        check_bytes(source.stat(place)[0] or 1, limits)
    return source.image(place)


def list_samples(recipe: CorpusRecipe, sources: Iterable[Any], vocabulary: Vocabulary) -> Listing:
    """Everything that the sources offer and the recipe accepts.

    Raises RequestError when a name in `accept` is neither a licence class nor a source.
    """
    listing = Listing(SCHEMA.empty_table())
    names: set[str] = set()
    rows = _rows(recipe, sources, vocabulary, listing, names)
    batches = [pa.RecordBatch.from_pylist(batch, SCHEMA) for batch in _batches(rows)]
    listing.table = pa.Table.from_batches(batches, SCHEMA)
    for word in recipe.accept:
        if word not in LICENCE_CLASSES and word not in names:
            raise unknown_name("licence class or source", word, {*LICENCE_CLASSES, *names}, where="corpus.accept")
    return listing


def _rows(
    recipe: CorpusRecipe, sources: Iterable[Any], vocabulary: Vocabulary, listing: Listing, names: set[str]
) -> Iterator[dict[str, Any]]:
    accepted = set(recipe.accept)
    ids: set[str] = set()
    for number, source in enumerate(sources):
        for sample in source.samples():
            names.add(sample.source)
            licence = sample.licence_class if sample.licence_class != "unknown" else licence_class(sample.licence)
            if not _is_utf8(sample.id + sample.place + sample.source):
                name = sample.id.encode(errors="backslashreplace").decode()
                listing.skipped.append(Skipped(name, str(number), "a name that is not UTF-8", "rename the file"))
            elif not accepted & {licence, sample.source}:
                listing.refused[Refused(sample.source, licence, sample.licence)] += 1
            elif sample.id in ids:
                remedy = "give each row its own columns.id, or take it off the manifest"
                listing.skipped.append(Skipped(sample.id, sample.source, "listed before under this id", remedy))
            else:
                ids.add(sample.id)
                findings = _canonical(sample, vocabulary, listing.unmapped)
                yield _row(sample, licence, findings, number)


def _is_utf8(name: str) -> bool:
    """Whether a name of a file was read as text; the bytes of another one stand in it as surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _row(sample: Sample, licence: str, findings: dict[str, State], number: int) -> dict[str, Any]:
    return {
        "id": sample.id,
        "source": sample.source,
        "split": sample.split,
        "modality": sample.modality,
        "anatomy": sample.anatomy,
        "patient": f"{sample.patient_scope or sample.source}/{sample.patient}" if sample.patient else None,
        "study": sample.study,
        "texts": [{"kind": text.kind, "text": text.text} for text in sample.texts],
        "findings": [{"name": name, "state": str(state)} for name, state in findings.items()],
        "licence": sample.licence,
        "licence_class": licence,
        "extra": canonical_json(dict(sample.extra)).decode(),
        "recipe": number,
        "place": sample.place,
    }


def _canonical(sample: Sample, vocabulary: Vocabulary, unmapped: Counter[Label]) -> dict[str, State]:
    """Canonical name -> state. What a present finding implies is never absent; unmapped labels keep their own words."""
    findings: dict[str, State] = {}
    for label, state in sample.findings.items():
        name = vocabulary.canonical(label, sample.modality, sample.anatomy)
        if name is None and state == State.ABSENT:  # of another body part of the same source
            name = vocabulary.canonical(label, sample.modality, None)
        if name is None:
            unmapped[Label(label, sample.modality, sample.anatomy)] += 1
            name = plain(label)
        if STRENGTH[state] >= STRENGTH[findings.get(name, State.UNKNOWN)]:
            findings[name] = state
    for name in [name for name, state in findings.items() if state == State.PRESENT]:
        for wider in vocabulary.ancestors(name, sample.modality, sample.anatomy):
            if wider in findings:
                findings[wider] = State.PRESENT
    return findings


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch
