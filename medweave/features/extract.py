"""Corpus x teacher -> rows on disk: resumable shard by shard, the same bytes from any number of processes.

Under torchrun (RANK, WORLD_SIZE) each process takes every R-th shard; inside a process, workers take one shard at a
time, each with one thread for the model. Whoever finishes the last shard writes the stamp. Until then, what is finished
of a shard is told by a record beside it, so a process that was killed goes on with the next shard.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from numpy.typing import NDArray

from medweave.cores import cores, share_of_cores
from medweave.corpus.engines import run
from medweave.corpus.store import Corpus, open_corpus
from medweave.errors import DamagedError, RequestError, UserError
from medweave.features.layout import BUILD, OF_A_SHARD, Layout, layout_of, name_of, writing
from medweave.features.make_rows import Job, embed_texts, make_rows
from medweave.features.rows import Kind, encoded, write_array
from medweave.features.stamp import (
    FORMAT,
    Captions,
    Stamp,
    changed,
    head_of,
    read_captions,
    read_stamp,
    teacher_of,
    write_captions,
    write_stamp,
)
from medweave.features.texts import bank_captions, token_counts
from medweave.features.views import Views
from medweave.files import only_writer
from medweave.models.encoder import Encoder
from medweave.models.load import load
from medweave.progress import say, track

PLACES = ".writers"
_jobs: list[Job] = []  # what forked workers find: a model is not sent to them


@dataclass(frozen=True)
class Extracted:
    """What there is of a teacher now. made: shards made by this call. left: shards that other processes still make."""

    name: str
    folder: Path
    width: int
    images: int
    views: int
    unread: int
    texts: int
    cut: int
    captions: int
    made: int
    left: int

    def text(self) -> str:
        """One line for a terminal."""
        rows = [f"{self.images:,} images" + (f" in {self.views + 1} views" if self.views else "")] * bool(self.images)
        if self.texts:
            rows.append(f"{self.texts:,} texts" + (f" ({self.cut:,} of them cut)" if self.cut else ""))
        rows += [f"{self.captions:,} captions"] * bool(self.captions)
        rows += [f"{self.unread:,} images that cannot be read"] * bool(self.unread)
        left = f"; {self.left} shards are left to other processes" if self.left else ""
        return f"{self.name}: rows of width {self.width} of {', '.join(rows)}; {self.made} shards made now{left}"


def extract(
    corpus: Corpus | Path | str,
    teacher: Encoder | Path | str,
    name: str | None = None,
    *,
    views: Views | None = None,
    texts: bool = True,
    bank: Sequence[str] | None = None,
    dtype: Kind = "float16",
    workers: int | None = None,
    replace: bool = False,
    root: Path | None = None,
) -> Extracted:
    """Store a teacher's rows of a corpus, go on where that stopped, or add what is new.

    teacher: an Encoder or a reference that `load` takes. name: of the rows; None: the card's, or the model's own.
    views: augmented views to store besides the whole pictures. texts: whether the samples' own texts get rows.
    bank: captions that get a row each; None: all that the corpus's banks have for its findings.
    workers: processes; None: one a core, or one that uses a GPU. replace: whether rows of another teacher, or another
    form, and rows whose stamp cannot be read, may be deleted first. root: the folder of all teachers' rows, where it is
    not the corpus's own.
    Raises RequestError when other rows lie under that name, UserError for a row or a scale that is no number and for a
    folder that cannot be written.
    """
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if replace and world > 1:
        raise RequestError("several processes cannot replace rows", todo="delete the folder of the old ones first")
    with _one_thread():
        encoder = teacher if isinstance(teacher, Encoder) else load(teacher, _device())
        reference = encoder.name if isinstance(teacher, Encoder) else str(teacher)
        layout = layout_of(corpus, name or name_of(encoder.facts.get("teacher") or encoder.name), root)
        asked = _stamp_of(encoder, reference, dtype, views)
        with writing(layout.folder), only_writer(_place_of(layout, rank)):
            workers = _workers(encoder, workers)
            stamp = _begun(corpus, layout, asked, replace)
            wants_texts = "texts" in stamp.sides and (texts or any(shard.texts is not None for shard in stamp.shards))
            job = Job(corpus, encoder, layout, stamp, wants_texts, max(1, cores() // workers))
            if "texts" in stamp.sides and rank == 0:
                _write_bank(job, bank_captions(corpus) if bank is None else bank)
            mine = [shard for shard in range(rank, len(corpus.shards), world) if not job.is_enough(job.had(shard))]
            for _ in track(_samples(job, mine, workers), f"images, {layout.folder.name}", _samples_in(job, mine)):
                pass
            return _finished(job, made=len(mine))


def _stamp_of(encoder: Encoder, reference: str, dtype: Kind, views: Views | None) -> Stamp:
    """What the rows of a model are made of, without any shard."""
    views = views if "images" in encoder.sides else None
    return Stamp(
        format=FORMAT,
        teacher=teacher_of(encoder, reference),
        width=encoder.dim,
        sides=encoder.sides,
        head=head_of(encoder),
        dtype=dtype,
        views=views,
        specimen=views.specimen() if views else None,
    )


def _begun(corpus: Corpus, layout: Layout, asked: Stamp, replace: bool) -> Stamp:
    """The stamp to work towards: what was asked for, and what lies there already."""
    with _alone(layout):
        old = _old_stamp(layout, replace)
        wrong = _differences(old, asked) if old else []
        if wrong and not replace:
            todo = "take another name, or delete them first: `--replace`"
            raise RequestError(f"rows with other {' and '.join(wrong)} lie there", where=layout.folder, todo=todo)
        if old is None or wrong:
            if layout.stamp.exists():
                _check_alone(layout)
            _clear(layout)
            write_stamp(layout, asked)
            return asked
    for shard in changed(corpus, old):
        say(f"{layout.folder.name}: {shard}, its rows are made anew")
    return old.with_views(asked)


def _old_stamp(layout: Layout, replace: bool) -> Stamp | None:
    """The stamp that lies there; None where there is none, or one that cannot be read and may be replaced."""
    try:
        return read_stamp(layout)
    except UserError:
        if not replace:
            raise
        return None


def _differences(old: Stamp, asked: Stamp) -> list[str]:
    """In what rows that lie there differ from those asked for; views are to be drawn as the old ones were."""
    return old.differences(asked) or ([] if old.is_drawn_alike else ["augmentation"])


def _check_alone(layout: Layout) -> None:
    """Raises UserError while a process of another rank writes rows here."""
    for place in layout.folder.glob(f"{PLACES}/[!0]*"):
        with only_writer(place):
            pass


def _clear(layout: Layout) -> None:
    """Delete all rows, the stamp last."""
    shutil.rmtree(layout.folder / BUILD, ignore_errors=True)
    for path in sorted(layout.folder.glob("[!.]*"), key=lambda path: path == layout.stamp):
        path.unlink()


def _write_bank(job: Job, captions: Sequence[str]) -> None:
    """Give each caption a row that has none yet, or whose row is lost; those that are known keep their order.

    The rows come first: a list that is behind them is still right.
    """
    layout = job.layout
    known = _known(layout)
    new = sorted(set(captions) - set(known.captions))
    before = _bank_rows(layout, job.stamp, len(known.captions))
    missing = [*known.captions[len(before) :], *new]
    if not missing:
        return
    rows = encoded(embed_texts(job.encoder, missing, lambda at: f"the caption {missing[at]!r}"), job.stamp.dtype)
    write_array(layout.bank, np.concatenate([before, rows]))
    tokens = token_counts(job.encoder, new).tolist()
    write_captions(layout, Captions(captions=(*known.captions, *new), tokens=(*known.tokens, *tokens)))


def _known(layout: Layout) -> Captions:
    """The captions that have rows; none where their list is damaged, which is deleted then."""
    try:
        return read_captions(layout)
    except DamagedError:
        layout.captions.unlink()
        return Captions()


def _bank_rows(layout: Layout, stamp: Stamp, count: int) -> NDArray[Any]:
    """The rows of the first `count` captions, as stored; none where the file is lost, cut or of another form."""
    none = np.zeros((0, stamp.width), stamp.dtype)
    try:
        rows = np.load(layout.bank, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return none
    fits = rows.dtype == stamp.dtype and rows.shape[1:] == (stamp.width,) and len(rows) >= count
    return np.array(rows[:count]) if fits else none


def _samples(job: Job, shards: Sequence[int], workers: int) -> Iterator[None]:
    """Make the rows of some shards; one item a sample that is done."""
    done = _in_processes(job, shards, workers) if min(workers, len(shards)) > 1 else _here(job, shards)
    return (None for count in done for _ in range(count))


def _here(job: Job, shards: Sequence[int]) -> Iterator[int]:
    for shard in shards:
        yield from make_rows(job, shard)


def _in_processes(job: Job, shards: Sequence[int], workers: int) -> Iterator[int]:
    _jobs.append(job)
    try:
        yield from run(_in_worker, shards, "local", min(workers, len(shards)))
    finally:
        _jobs.pop()


def _in_worker(shard: int) -> int:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return sum(make_rows(_jobs[-1], shard))


def _samples_in(job: Job, shards: Sequence[int]) -> int:
    return sum(len(job.numbers(shard)) for shard in shards)


def _finished(job: Job, made: int) -> Extracted:
    """Write the stamp when all shards have their rows, by whatever process; what there is now."""
    layout = job.layout
    with _alone(layout):
        found = [job.had(shard) for shard in range(len(job.corpus.shards))]
        rows = [shard for shard in found if shard is not None]
        left = sum(not job.is_enough(shard) for shard in found)
        stamp = job.stamp.model_copy(update={"shards": tuple(rows)})
        if not left and (stamp != read_stamp(layout) or (layout.folder / BUILD).exists()):
            write_stamp(layout, stamp)
            _forget(layout, len(rows))
    return Extracted(
        name=layout.folder.name,
        folder=layout.folder,
        width=stamp.width,
        images=sum(shard.samples for shard in rows) if "images" in stamp.sides else 0,
        views=job.views,
        unread=sum(len(shard.unread) for shard in rows),
        texts=sum(shard.texts or 0 for shard in rows),
        cut=sum(shard.cut for shard in rows),
        captions=len(read_captions(layout).captions),
        made=made,
        left=left,
    )


def _forget(layout: Layout, shards: int) -> None:
    """Remove the records, which the stamp says now, what killed processes left, and rows of shards that are gone."""
    shutil.rmtree(layout.folder / BUILD, ignore_errors=True)
    for draft in layout.folder.glob(".*.part"):
        draft.unlink(missing_ok=True)
    for path in layout.folder.glob("*.npy"):
        found = OF_A_SHARD.fullmatch(path.name)
        if found and int(found[1]) >= shards:
            path.unlink()


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Wait until no other process reads or writes the stamp."""
    with filelock.FileLock(layout.folder / ".turn"):
        yield


def _place_of(layout: Layout, rank: int) -> Path:
    """The folder whose lock says that a process of this rank writes rows."""
    return layout.folder / PLACES / str(rank)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order: rows do not depend on how many threads there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _device() -> str | None:
    """This process's GPU under torchrun; else what `load` takes by itself."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def _workers(encoder: Encoder, asked: int | None) -> int:
    """How many processes: as asked, or one a core that this machine has for each rank. A GPU has one."""
    if any(parameter.is_cuda for parameter in encoder.model.parameters()):
        if asked not in (None, 1):
            raise RequestError("one process uses a GPU", where="workers", todo="start one a GPU with torchrun")
        return 1
    return asked or share_of_cores()
