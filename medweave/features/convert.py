"""The feature folders that MMKD-CLIP publishes (arXiv 2506.22567) -> rows in our layout, a folder a teacher.

meta.jsonl                       a line a sample: folderid, id, txt, available_clips (the teachers that have seen it)
features/FOLDERID/ID/
  clips_output.pt                {TEACHER_img, TEACHER_txt: float32 [d]} as the teacher gives them, of length 1
  clips_project_output.pt        the same after a linear layer, of any length: what its own training reads

The corpus is built from the same pictures: a sample's id holds the published one as a part. Files are read as tensors
only, and only from inside the folder. Where a teacher has not seen a sample, or has no row of one of its texts, the row
is 0 and the sample is not covered. How many tokens a text had is not published: 0 stands for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medweave.corpus.order import Numbers
from medweave.corpus.store import Corpus
from medweave.errors import DamagedError, RequestError, UserError
from medweave.features.coverage import Coverage, Verdicts, write_verdicts
from medweave.features.layout import BUILD, Layout, layout_of, plain
from medweave.features.make_rows import MOST_TEXTS, write_texts
from medweave.features.rows import Rows, encoded, write_array
from medweave.features.stamp import (
    FORMAT,
    ShardRows,
    Stamp,
    Teacher,
    is_of,
    read_record,
    read_stamp,
    write_record,
    write_stamp,
)
from medweave.features.store import Features, open_features
from medweave.files import hash_of_file, only_writer
from medweave.progress import say, track

Which = Literal["clips_output", "clips_project_output"]
Line = Mapping[str, Any]
META = "meta.jsonl"
SIDES = ("_img", "_txt")  # what the names of vectors end with
TOLERANCE = 0.01  # how far the length of a vector of clips_output may be from 1


def convert(folder: Path, corpus: Corpus, which: Which = "clips_output", root: Path | None = None) -> list[Features]:
    """Convert all teachers of a published folder, or go on where that stopped; the rows of each.

    A file that cannot be read is told by the stamp, as unread. Raises RequestError for a folder without meta.jsonl and
    where other rows lie under a teacher's name, UserError for a line that is no sample.
    """
    published = Published(folder, which)
    work = [_begun(published, teacher, corpus, root) for teacher in published.widths]
    shards = range(len(corpus.shards))
    for shard in track(shards, f"shards, {len(work)} teachers of {folder}", len(shards)):
        if any(_made(corpus, one, shard) is None for one in work):
            _convert_shard(published, corpus, work, shard)
    return [_finished(corpus, one) for one in work]


class Published:
    """A published folder. widths: teacher -> d. hash: of meta.jsonl."""

    def __init__(self, folder: Path, which: Which) -> None:
        self.folder, self.which, self.meta = folder.resolve(), which, folder / META
        if not self.meta.is_file():
            raise RequestError(f"no {META}", where=folder, todo="name the folder that holds it")
        self.hash = hash_of_file(self.meta)
        self.widths: dict[str, int] = {}
        self.ids, self.places = self._index()

    def line(self, sample: str) -> Line | None:
        """The line of the sample of a corpus; None where none of the parts of its id is published."""
        for part in sample.encode().split(b"/"):
            at = int(np.searchsorted(self.ids, part))
            if at < len(self.ids) and self.ids[at] == part:
                with self.meta.open("rb") as file:
                    file.seek(self.places[at])
                    found: Line = json.loads(file.readline())
                    return found
        return None

    def vectors(self, line: Line) -> dict[str, Rows]:
        """teacher -> its vectors of a sample's image and text, [2, d].

        Raises DamagedError for a file that is missing, holds anything but tensors, or lies outside the folder.
        """
        path = self.folder / "features" / line["folderid"] / line["id"] / f"{self.which}.pt"
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self.folder):
                raise ValueError("it lies outside the folder")
            held = torch.load(real, map_location="cpu", weights_only=True)
            return {teacher: self._pair(held, teacher) for teacher in line["available_clips"]}
        except Exception as error:  # a damaged or malicious file can raise anything
            reason = " ".join(str(error).split())[:160]
            raise DamagedError(f"no vectors can be read: {reason}", where=path) from None

    def _pair(self, held: Mapping[str, torch.Tensor], teacher: str) -> Rows:
        image, text = (held[teacher + side].float().numpy() for side in SIDES)
        if not image.shape == text.shape == (self.widths.setdefault(teacher, len(image)),):
            raise ValueError(f"{teacher} has vectors of other shapes")
        pair = np.stack([image, text])
        lengths = np.linalg.norm(pair, axis=1)
        if not np.isfinite(lengths).all() or (self.which == "clips_output" and (np.abs(lengths - 1) > TOLERANCE).any()):
            raise ValueError(f"{teacher} has a vector that is not of length 1")
        return pair

    def _index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """The published ids, sorted, and the place of each one's line in bytes; fills `widths` on the way."""
        ids, places = [], []
        with self.meta.open("rb") as file:
            for place, line in _lines(file, self.meta):
                ids.append(line["id"].encode())
                places.append(place)
                if not self.widths.keys() >= set(line["available_clips"]):
                    with suppress(DamagedError):
                        self.vectors(line)
        order = np.argsort(ids)
        return np.array(ids)[order], np.array(places, np.int64)[order]


