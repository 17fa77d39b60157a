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
from collections import Counter
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
from medweave.errors import DamagedError, RequestError, UserError, in_short
from medweave.features.coverage import Coverage, Verdicts, write_verdicts
from medweave.features.layout import BUILD, Layout, layout_of, plain
from medweave.features.make_rows import MOST_TEXTS, write_texts
from medweave.features.measure import absent
from medweave.features.rows import Rows, encoded, write_array
from medweave.features.stamp import (
    FORMAT,
    ShardRows,
    Stamp,
    Teacher,
    is_of,
    is_whole,
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
WITNESSES = 5  # files that are asked how wide a teacher's vectors are
CHUNK = 1 << 16  # values of a column that are held as objects
TOLERANCE = 0.01  # how far the length of a vector of clips_output may be from 1


def convert(folder: Path, corpus: Corpus, which: Which = "clips_output", root: Path | None = None) -> list[Features]:
    """Convert all teachers of a published folder, or go on where that stopped; the rows of each.

    What cannot be read is told by the stamp, as unread. Raises RequestError for a folder without meta.jsonl and where
    other rows lie under a teacher's name, UserError for a line that is no sample, and where nothing can be read or is
    covered.
    """
    published = Published(folder, which)
    work = [_begun(published, teacher, corpus, root) for teacher in published.widths]
    shards = range(len(corpus.shards))
    for shard in track(shards, f"shards, {len(work)} teachers of {folder}", len(shards)):
        if any(_made(corpus, one, shard) is None for one in work):
            _convert_shard(published, corpus, work, shard)
    made = [_finished(corpus, one) for one in work]
    if not any(one.covered(numbers).any() for one in made for numbers in one.pieces()):
        raise _nothing_covered(published, made)
    return made


class Published:
    """A published folder. widths: teacher -> d. hash: of meta.jsonl. problem: why the first bad file was not read."""

    def __init__(self, folder: Path, which: Which) -> None:
        self.folder, self.which, self.meta = folder.resolve(), which, folder / META
        if not self.meta.is_file():
            raise RequestError(f"no {META}", where=folder, todo="name the folder that holds it")
        self.hash = hash_of_file(self.meta)
        self.ids, self.places, self.widths, self.problem = self._index()

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

    def vectors(self, line: Line) -> tuple[dict[str, Rows], dict[str, str]]:
        """teacher -> its vectors of a sample's image and text, [2, d]; and teacher -> why they cannot be taken.

        Raises DamagedError for a file that is missing, holds anything but tensors, or lies outside the folder.
        """
        found, problems = {}, {}
        held = self._held(line)
        for teacher in line["available_clips"]:
            try:
                found[teacher] = self._pair(held, teacher)
            except Exception as error:  # tensors of any kind may stand under its name, or none
                problems[teacher] = f"no vectors can be read: {in_short(error)}"
        return found, problems

    def _held(self, line: Line) -> Mapping[str, torch.Tensor]:
        """What the file of a sample holds."""
        path = self.folder / "features" / line["folderid"] / line["id"] / f"{self.which}.pt"
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self.folder):
                raise ValueError("it lies outside the folder")
            held: Mapping[str, torch.Tensor] = torch.load(real, map_location="cpu", weights_only=True)
            return held
        except Exception as error:  # a damaged or malicious file can raise anything
            raise DamagedError(f"no vectors can be read: {in_short(error)}", where=path) from None

    def _pair(self, held: Mapping[str, torch.Tensor], teacher: str) -> Rows:
        image, text = (held[teacher + side].float().numpy() for side in SIDES)
        if not image.shape == text.shape == (self.widths[teacher],):
            raise ValueError(f"{teacher} has vectors of other shapes")
        pair = np.stack([image, text])
        lengths = np.linalg.norm(pair, axis=1)
        if not np.isfinite(lengths).all() or (self.which == "clips_output" and (np.abs(lengths - 1) > TOLERANCE).any()):
            raise ValueError(f"{teacher} has a vector that is not of length 1")
        return pair

    def _index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64], dict[str, int], str | None]:
        """The published ids, sorted, the place of each one's line in bytes, teacher -> width of most vectors, and why
        the first of the files that tell it was not read, if one was not.
        """
        ids, places, widths, problem = _Column("S"), _Column("int64"), _Widths(), None
        with self.meta.open("rb") as file:
            for place, line in _lines(file, self.meta):
                ids.add(line["id"].encode())
                places.add(place)
                if widths.lacks(line["available_clips"]):
                    try:
                        widths.add(line["available_clips"], self._held(line))
                    except DamagedError as error:
                        problem = problem or str(error)
        order = np.argsort(ids.array)
        return ids.array[order], places.array[order], widths.of_most, problem


class _Column:
    """A column that grows: held as arrays, so that millions of lines take bytes and not objects. array: all of it."""

    def __init__(self, kind: str) -> None:
        self.kind, self.parts, self.last = kind, [np.empty(0, kind)], list[Any]()

    def add(self, value: Any) -> None:
        """One value more."""
        self.last.append(value)
        if len(self.last) == CHUNK:
            self._pack()

    @property
    def array(self) -> NDArray[Any]:
        """All values, in their order."""
        self._pack()
        self.parts = [np.concatenate(self.parts)]
        return self.parts[0]

    def _pack(self) -> None:
        self.parts, self.last = [*self.parts, np.array(self.last, self.kind)], []


