"""One worker's task: a teacher's rows of one shard. Batches never reach over its border, so it is a pure function.

n samples of the shard, d width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medweave.corpus.images import decode
from medweave.corpus.limits import BadImage, pillow_allows
from medweave.corpus.order import Numbers
from medweave.corpus.store import Corpus
from medweave.errors import DamagedError, UserError
from medweave.features.layout import Layout
from medweave.features.rows import Rows, encoded, write_array
from medweave.features.stamp import ShardRows, Stamp, is_of, is_whole, read_record, write_record
from medweave.features.texts import token_counts
from medweave.models.encoder import Encoder

Pixels = NDArray[np.uint8]
Looks = list[Pixels] | str | None  # one picture in all its views, or why it cannot be read; None: of no domain

IMAGES, TEXTS = 64, 256  # a batch
MOST_TEXTS = 255  # texts of a sample that get rows
TOLERANCE = 0.01  # how far the length of a row may be from 1


@dataclass(frozen=True)
class Job:
    """What all shards of one extraction share.

    stamp: what is to be in the end, with the shards that were finished before. texts: whether texts get rows.
    threads: that decode pictures.
    """

    corpus: Corpus
    encoder: Encoder
    layout: Layout
    stamp: Stamp
    texts: bool
    threads: int

    @property
    def views(self) -> int:
        """Augmented views of each picture."""
        return self.stamp.views.count if self.stamp.views else 0

    @cached_property
    def starts(self) -> Numbers:
        """The number of each shard's first sample, and of samples in all: int64 [shards + 1]."""
        return np.concatenate([[0], np.cumsum([facts["samples"] for facts in self.corpus.shards], dtype=np.int64)])

    def numbers(self, shard: int) -> range:
        """The samples of a shard."""
        return range(int(self.starts[shard]), int(self.starts[shard + 1]))

    def had(self, shard: int) -> ShardRows | None:
        """What there is of a shard as the corpus has it now; None where a file of it is lost, or an image repaired."""
        listed = self.stamp.shards[shard] if shard < len(self.stamp.shards) and shard not in self.repaired else None
        for rows in (read_record(self.layout, shard, self.stamp), listed):
            if rows is not None and self._is_of(rows, shard) and is_whole(rows, self.layout, shard, self.stamp):
                return rows
        return None

    @cached_property
    def repaired(self) -> set[int]:
        """The shards of the stamp with an image that could not be read and can be now."""
        shards = range(min(len(self.stamp.shards), len(self.corpus.shards)))
        return {shard for shard in shards if self._is_repaired(self.stamp.shards[shard], shard)}

    def _is_of(self, rows: ShardRows, shard: int) -> bool:
        return is_of(rows, self.corpus.shards[shard]) and rows.is_at(int(self.starts[shard]))

    def _is_repaired(self, rows: ShardRows, shard: int) -> bool:
        if not rows.unread or not self._is_of(rows, shard):
            return False
        numbers = self.starts[shard] + np.array(list(rows.unread))
        strata = [self.corpus.strata[stratum] for stratum in self.corpus.strata_at(numbers).tolist()]
        try:
            looks = (
                _looks(self, number, stratum.modality, range(rows.views + 1))
                for number, stratum in zip(numbers.tolist(), strata, strict=True)
            )
            return any(isinstance(one, list) for one in looks)
        except UserError:  # the shard itself cannot be read
            return False

    def is_enough(self, rows: ShardRows | None) -> bool:
        """Whether a shard's rows are all that was asked for."""
        return rows is not None and rows.views >= self.views and (rows.texts is not None or not self.texts)


def make_rows(job: Job, shard: int) -> Iterator[int]:
    """Write what is missing of one shard, then the record of it; gives the number of samples done, batch by batch.

    Raises UserError when a row is no number, when the disk is full, and when the shard itself is damaged.
    """
    had, facts = job.had(shard), job.corpus.shards[shard]
    views = range(had.views + 1 if had else 0, job.views + 1) if "images" in job.stamp.sides else range(0)
    rows = had or ShardRows(name=facts["name"], sha256=facts["sha256"], samples=facts["samples"])
    if views:
        unread = yield from _write_images(job, shard, views)
        first = int(job.starts[shard]) if job.views else None
        rows = rows.model_copy(update={"unread": unread, "views": job.views, "first": first})
    if job.texts and rows.texts is None:
        rows = rows.model_copy(update=_write_texts(job, shard))
    write_record(job.layout, shard, job.stamp, rows)
    if not views:
        yield facts["samples"]


def write_texts(
    layout: Layout, shard: int, rows: NDArray, tokens: NDArray[np.uint16], counts: Sequence[int]
) -> int | None:
    """Write what is to be said of a shard's texts; how many each sample has, None where that differs."""
    for old in (layout.text(shard), layout.tokens(shard), layout.counts(shard)):
        old.unlink(missing_ok=True)
    if len(rows):
        write_array(layout.text(shard), rows)
        write_array(layout.tokens(shard), tokens)
    if len(set(counts)) == 1:
        return counts[0]
    write_array(layout.counts(shard), np.array(counts, np.uint8))
    return None


