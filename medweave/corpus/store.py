"""A built corpus and its random-access reader. A sample's number is its row in the index.

A worker that reads holds no index: it looks a sample's place up in places.npy with one small read, and the sample's
fields lie beside its pixels in the tar. Memory is therefore flat in the number of samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medweave.corpus import overlays, verify
from medweave.corpus.address import address
from medweave.corpus.corrections import Corrections
from medweave.corpus.order import Numbers
from medweave.corpus.parquet import opened
from medweave.corpus.recipe import LimitsRecipe
from medweave.corpus.remote import LocalFolder, Place, RemoteFolder, cache_folder
from medweave.corpus.shards import BLOCK, HEAD, INDEX, read_fields
from medweave.corpus.vocabulary import Vocabulary, load
from medweave.errors import DamagedError, RequestError, UserError, unknown_name
from medweave.files import hash_of_file

FORMAT = 1
BANKS, FINDINGS = "captions", "findings.yaml"
PLACES = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("stratum", "<u2")])
NEIGHBOURS = 64  # samples that one remote read brings
ROWS = 8192  # rows of the index that are held at a time
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True)
class Stratum:
    """The samples [start, stop) of one source, split and modality: they lie together."""

    source: str
    split: str
    modality: str
    start: int
    stop: int


class Corpus:
    """A built corpus, open for reading; safe to share with threads, forked and spawned workers.

    path: its folder or URL. facts: corpus.json. hash: of its whole content. strata: in order of sample numbers.
    labels: the overlay whose findings stand in place of those that were built in; None: no overlay.
    """

    def __init__(self, path: Path | str, place: Place, facts: dict[str, Any], labels: str | None = None) -> None:
        self.path, self.facts, self.labels = path, facts, labels
        self.hash: str = facts["hash"]
        self.shards: list[dict[str, Any]] = facts["shards"]
        self.strata = list(_strata(facts["strata"]))
        self.place = place
        self._table = LocalFolder(place.local("places.npy").parent)
        self._first_place = _first_place(place.local("places.npy"), len(self))
        self._corrections: Corrections | None = None
        if labels is not None:
            self._corrections = Corrections.read(self, labels)

    def __len__(self) -> int:
        return int(self.facts["samples"])

    def __reduce__(self) -> tuple[Any, ...]:
        cache = self.place.root if isinstance(self.place, RemoteFolder) else None
        return open_corpus, (self.path, cache, self.labels)

    def with_labels(self, name: str | None) -> Corpus:
        """The same corpus with the findings that an overlay of labels corrects; None: as it was built."""
        return Corpus(self.path, self.place, self.facts, name)

    @property
    def block(self) -> int:
        """How many neighbours are best visited together: those that one read from afar brings; 1 on a disk."""
        return NEIGHBOURS if isinstance(self.place, RemoteFolder) else 1

    @cached_property
    def _stratum_starts(self) -> Numbers:
        return np.array([stratum.start for stratum in self.strata])

    @cached_property
    def limits(self) -> LimitsRecipe:
        """What its images may be."""
        return LimitsRecipe.model_validate(self.facts["recipe"]["limits"])

    def places(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of places.npy, dtype PLACES."""
        first, last = (self._first_place + number * PLACES.itemsize for number in (start, stop))
        return np.frombuffer(self._table.range("places.npy", first, last), PLACES)

    def strata_at(self, numbers: Numbers) -> Numbers:
        """The place in `strata` of each sample, int64 [n]."""
        return np.searchsorted(self._stratum_starts, numbers, side="right") - 1

    def read(self, number: int) -> bytes:
        """The image file of one sample. Raises DamagedError, or UserError where its shard cannot be reached."""
        shard, offset, length = self._where(number)
        data = self._bytes(number, shard, offset, offset + length)
        if len(data) < length:
            raise self._cut_short(shard)
        return data

    def fields(self, number: int) -> dict[str, Any]:
        """All that is known of one sample, as its KEY.json says. Raises as `read`."""
        shard, offset, length = self._where(number)
        ahead = HEAD
        while True:
            tail = self._bytes(number, shard, offset + length, offset + length + ahead)
            found = read_fields(tail, length)
            if found is not None:
                return self._corrected_fields(number, found)
            if len(tail) < ahead:
                raise self._cut_short(shard)
            ahead *= 8

    def index(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The index, one row a sample: [len(self), columns]. In memory: for a large corpus see `batches` and `take`."""
        names = INDEX.names if columns is None else list(columns)
        _check_columns(names)
        with self._parquet("index.parquet") as file:
            table = file.read(columns=names).slice(0, len(self)).select(names)
        return self._corrected(np.arange(len(self)), table)

    def batches(self, columns: Sequence[str], size: int = ROWS) -> Iterator[pa.RecordBatch]:
        """The index in pieces of up to `size` rows, front to back, for corpora larger than memory."""
        first = 0
        with self._parquet("index.parquet") as file:
            for batch in file.iter_batches(size, columns=list(columns)):
                rows = batch.slice(0, len(self) - first)
                yield self._corrected(np.arange(first, first + len(rows)), rows)
                first += len(rows)

    def take(self, numbers: Numbers, columns: Sequence[str]) -> pa.Table:
        """Some rows of the index, as they were asked for; parts of the file that hold none of them are not read."""
        _check_columns(columns)
        wanted, back = np.unique(numbers, return_inverse=True)
        parts = [pa.schema([INDEX.field(name) for name in columns]).empty_table()]
        with self._parquet("index.parquet") as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            ends = np.searchsorted(wanted, starts)
            for group in np.flatnonzero(np.diff(ends)).tolist():
                inside = wanted[ends[group] : ends[group + 1]] - starts[group]
                parts.append(file.read_row_group(group, columns=list(columns)).take(pa.array(inside)))
        return self._corrected(wanted, pa.concat_tables(parts)).take(pa.array(back))

    def numbers_of(self, ids: Sequence[str] | pa.Array) -> Numbers:
        """The numbers of samples by id, -1 for an id that is not there: int64 [n]. Streams the index."""
        wanted = pa.array(ids, pa.string())
        found = np.full(len(wanted), -1, np.int64)
        first = 0
        for batch in self.batches(["id"], overlays.piece(len(self))):
            at = pc.index_in(wanted, value_set=batch.column(0))
            found[np.asarray(at.is_valid())] = first + at.drop_null().to_numpy()
            first += len(batch)
        return found

    def overlay(self, name: str) -> pa.Table:
        """An overlay's table: id and its columns. Raises RequestError when there is none of that name."""
        return overlays.read(self.place, name)

    def overlay_pieces(self, name: str, columns: Sequence[str]) -> Iterator[tuple[Numbers, pa.RecordBatch]]:
        """An overlay piece by piece: the numbers of its samples, and these columns for them."""
        return overlays.pieces(self, name, columns)

    def has_overlay(self, name: str) -> bool:
        """Whether there is an overlay of that name."""
        return self.place.local(overlays.file_of(name), changing=True).exists()

    def overlay_hash(self, name: str) -> str:
        """sha256 of an overlay, for the results that rest on it."""
        return hash_of_file(overlays.path_of(self.place, name))

    def overlay_hashes(self, *names: str | None) -> dict[str, str]:
        """`overlay NAME` -> sha256 of the overlay, for the inputs of what rests on it; None is no overlay."""
        return {f"overlay {name}": self.overlay_hash(name) for name in names if name is not None}

    def write_overlay(self, name: str, table: pa.Table) -> None:
        """Keep a table of id and other columns beside the corpus. Raises RequestError for ids that are not there."""
        overlays.write(self, name, table)

    def write_labels(self, file: Path | str, name: str) -> int:
        """Keep the corrected labels of a table with the columns id, finding, state as an overlay; how many they are."""
        from medweave.corpus.correct import write_labels

        return write_labels(self, file, name)

    def withdrawn(self) -> set[int]:
        """The numbers of the samples that must not be used any more."""
        return overlays.withdrawn(self.place)

    def withdraw(self, ids: Sequence[str], reason: str) -> None:
        """Never give these samples again. Raises RequestError for ids that are not there."""
        overlays.withdraw(self, ids, reason)

    def skipped(self) -> pa.Table:
        """What the build left out: item, reason, remedy."""
        with self._parquet("skipped.parquet") as file:
            return file.read()

    def banks(self) -> list[Path]:
        """The caption banks of the corpus as local files, later ones winning."""
        return [self._file(f"{BANKS}/{name}", changing=True) for name in self.facts["banks"]]

    def vocabulary(self) -> Vocabulary:
        """The names of findings that the corpus was built with: the shipped ones, and its own where it has any."""
        return load(self._file(FINDINGS, changing=True) if self.facts.get("findings") else None)

    def verify(self) -> None:
        """Read every byte again. Raises UserError naming each damaged file and what to do."""
        damaged = verify.damaged(self.with_labels(None))
        if damaged:
            raise UserError(f"damaged: {', '.join(damaged)}", where=self.path, todo=verify.remedy(damaged))

    def shard_file(self, shard: int) -> str:
        """The name of a shard inside the corpus."""
        return f"shards/{self.shards[shard]['name']}"

    def local_path(self) -> Path:
        """The folder, for what writes into it. Raises RequestError for a remote corpus."""
        if isinstance(self.path, Path):
            return self.path
        raise RequestError("a remote corpus is read only", where=self.path, todo="write into a local copy")

    def _parquet(self, name: str) -> AbstractContextManager[pq.ParquetFile]:
        todo = verify.ANEW if isinstance(self.path, Path) else "delete this copy: it is fetched again"
        return opened(self._file(name), todo)

    def _file(self, name: str, changing: bool = False) -> Path:
        """A local file with the content of one of the corpus. Raises UserError where it is missing."""
        path = self.place.local(name, changing)
        if not path.exists():
            raise UserError("missing", where=f"{self.path}/{name}", todo=verify.remedy([name]))
        return path

    def _corrected(self, numbers: Numbers, rows: Rows) -> Rows:
        """Rows of the index, of samples in ascending order, with the findings of the overlay of labels."""
        place = rows.schema.get_field_index("findings")
        if self._corrections is None or place < 0:
            return rows
        findings = self._corrections.applied(numbers, rows.column(place))
        return rows.set_column(place, rows.schema.field(place), findings)

    def _corrected_fields(self, number: int, fields: dict[str, Any]) -> dict[str, Any]:
        if self._corrections is None:
            return fields
        return fields | {"findings": fields["findings"] | self._corrections.of(number)}

    def _where(self, number: int) -> tuple[int, int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        shard, offset, length, _ = self.places(number, number + 1)[0]
        return int(shard), int(offset), int(length)

    def _bytes(self, number: int, shard: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a shard, fewer at its end; from afar, out of a range that holds the neighbours too."""
        name = self.shard_file(shard)
        try:
            if isinstance(self.place, RemoteFolder):
                return self.place.within(name, self._block(number, shard), start, stop)
            return self.place.range(name, start, stop)
        except FileNotFoundError:
            raise DamagedError("the shard is missing", where=f"{self.path}/{name}", todo=verify.REMEDY) from None

    def _block(self, number: int, shard: int) -> tuple[int, int]:
        """The bytes of a shard that hold a sample and its neighbours: the same for each of them."""
        first = number - number % NEIGHBOURS
        rows = self.places(first, min(first + NEIGHBOURS + 1, len(self)))
        offsets = rows["offset"].astype(np.int64) - BLOCK
        here = np.flatnonzero(rows["shard"] == shard)
        after = here[here == NEIGHBOURS]
        return int(offsets[here[0]]), int(offsets[after[0]]) if len(after) else int(self.shards[shard]["bytes"])

    def _cut_short(self, shard: int) -> DamagedError:
        return DamagedError("the shard is cut short", where=f"{self.path}/{self.shard_file(shard)}", todo=verify.REMEDY)


def open_corpus(path: Path | str, cache: Path | None = None, labels: str | None = None) -> Corpus:
    """Open a built corpus: a folder, or an fsspec URL whose parts are kept in `cache`.

    labels: an overlay of corrected labels. Raises RequestError when there is no such corpus or overlay, UserError when
    it is not readable.
    """
    try:
        where = address(path)
    except ValueError as error:
        raise RequestError(str(error)) from None
    if isinstance(where, Path):
        return Corpus(where, LocalFolder(where), _facts(LocalFolder(where), where), labels)
    root = cache or cache_folder()
    facts = _facts(RemoteFolder(where, root), where)
    return Corpus(where, RemoteFolder(where, root, facts["hash"]), facts, labels)


def _check_columns(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in INDEX.names]
    if unknown:
        raise unknown_name("column of the index", unknown[0], INDEX.names)


def corpus_at(path: Path | str | None) -> Corpus | None:
    """The corpus in a folder or behind a URL; None where there is none that can be read."""
    try:
        return open_corpus(path) if path else None
    except UserError:
        return None


def _facts(place: Place, path: Path | str) -> dict[str, Any]:
    try:
        with place.open("corpus.json") as file:
            facts = json.load(file)
    except FileNotFoundError:
        todo = "build it with `medweave build RECIPE`" if isinstance(path, Path) else "check the URL"
        raise RequestError("no built corpus", where=path, todo=todo) from None
    except (ValueError, OSError) as error:
        raise UserError(f"corpus.json cannot be read: {error}", where=path) from None
    if facts.get("format") != FORMAT:
        found = facts.get("format")
        raise UserError(f"the corpus has format {found}, this version reads {FORMAT}", where=path, todo="build it anew")
    return facts


def _strata(listed: Sequence[dict[str, Any]]) -> Iterator[Stratum]:
    start = 0
    for facts in listed:
        stop = start + facts["samples"]
        yield Stratum(facts["source"], facts["split"], facts["modality"], start, stop)
        start = stop


def _first_place(path: Path, samples: int) -> int:
    """Where the rows of places.npy begin, in bytes."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise UserError("missing or damaged", where=path, todo=verify.ANEW) from None
    if table.dtype != PLACES or len(table) < samples:
        raise UserError("does not fit its corpus.json", where=path, todo=verify.ANEW)
    return int(table.offset)
