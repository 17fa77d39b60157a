"""Image files read as the corpus of a model read them: the same limits, DICOM window and frame, and stored form."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from medweave.corpus.images import prepare
from medweave.corpus.limits import BadImage
from medweave.corpus.manifest import rows_of_tree
from medweave.corpus.recipe import ImageRecipe, LimitsRecipe
from medweave.errors import RequestError, nearest
from medweave.recipe import check

BATCH = 64  # files read and embedded together


@dataclass(frozen=True)
class Reading:
    """How files become pictures. What no corpus has laid down is read without loss."""

    limits: LimitsRecipe = field(default_factory=LimitsRecipe)
    image: ImageRecipe = field(default_factory=lambda: ImageRecipe(format="png"))


@dataclass(frozen=True)
class Read:
    """A file with its picture, a whole JPEG or PNG; or without one, and why."""

    path: Path
    data: bytes = b""
    error: BadImage | None = None


def reading_of(facts: Mapping[str, Any]) -> Reading:
    """The reading that a model's facts lay down. Raises RequestError when they are not understood."""
    stored = facts.get("reading")
    if stored is None:
        return Reading()
    return Reading(
        check(stored.get("limits") or {}, LimitsRecipe, "reading.limits of the model"),
        check(stored.get("image") or {}, ImageRecipe, "reading.image of the model"),
    )


def read(path: Path, reading: Reading) -> bytes:
    """The picture of a file of any supported format, as a whole JPEG or PNG. Raises BadImage."""
    try:
        return prepare(path.read_bytes(), reading.limits, reading.image).data
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else []
        raise BadImage("no such file", f"nearest: {', '.join(near)}" if near else "check the path") from None
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}", "name an image file that you may read") from None


def batches(paths: Iterable[Path], reading: Reading) -> Iterator[list[Read]]:
    """The files in their order, BATCH at a time, read by threads one batch ahead."""
    files = iter(paths)
    waiting: deque[list[Future[Read]]] = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while some := list(islice(files, BATCH)):
            waiting.append([pool.submit(_tried, path, reading) for path in some])
            if len(waiting) > 1:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and below the folders named every file that a source of kind `folder` would read, by path.

    Raises RequestError when there is none.
    """
    files = list(_files_at(paths))
    if not files:
        raise RequestError("no images found", where=", ".join(map(str, paths)), todo="name image files or their folder")
    return files


def _files_at(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (path / row["path"] for _, row in rows_of_tree(path))
        else:
            yield path


def _tried(path: Path, reading: Reading) -> Read:
    try:
        return Read(path, read(path, reading))
    except BadImage as error:
        return Read(path, error=error)