def embed_texts(encoder: Encoder, texts: Sequence[str], whose: Callable[[int], str]) -> Rows:
    """[m] texts -> [m, d], each embedded once, those of like length together. whose: names a text that has no row."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    batches = [distinct[at : at + TEXTS] for at in range(0, len(distinct), TEXTS)]
    rows = [encoder.embed_texts(batch, TEXTS) for batch in batches]
    place = {text: at for at, text in enumerate(distinct)}
    found = np.concatenate(rows)[[place[text] for text in texts]] if rows else np.zeros((0, encoder.dim), np.float32)
    check_rows(found, whose)
    return found


def check_rows(rows: Rows, whose: Callable[[int], str]) -> None:
    """Raises UserError naming the first row that is not of length 1."""
    lengths = np.linalg.norm(rows, axis=1)
    odd = np.flatnonzero(~(np.abs(lengths - 1) < TOLERANCE))
    if len(odd):
        length = lengths[odd[0]]
        what = f"has length {length:.3g} instead of 1" if np.isfinite(length) else "is not a number"
        todo = "check the model's weights, or withdraw the sample from the corpus's source"
        raise UserError(f"the row of {whose(int(odd[0]))} {what}", todo=todo)


def _write_images(job: Job, shard: int, views: Sequence[int]) -> Generator[int, None, dict[int, str]]:
    """Rows of the views of each picture; returns the place of each that cannot be read, and why.

    Pictures of a modality that the teacher was not made for keep rows of zeros.
    """
    numbers, stamp = job.numbers(shard), job.stamp
    stored = {view: np.zeros((len(numbers), stamp.width), stamp.dtype) for view in views}
    unread: dict[int, str] = {}
    for first, batch in _batches(job, numbers, views):
        unread |= {first + at: looks for at, looks in enumerate(batch) if isinstance(looks, str)}
        read = [(first + at, looks) for at, looks in enumerate(batch) if isinstance(looks, list)]
        places = [at for at, _ in read]
        for turn, view in enumerate(views if read else ()):
            rows = job.encoder.embed_pixels(np.stack([looks[turn] for _, looks in read]))
            check_rows(rows, partial(_sample, job, [numbers[at] for at in places]))
            stored[view][places] = encoded(rows, stamp.dtype)
        yield len(batch)
    for view, rows in stored.items():
        write_array(job.layout.image(shard, view), rows)
    return unread


def _batches(job: Job, numbers: range, views: Sequence[int]) -> Iterator[tuple[int, list[Looks]]]:
    """The place of a batch's first sample and its pictures, decoded by threads one batch ahead."""
    strata = job.corpus.places(numbers.start, numbers.stop)["stratum"].tolist()
    modalities = [job.corpus.strata[stratum].modality for stratum in strata]
    with ThreadPoolExecutor(job.threads) as pool:
        waiting: deque[tuple[int, list[Future[Looks]]]] = deque()
        for first in range(0, len(numbers), IMAGES):
            part = slice(first, first + IMAGES)
            pairs = zip(numbers[part], modalities[part], strict=True)
            waiting.append((first, [pool.submit(_looks, job, number, kind, views) for number, kind in pairs]))
            if len(waiting) > 1:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)


def _taken(waiting: deque[tuple[int, list[Future[Looks]]]]) -> tuple[int, list[Looks]]:
    first, futures = waiting.popleft()
    return first, [future.result() for future in futures]


def _looks(job: Job, number: int, modality: str, views: Sequence[int]) -> Looks:
    """One picture as the teacher sees it: whole (view 0), and augmented."""
    if not job.stamp.teacher.knows(modality):
        return None
    data, preprocess = job.corpus.read(number), job.encoder.preprocess
    try:
        with pillow_allows(job.corpus.limits.pixels):
            looks = [preprocess.array(data)] if 0 in views else []
        array = decode(data, grey=True, limits=job.corpus.limits) if views[-1] else None
    except (DamagedError, BadImage) as error:
        return str(error)
    how = job.stamp.views
    if how is not None and array is not None:
        seen = (how.picture(array, preprocess.size, modality, number, view) for view in views if view)
        looks += [_brightness(square) if preprocess.grey else square for square in seen]
    return looks


def _brightness(square: Pixels) -> Pixels:
    """What a model of one channel sees: uint8 [s, s, 3] -> [s, s, 3]."""
    return np.asarray(Image.fromarray(square).convert("L").convert("RGB"))


def _write_texts(job: Job, shard: int) -> dict[str, Any]:
    """Rows of the samples' own texts, with their lengths; what the record says of them."""
    numbers = job.numbers(shard)
    own = [[text["text"] for text in job.corpus.fields(number)["texts"]][:MOST_TEXTS] for number in numbers]
    owner = [number for number, texts in zip(numbers, own, strict=True) for _ in texts]
    texts = [text for some in own for text in some]
    rows = embed_texts(job.encoder, texts, partial(_sample, job, owner))
    tokens = token_counts(job.encoder, texts)
    cut = int((tokens > (job.stamp.teacher.context or np.inf)).sum())
    each = write_texts(job.layout, shard, encoded(rows, job.stamp.dtype), tokens, [len(some) for some in own])
    return {"texts": len(texts), "each": each, "cut": cut}


def _sample(job: Job, numbers: Sequence[int], at: int) -> str:
    """What a message calls a sample."""
    return f"sample {job.corpus.fields(numbers[at])['id']!r}"
