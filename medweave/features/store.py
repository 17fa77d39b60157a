"""Stored rows, open for reading: any samples' rows of images, texts and captions, and where the teacher is trusted.

The arrays are mapped, so a reading worker holds what it reads and a few bytes a shard. b samples of a batch, d width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medweave.corpus.order import Numbers, Ranges
from medweave.corpus.store import Corpus
from medweave.errors import DamagedError, UserError, unknown_name
from medweave.features.layout import FOLDER, STAMP, Layout, layout_of
from medweave.features.rows import AGAIN, Column, Rows, decoded
from medweave.features.stamp import ANEW, Side, Stamp, changed, read_captions, read_stamp, teacher_of
from medweave.features.views import Views
from medweave.models.encoder import Encoder

PIECE = 4096  # samples of one piece
SHOWN = 3


class Features:
    """The rows of one teacher for one corpus; safe to share with threads, forked and spawned workers.

    A sample whose image could not be read, or is of a modality that the teacher was not made for, has an image row of
    zeros, and is not covered. verdicts: covered.parquet. Reading a row that is not a number, or whose file is not what
    was written, raises DamagedError with the file.
    """

    def __init__(self, corpus: Corpus, layout: Layout, stamp: Stamp, verdicts: Path | None = None) -> None:
        self.corpus, self.layout, self.stamp = corpus, layout, stamp
        self.verdicts = verdicts or layout.covered
        self.name, self.width = layout.folder.name, stamp.width
        samples = [shard.samples for shard in stamp.shards]
        self._starts = np.concatenate([[0], np.cumsum(samples, dtype=np.int64)])
        self._images = [
            Column(partial(layout.image, view=view), samples, stamp.dtype, stamp.width)
            for view in range(1 + (stamp.views.count if stamp.views else 0))
        ]
        texts = [shard.texts or 0 for shard in stamp.shards]
        self._texts = Column(layout.text, texts, stamp.dtype, stamp.width)
        self._tokens = Column(layout.tokens, texts, np.uint16)
        self._counts = Column(layout.counts, samples, np.uint8)
        self._firsts = lru_cache(maxsize=1024)(self._firsts_of)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_features, (self.corpus, self.name, None, self.layout.folder.parent, self.verdicts)

    def with_verdicts(self, file: Path) -> Features:
        """The same rows, trusted where another covered.parquet says so."""
        return Features(self.corpus, self.layout, self.stamp, file)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Which towers the teacher has."""
        return self.stamp.sides

    @cached_property
    def has_texts(self) -> bool:
        """Whether the samples' own texts have rows."""
        return all(shard.texts is not None for shard in self.stamp.shards)

    @cached_property
    def views(self) -> Views | None:
        """How the augmented views are made. Raises UserError when they would be made otherwise now."""
        views = self.stamp.views
        if views is not None and self.stamp.specimen is not None:
            views.check(self.stamp.specimen, self.layout.folder)
        return views

    @cached_property
    def captions(self) -> dict[str, int]:
        """The captions that have rows -> their place in the bank."""
        return {caption: at for at, caption in enumerate(read_captions(self.layout).captions)}

    def image(self, numbers: Numbers, views: NDArray[np.int64] | None = None) -> Rows:
        """Rows of images, [b, d]. views: [b], for each sample 0 for the whole picture, or the number of a view."""
        self._check("images", "images" in self.sides)
        shards, places = self._where(numbers)
        if views is None:
            return self._rows(self._images[0], shards, places)
        rows = np.empty((len(shards), self.width), np.float32)
        for view in np.unique(views).tolist():
            self._check(f"view {view}", view in range(len(self._images)))
            here = np.flatnonzero(views == view).tolist()
            rows[here] = self._rows(self._images[view], [shards[at] for at in here], [places[at] for at in here])
        return rows

    def text(self, numbers: Numbers, which: NDArray[np.int64] | None = None) -> Rows:
        """Rows of the samples' own texts, [b, d]. which: [b], the place of each in its sample's `texts`; None: 0."""
        return self._rows(self._texts, *self._where_text(numbers, which))

    def tokens(self, numbers: Numbers, which: NDArray[np.int64] | None = None) -> NDArray[np.uint16]:
        """How many tokens those texts have before they are cut, [b]."""
        return self._tokens.take(*self._where_text(numbers, which))

    def cut(self, numbers: Numbers, which: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Whether the teacher has seen but the beginning of those texts, [b]."""
        context = self.stamp.teacher.context
        tokens = self.tokens(numbers, which)
        return tokens > context if context is not None else np.zeros(len(tokens), bool)

    def text_counts(self, numbers: Numbers) -> NDArray[np.int64]:
        """How many texts of each sample have rows, [b]."""
        self._check("texts", self.has_texts)
        firsts = [(self._firsts(shard), place) for shard, place in zip(*self._where(numbers), strict=True)]
        return np.array([first[place + 1] - first[place] for first, place in firsts], np.int64)

    def bank(self, captions: Sequence[str]) -> Rows:
        """Rows of captions, [m, d]. Raises UserError naming one that has none."""
        places, unknown = self.captions, [text for text in captions if text not in self.captions]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise UserError(f"no row of the caption {unknown[0]!r}{more}", where=self.name, todo="extract it")
        rows = decoded(np.array(self._bank[[places[text] for text in captions]]))
        if not _is_finite(rows):
            raise _not_a_number(self.layout.bank)
        return rows

    def covered(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which samples the teacher is trusted on, [b]: all that have rows, where nothing was measured."""
        numbers = np.asarray(numbers, np.int64)
        if not self.verdicts.exists():
            return ~np.isin(numbers, self.unread) & self._known[self.corpus.strata_at(numbers)]
        bits = self._covered
        return (bits[numbers >> 3] >> (7 - (numbers & 7)).astype(np.uint8) & 1).astype(bool)

    def scores(self, numbers: Numbers) -> Rows:
        """How well the teacher did where it was measured, [b]: the score in covered.parquet; NaN elsewhere."""
        return self._scores[np.asarray(numbers, np.int64)].astype(np.float32)

    @cached_property
    def unread(self) -> Numbers:
        """The samples whose image could not be read, ascending."""
        shards = zip(self._starts.tolist(), self.stamp.shards, strict=False)
        return np.array([start + at for start, shard in shards for at in sorted(shard.unread)], np.int64)

    def pieces(self, numbers: Ranges | None = None) -> Iterator[Numbers]:
        """Sample numbers, all by default, in pieces for passes over more rows than memory holds."""
        ranges = numbers or Ranges(np.array([0]), np.array([len(self)]))
        ends = np.cumsum(ranges.stops - ranges.starts)
        for first in range(0, len(ranges), PIECE):
            places = np.arange(first, min(first + PIECE, len(ranges)))
            run = np.searchsorted(ends, places, side="right")
            yield places + (ranges.stops - ends)[run]

    def every_text(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Each text of some samples: the number of its sample and its place there, two [t]."""
        counts = self.text_counts(numbers)
        firsts = np.cumsum(counts) - counts
        return np.repeat(numbers, counts), np.arange(counts.sum()) - np.repeat(firsts, counts)

    def _rows(self, column: Column, shards: list[int], places: list[int]) -> Rows:
        """The rows at some places of some shards, [b, d]. Raises DamagedError for one that is not a number."""
        rows = decoded(column.take(shards, places))
        if not _is_finite(rows):
            first = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
            raise _not_a_number(column.file_of(shards[first]))
        return rows

    def _where(self, numbers: Numbers) -> tuple[list[int], list[int]]:
        """The shard and the place in it of some samples."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(f"samples {numbers.min()} to {numbers.max()} of {len(self)}")
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return shards.tolist(), (numbers - self._starts[shards]).tolist()

    def _where_text(self, numbers: Numbers, which: NDArray[np.int64] | None) -> tuple[list[int], list[int]]:
        self._check("texts", self.has_texts)
        shards, samples = self._where(numbers)
        asked = [0] * len(shards) if which is None else np.asarray(which).tolist()
        places = []
        for shard, sample, one in zip(shards, samples, asked, strict=True):
            firsts = self._firsts(shard)
            place = firsts[sample] + one
            if not firsts[sample] <= place < firsts[sample + 1]:
                raise IndexError(f"text {one} of sample {self._starts[shard] + sample}")
            places.append(place)
        return shards, places

    def _firsts_of(self, shard: int) -> list[int]:
        """The place of each sample's first text among those of its shard, and how many there are: [samples + 1]."""
        rows = self.stamp.shards[shard]
        if rows.each is not None:
            return (rows.each * np.arange(rows.samples + 1)).tolist()
        return [0, *np.cumsum(self._counts.whole(shard), dtype=np.int64).tolist()]

    @cached_property
    def _bank(self) -> NDArray[Any]:
        try:
            rows = np.load(self.layout.bank, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            raise DamagedError("missing or damaged", where=self.layout.bank, todo=AGAIN) from None
        if rows.dtype != self.stamp.dtype or rows.shape[1:] != (self.width,) or len(rows) < len(self.captions):
            raise DamagedError("does not fit its captions", where=self.layout.bank, todo=AGAIN)
        return rows

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        """Which strata of the corpus are of a modality that the teacher was made for."""
        return np.array([self.stamp.teacher.knows(stratum.modality) for stratum in self.corpus.strata], bool)

    @cached_property
    def _covered(self) -> NDArray[np.uint8]:
        return np.packbits(self._trust("covered", np.bool_))

    @cached_property
    def _scores(self) -> NDArray[np.float16]:
        if not self.verdicts.exists():
            return np.full(len(self), np.nan, np.float16)
        return self._trust("score", np.float16)

    def _trust(self, column: str, dtype: npt.DTypeLike) -> NDArray[Any]:
        """A column of covered.parquet, [samples]. Raises UserError where it is about other rows, or damaged."""
        found, first = np.empty(len(self), dtype), 0
        try:
            with pq.ParquetFile(self.verdicts) as file:
                made_for = (file.schema_arrow.metadata or {}).get(b"rows", b"").decode()
                if made_for != self.stamp.rows_hash or file.metadata.num_rows != len(self):
                    raise UserError("made for other rows", where=self.verdicts, todo=AGAIN)
                for batch in file.iter_batches(columns=[column]):
                    found[first : first + len(batch)] = batch.column(0).to_numpy(zero_copy_only=False)
                    first += len(batch)
        except (OSError, pa.ArrowException):
            todo = "delete this file and run the same command again"
            raise DamagedError("damaged", where=self.verdicts, todo=todo) from None
        return found

    def _check(self, what: str, there: bool) -> None:
        if not there:
            raise UserError(f"no rows of {what}", where=self.layout.folder, todo="extract them")


def open_features(
    corpus: Corpus, name: str, encoder: Encoder | None = None, root: Path | None = None, verdicts: Path | None = None
) -> Features:
    """The rows of a teacher for a corpus. encoder: the teacher itself, to be sure that they are its.

    root: the folder of all teachers' rows, where it is not the corpus's own. verdicts: a covered.parquet elsewhere.
    Raises RequestError when there are none of that name, UserError when they are of another teacher, or not of the
    corpus's shards as they are now.
    """
    layout = layout_of(corpus, name, root)
    stamp = read_stamp(layout)
    if stamp is None:
        raise unknown_name("teacher with rows", name, names(corpus, root), where=layout.folder.parent)
    if encoder is not None:
        told = {"teacher": teacher_of(encoder, encoder.name), "width": encoder.dim, "sides": encoder.sides}
        now = stamp.model_copy(update=told)
        if wrong := stamp.differences(now):
            raise UserError(f"rows of a teacher with other {' and '.join(wrong)}", where=layout.folder, todo=ANEW)
    if wrong := stale(corpus, stamp):
        more = f" and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        raise UserError(f"{'; '.join(wrong[:SHOWN])}{more}", where=layout.folder, todo=AGAIN)
    return Features(corpus, layout, stamp, verdicts)


def names(corpus: Corpus, root: Path | None = None) -> list[str]:
    """The teachers that have rows for a corpus. Raises RequestError for a remote corpus without `root`."""
    folder = root or corpus.local_path() / FOLDER
    return sorted(path.parent.name for path in folder.glob(f"*/{STAMP}"))


def stale(corpus: Corpus, stamp: Stamp) -> list[str]:
    """What keeps the rows of a stamp from being those of a corpus: a phrase a shard."""
    wrong = [f"{shard} since its rows were made" for shard in changed(corpus, stamp)]
    wrong += [f"{facts['name']} has no rows yet" for facts in corpus.shards[len(stamp.shards) :]]
    if len(stamp.shards) > len(corpus.shards):
        wrong.append(f"{len(stamp.shards) - len(corpus.shards)} shards are gone")
    return wrong


def _is_finite(rows: Rows) -> bool:
    """Whether all numbers are. Squares of half precision cannot overflow, and their sum is cheaper than `isfinite`."""
    return math.isfinite(np.vdot(rows, rows))


def _not_a_number(file: Path) -> DamagedError:
    todo = f"delete this file and {AGAIN}"
    return DamagedError("a row is not a number", where=file, todo=todo)


__all__ = ["Features", "names", "open_features"]
