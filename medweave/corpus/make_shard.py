"""One worker's task: the pixels, captions and hashes of a shard's samples, written with a record of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from medweave.corpus import columns, images, records
from medweave.corpus.captions.bank import Bank
from medweave.corpus.captions.pick import pick
from medweave.corpus.fingerprint import hashes, thumbnail
from medweave.corpus.limits import BadImage
from medweave.corpus.listing import fetched, open_source
from medweave.corpus.own import bank_files
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.shards import PLANNED, Item, bytes_of, fields_of, write_shard
from medweave.errors import UserError
from medweave.files import hash_of, hash_of_file
from medweave.recipe import as_data
from medweave.seeds import generator

TOGETHER = 32  # pictures hashed at once


@dataclass(frozen=True)
class Task:
    """The rows of a plan that make one shard. expected: sha256 of a shard that is restored."""

    name: str
    recipe: CorpusRecipe
    plan: pa.Table
    rows: np.ndarray
    expected: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker gets its own rows only."""
        own = self.own_rows()
        return Task, (self.name, self.recipe, own, np.arange(len(own)), self.expected)

    def own_rows(self) -> pa.Table:
        """The rows in their order."""
        return columns.taken(self.plan, self.rows)


class Cost(NamedTuple):
    """What some images take: bytes in shards, and seconds."""

    bytes: float
    seconds: float


def cost_of(task: Task) -> Cost:
    """What a task's rows take, from making them in this process with generic captions. Nothing is written."""
    start = time.perf_counter()
    size = bytes_of(_items(task.own_rows().to_pylist(), task.recipe, Bank(()), []))
    return Cost(size, time.perf_counter() - start)


def make_shard(task: Task) -> None:
    """Make one shard and its record, unless both are there already.

    Raises UserError when the disk is full, or when a shard that is restored is not what it was.
    """
    rows = task.own_rows().to_pylist()
    folder, name = task.recipe.path, task.name
    banks = bank_files(task.recipe)
    key = _key(rows, task.recipe, banks)
    record = records.read(folder, name)
    if record and record.key == key and records.is_whole(folder, name, record.facts):
        return
    bank = Bank.load(banks)
    skipped: list[dict[str, str]] = []
    shard = write_shard(folder / "shards" / name, _items(rows, task.recipe, bank, skipped))
    if task.expected is None:
        records.write(folder, name, shard, skipped, key)
    elif task.expected != shard.sha256:
        raise UserError(
            f"{name} was lost, and its images or banks have changed since", where=folder, todo="choose a new path"
        )


def _items(
    rows: Sequence[dict[str, Any]], recipe: CorpusRecipe, bank: Bank, skipped: list[dict[str, str]]
) -> Iterator[Item]:
    """The samples of a shard with their pixels; those that have none go to `skipped`."""
    found = _pictures(rows, recipe, skipped)
    while some := list(itertools.islice(found, TOGETHER)):
        phashes = hashes(np.stack([thumb for _, _, thumb in some]))[:, 0]
        for (row, picture, _), phash in zip(some, phashes, strict=True):
            draw = generator(recipe.seed, "shard caption", row["id"])
            yield Item(
                row={name: row[name] for name in PLANNED.names},
                caption=pick(fields_of(row), recipe.sources[row["recipe"]].captions, bank, draw).text,
                data=picture.data,
                format=picture.format,
                width=picture.width,
                height=picture.height,
                phash=int(phash),
            )


def _pictures(
    rows: Sequence[dict[str, Any]], recipe: CorpusRecipe, skipped: list[dict[str, str]]
) -> Iterator[tuple[dict[str, Any], images.Picture, np.ndarray]]:
    """Each row that has a picture, with the picture and its thumbnail."""
    sources = {number: open_source(recipe.sources[number]) for number in {row["recipe"] for row in rows}}
    for row in rows:
        try:
            data = fetched(sources[row["recipe"]], row["place"], recipe.limits)
            picture = images.prepare(data, recipe.limits, recipe.image)
            small = picture.small
            if small is None:
                small = images.decode(picture.data, images.SMALL, limits=recipe.limits)
            yield row, picture, thumbnail(small)
        except BadImage as error:
            facts = {"item": row["id"], "source": row["source"], "reason": error.reason, "remedy": error.remedy}
            skipped.append(facts)


def _key(rows: Sequence[dict[str, Any]], recipe: CorpusRecipe, banks: Sequence[Path]) -> str:
    """What a shard is made from, but for the files of its source."""
    numbers = sorted({row["recipe"] for row in rows})
    sources = [as_data(recipe.sources[number]) for number in numbers]
    words = [hash_of_file(path) for path in banks]
    return hash_of([rows, sources, as_data(recipe.limits), as_data(recipe.image), recipe.seed, words])