class _Widths:
    """How wide each teacher's vectors are, by the first files: one damaged file has no say alone."""

    def __init__(self) -> None:
        self.seen: dict[str, Counter[int]] = {}

    def lacks(self, teachers: Sequence[str]) -> bool:
        """Whether more files must be read to know."""
        return any(self.seen.get(teacher, Counter()).total() < WITNESSES for teacher in teachers)

    def add(self, teachers: Sequence[str], held: Any) -> None:
        """What one file holds."""
        for teacher in teachers:
            with suppress(Exception):  # tensors of any kind may stand under its name, or none
                (width,) = held[teacher + SIDES[0]].shape
                self.seen.setdefault(teacher, Counter())[width] += 1

    @property
    def of_most(self) -> dict[str, int]:
        """teacher -> width."""
        return {teacher: widths.most_common(1)[0][0] for teacher, widths in self.seen.items()}


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
        gaps=True,
    )
    with only_writer(layout.folder):
        old = read_stamp(layout)
        if old is not None and (wrong := old.differences(asked)):
            what = f"rows with other {' and '.join(wrong)} lie there"
            raise RequestError(what, where=layout.folder, todo="delete them, or move them away")
        if old is None:
            write_stamp(layout, asked)
    return _Work(teacher, layout, old.model_copy(update={"gaps": True}) if old else asked)


def _made(corpus: Corpus, work: _Work, shard: int) -> ShardRows | None:
    """What there is of a shard."""
    listed = work.stamp.shards[shard] if shard < len(work.stamp.shards) else None
    found = (read_record(work.layout, shard, work.stamp), listed)
    whole = (rows for rows in found if rows and is_of(rows, corpus.shards[shard]))
    return next((rows for rows in whole if is_whole(rows, work.layout, shard, work.stamp)), None)


def _convert_shard(published: Published, corpus: Corpus, work: Sequence[_Work], shard: int) -> None:
    """Write all teachers' rows of one shard."""
    start = sum(facts["samples"] for facts in corpus.shards[:shard])
    samples = [corpus.fields(number) for number in range(start, start + corpus.shards[shard]["samples"])]
    texts = [[text["text"] for text in sample["texts"]][:MOST_TEXTS] for sample in samples]
    first = np.cumsum([0, *map(len, texts)])
    images = {one.teacher: np.zeros((len(samples), one.stamp.width), np.float32) for one in work}
    rows = {one.teacher: np.zeros((first[-1], one.stamp.width), np.float32) for one in work}
    unread: dict[str, dict[int, str]] = {one.teacher: {} for one in work}
    for place, sample in enumerate(samples):
        line = published.line(sample["id"])
        if line is None:
            continue
        try:
            found, problems = published.vectors(line)
        except DamagedError as error:
            found, problems = {}, dict.fromkeys(line["available_clips"], str(error))
        same = [first[place] + at for at, text in enumerate(texts[place]) if text.strip() == line["txt"].strip()]
        for teacher, pair in found.items():
            images[teacher][place], rows[teacher][same] = pair
        for teacher in problems.keys() & unread.keys():
            unread[teacher][place] = problems[teacher]
    facts = {name: corpus.shards[shard][name] for name in ("name", "sha256", "samples")}
    lengths = np.zeros(first[-1], np.uint16)
    for one in work:
        write_array(one.layout.image(shard), encoded(images[one.teacher], "float16"))
        each = write_texts(one.layout, shard, encoded(rows[one.teacher], "float16"), lengths, list(map(len, texts)))
        made = ShardRows(**facts, texts=int(first[-1]), each=each, unread=unread[one.teacher])
        write_record(one.layout, shard, one.stamp, made)


def _finished(corpus: Corpus, work: _Work) -> Features:
    """Write the stamp and covered.parquet of one teacher."""
    shards = [rows for shard in range(len(corpus.shards)) if (rows := _made(corpus, work, shard))]
    write_stamp(work.layout, work.stamp.model_copy(update={"shards": tuple(shards)}))
    shutil.rmtree(work.layout.folder / BUILD, ignore_errors=True)
    features = open_features(corpus, work.layout.folder.name, root=work.layout.folder.parent)
    counts = write_verdicts(features, lambda numbers, source, modality: _seen(features, numbers))
    problems = _problems(features.stamp)
    told = f"; {len(problems)} cannot be read, such as: {problems[0]}" if problems else ""
    say(f"{features.name}: {Coverage(counts, {}).text()}{told}")
    return features


def _problems(stamp: Stamp) -> list[str]:
    """Why samples have no vectors, one a sample."""
    return [problem for rows in stamp.shards for problem in rows.unread.values()]


def _nothing_covered(published: Published, made: Sequence[Features]) -> UserError:
    """Why no sample is: no file of vectors could be read, or none is of the corpus's pictures."""
    problems = [one for rows in made for one in _problems(rows.stamp)] if made else [published.problem]
    problem = next(iter(problems), None)
    if problem and not any(one.image(numbers).any() for one in made for numbers in one.pieces()):
        what = f"no {published.which}.pt could be read under features/, such as: {problem}"
        return UserError(what, where=published.folder, todo=f"put those that belong to {META} there")
    todo = "build the corpus from the published pictures"
    return UserError("no sample of the corpus has rows there", where=published.folder, todo=todo)


def _seen(features: Features, numbers: Numbers) -> Verdicts:
    """A sample is covered where the teacher has rows of its image and of all its texts."""
    verdicts = Verdicts(len(numbers), True, "published", np.nan)
    verdicts.change(absent(features, numbers), False, "absent", np.nan)
    return verdicts