@dataclass(frozen=True)
class _Work:
    """One teacher of a publication: its name there, and where its rows go."""

    teacher: str
    layout: Layout
    stamp: Stamp


def _lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, Line]]:
    """The place in bytes of each line, and its data. Raises UserError for one that is no sample."""
    place = 0
    for number, text in enumerate(file, 1):
        try:
            line = json.loads(text)
            words = [line["folderid"], line["id"], line["txt"], *line["available_clips"]]
            if not all(isinstance(word, str) for word in words):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise UserError(f"line {number} is no sample", where=path) from None
        yield place, line
        place += len(text)


def _begun(published: Published, teacher: str, corpus: Corpus, root: Path | None) -> _Work:
    """The folder of a teacher's rows with its stamp. Raises RequestError where other rows lie there."""
    name = plain(teacher) + ("" if published.which == "clips_output" else "-projected")
    layout = layout_of(corpus, name, root)
    told = Teacher(
        name=teacher,
        reference=f"{published.which} of {published.folder.name}",
        weights=f"published: {published.which}, {META} {published.hash}",
        pixels=None,
        tokens=None,
        context=None,
        preprocess=None,
        domains=None,
        licence=None,
        licence_class=None,
    )
    asked = Stamp(
        format=FORMAT,
        teacher=told,
        width=published.widths[teacher],
        sides=("images", "texts"),
        head=None,
        dtype="float16",
        views=None,
        specimen=None,
    )
    with only_writer(layout.folder):
        old = read_stamp(layout)
        if old is not None and (wrong := old.differences(asked)):
            what = f"rows with other {' and '.join(wrong)} lie there"
            raise RequestError(what, where=layout.folder, todo="delete them, or move them away")
        if old is None:
            write_stamp(layout, asked)
    return _Work(teacher, layout, old or asked)


def _made(corpus: Corpus, work: _Work, shard: int) -> ShardRows | None:
    """What there is of a shard."""
    listed = work.stamp.shards[shard] if shard < len(work.stamp.shards) else None
    found = (read_record(work.layout, shard, work.stamp), listed)
    return next((rows for rows in found if rows and is_of(rows, corpus.shards[shard])), None)


def _convert_shard(published: Published, corpus: Corpus, work: Sequence[_Work], shard: int) -> None:
    """Write all teachers' rows of one shard."""
    start = sum(facts["samples"] for facts in corpus.shards[:shard])
    samples = [corpus.fields(number) for number in range(start, start + corpus.shards[shard]["samples"])]
    texts = [[text["text"] for text in sample["texts"]][:MOST_TEXTS] for sample in samples]
    first = np.cumsum([0, *map(len, texts)])
    images = {one.teacher: np.zeros((len(samples), one.stamp.width), np.float32) for one in work}
    rows = {one.teacher: np.zeros((first[-1], one.stamp.width), np.float32) for one in work}
    unread: dict[int, str] = {}
    for place, sample in enumerate(samples):
        line = published.line(sample["id"])
        try:
            found = published.vectors(line) if line else {}
        except DamagedError as error:
            found, unread[place] = {}, str(error)
        same = [first[place] + at for at, text in enumerate(texts[place]) if line and text == line["txt"]]
        for teacher, pair in found.items():
            images[teacher][place], rows[teacher][same] = pair
    facts = {name: corpus.shards[shard][name] for name in ("name", "sha256", "samples")}
    lengths = np.zeros(first[-1], np.uint16)
    for one in work:
        write_array(one.layout.image(shard), encoded(images[one.teacher], "float16"))
        each = write_texts(one.layout, shard, encoded(rows[one.teacher], "float16"), lengths, list(map(len, texts)))
        made = ShardRows(**facts, texts=int(first[-1]), each=each, unread=unread)
        write_record(one.layout, shard, one.stamp, made)


def _finished(corpus: Corpus, work: _Work) -> Features:
    """Write the stamp and covered.parquet of one teacher."""
    shards = [rows for shard in range(len(corpus.shards)) if (rows := _made(corpus, work, shard))]
    write_stamp(work.layout, work.stamp.model_copy(update={"shards": tuple(shards)}))
    shutil.rmtree(work.layout.folder / BUILD, ignore_errors=True)
    features = open_features(corpus, work.layout.folder.name, root=work.layout.folder.parent)
    counts = write_verdicts(features, lambda numbers, source, modality: _seen(features, numbers))
    say(f"{features.name}: {Coverage(counts, {}).text()}")
    return features


def _seen(features: Features, numbers: Numbers) -> Verdicts:
    """A sample is covered where the teacher has rows of its image and of all its texts."""
    verdicts = Verdicts(len(numbers), True, "published", np.nan)
    owners, which = features.every_text(numbers)
    missing = owners[~features.text(owners, which).any(1)]
    there = features.image(numbers).any(1) & ~np.isin(numbers, missing)
    verdicts.change(~there, False, "absent", np.nan)
    return verdicts
