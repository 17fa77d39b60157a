"""A table of corrected labels, checked against corpus and vocabulary, into an overlay that takes their place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from medweave.corpus import overlays
from medweave.corpus.manifest import columns_of, rows_of
from medweave.corpus.parquet import opened
from medweave.corpus.sample import STATES, State
from medweave.corpus.vocabulary import Vocabulary, plain
from medweave.errors import RequestError, mistakes, nearest
from medweave.files import only_writer

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

COLUMNS = ("id", "finding", "state")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
Mistake = tuple[int, str]  # number of the row, what is wrong


class _Row(NamedTuple):
    """One correction as it was written; the first row has number 1."""

    number: int
    id: str
    finding: str
    state: str


class _Words:
    """Which findings there are: those of the vocabulary, and whatever else the corpus has in a modality.

    own: modality -> plain spelling -> name.
    """

    def __init__(self, vocabulary: Vocabulary, own: dict[str, dict[str, str]]) -> None:
        self.vocabulary, self.own = vocabulary, own

    def canonical(self, label: str, sample: dict[str, Any]) -> str | None:
        """The finding that a label means in a sample; None where nothing is called so."""
        known = self.vocabulary.canonical(label, sample["modality"], sample["anatomy"])
        return known or self.own[sample["modality"]].get(plain(label))

    def nearest(self, label: str, sample: dict[str, Any]) -> list[str]:
        """The names that are spelt most like a label."""
        known = self.vocabulary.nearest(label, sample["modality"], sample["anatomy"])
        return list(dict.fromkeys([*known, *nearest(label, self.own[sample["modality"]].values())]))[:3]


def write_labels(corpus: Corpus, file: Path | str, name: str) -> int:
    """Keep the corrections of a CSV or Parquet file, columns id, finding, state, as an overlay; how many they are.

    Synonyms of the vocabulary become its names. As in a build, what a present finding implies is present too where a
    sample names it. Raises RequestError listing every mistake.
    """
    folder, rows = corpus.local_path(), _read(Path(file))
    _check_name(corpus, name)
    built = corpus.with_labels(None)
    samples, words = _samples(built, rows), _Words(corpus.vocabulary(), _own_names(built))
    told: dict[tuple[str, str], _Row] = {}
    wrong = [mistake for row in rows for mistake in _take_in(row, samples, words, told)]
    wrong += _imply(told, samples, words.vocabulary)
    if wrong:
        raise mistakes(_lines(wrong), file)
    found = [{"id": sample, "finding": finding, "state": row.state} for (sample, finding), row in sorted(told.items())]
    with only_writer(folder):
        overlays.write_table(folder / overlays.file_of(name), pa.Table.from_pylist(found, SCHEMA))
    return len(found)


def _read(file: Path) -> list[_Row]:
    """The rows of a file. Raises RequestError where it cannot be read, lacks a column or has no row."""
    missing = [column for column in COLUMNS if column not in columns_of(file)]
    if missing:
        raise RequestError(f"no column {', '.join(missing)}", where=file, todo=f"corrections have {', '.join(COLUMNS)}")
    rows = [_Row(number, *(str(row[column]).strip() for column in COLUMNS)) for number, row in rows_of(file)]
    if not rows:
        raise RequestError("no correction", where=file)
    return rows


def _check_name(corpus: Corpus, name: str) -> None:
    """Raises RequestError for a name that is no plain one, or that another kind of overlay has."""
    if not corpus.has_overlay(name):
        return
    with opened(overlays.path_of(corpus.place, name), overlays.AGAIN) as file:
        columns = file.schema_arrow.names
    if "finding" not in columns:
        raise RequestError(f"overlay {name} is there and holds no labels", todo="choose another name")


def _samples(corpus: Corpus, rows: list[_Row]) -> dict[str, dict[str, Any]]:
    """What the corpus says of each sample that is named: id -> modality, anatomy, findings (name -> state)."""
    ids = list(dict.fromkeys(row.id for row in rows))
    numbers = corpus.numbers_of(ids)
    table = corpus.take(numbers[numbers >= 0], ["id", "modality", "anatomy", "findings"]).to_pylist()
    for sample in table:
        sample["findings"] = {finding["name"]: finding["state"] for finding in sample["findings"] or ()}
    return {sample["id"]: sample for sample in table}


def _own_names(corpus: Corpus) -> dict[str, dict[str, str]]:
    """modality -> the findings that the corpus has in it: plain spelling -> name."""
    names: dict[str, dict[str, str]] = {stratum.modality: {} for stratum in corpus.strata}
    for batch in corpus.batches(["modality", "findings"]):
        modality = batch["modality"].take(pc.list_parent_indices(batch["findings"]))
        pairs = pa.table({"modality": modality, "name": pc.list_flatten(batch["findings"]).field("name")})
        for pair in pairs.group_by(["modality", "name"]).aggregate([]).to_pylist():
            names[pair["modality"]][plain(pair["name"])] = pair["name"]
    return names


def _take_in(
    row: _Row, samples: dict[str, dict[str, Any]], words: _Words, told: dict[tuple[str, str], _Row]
) -> Iterator[Mistake]:
    """Add a row to what is told, (id, finding) -> row, and say what is wrong with it."""
    sample, state = samples.get(row.id), row.state.lower()
    finding = words.canonical(row.finding, sample) if sample else None
    if sample is None:
        yield row.number, f"no sample {row.id!r} in the corpus"
    elif finding is None:
        place = ", ".join(filter(None, (sample["modality"], sample["anatomy"])))
        near = " or ".join(words.nearest(row.finding, sample))
        remedy = f": did you mean {near}?" if near else ""
        yield row.number, f"no finding is called {row.finding!r} ({place}){remedy}"
    if state not in STATES:
        yield row.number, f"no state is called {row.state!r}: write {', '.join(STATES)}"
    elif finding is not None:
        before = told.setdefault((row.id, finding), row._replace(state=state))
        if before.state != state:
            yield row.number, f"{finding} is {state} in {row.id}, but {before.state} in row {before.number}"


def _imply(
    told: dict[tuple[str, str], _Row], samples: dict[str, dict[str, Any]], vocabulary: Vocabulary
) -> Iterator[Mistake]:
    """Make present what present findings imply, where a sample names it, and say what contradicts that."""
    for (sample, finding), row in list(told.items()):
        if row.state != State.PRESENT:
            continue
        facts = samples[sample]
        for wider in vocabulary.ancestors(finding, facts["modality"], facts["anatomy"]):
            other = told.get((sample, wider))
            if other is not None and other.state != State.PRESENT:
                yield other.number, f"{wider} is {other.state} in {sample}, but row {row.number} implies it: {finding}"
            elif facts["findings"].get(wider, State.PRESENT) != State.PRESENT:
                told[sample, wider] = row


def _lines(wrong: list[Mistake]) -> list[str]:
    """A line for each mistake; those that say the same share one, with their number."""
    rows: dict[str, list[int]] = {}
    for number, what in wrong:
        rows.setdefault(what, []).append(number)
    return [f"row {first}{f' and {len(more):,} more' if more else ''}: {what}" for what, (first, *more) in rows.items()]
