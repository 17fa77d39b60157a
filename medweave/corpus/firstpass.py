"""The first pass over all images: sha256 and fingerprint of each, kept beside the corpus so that it is made only once.

On disk, in CORPUS/fingerprints: `thumbs.u8` (raw, 64 x 64 grey bytes a picture) and `prints-00000.parquet` and so on
(its other facts, row by row). They only grow; deleting the folder costs the time to make it again. n pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

from medweave import files
from medweave.cores import cores
from medweave.corpus import images
from medweave.corpus.fingerprint import hashes
from medweave.corpus.limits import BadImage, check_bytes, check_shape
from medweave.corpus.listing import fetched
from medweave.corpus.near import SIDE
from medweave.corpus.recipe import CorpusRecipe
from medweave.progress import track
from medweave.recipe import as_data, recipe_hash

PICTURE = SIDE * SIDE
SAVE_EVERY = 20_000
AHEAD = 512  # pictures in work at once
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("eight", pa.binary(64)),
        ("reason", pa.string()),
        ("remedy", pa.string()),
    ]
)


class Item(NamedTuple):
    """One picture to fingerprint: the source opened, and the place in it. key changes when the picture may have."""

    key: str
    id: str
    source: Any
    place: str


class Print(NamedTuple):
    """What the pass learns of one picture; reason and remedy where it cannot be read."""

    sha256: str
    bytes: int
    thumb: np.ndarray
    reason: str | None = None
    remedy: str | None = None


@dataclass
class Prints:
    """Fingerprints of the pictures asked for, [n] each. row: of thumbs, -1 where there is none.

    eight: uint64 [n,8]. thumbs: uint8 [m,64,64], memory-mapped, m rows in the folder.
    """

    sha256: list[str]
    bytes: np.ndarray
    eight: np.ndarray
    reasons: list[tuple[str, str] | None]
    row: np.ndarray
    thumbs: np.ndarray


def items(table: pa.Table, sources: Sequence[Any], recipe: CorpusRecipe) -> list[Item]:
    """The rows of a plan as pictures to fingerprint."""
    how = files.hash_of([as_data(recipe.limits), as_data(recipe.image)])
    places = [_place_of(source) for source in sources]
    columns = (table["id"].to_pylist(), table["recipe"].to_pylist(), table["place"].to_pylist())
    return [
        Item(_key(how, places[number], place, sources[number]), name, sources[number], place)
        for name, number, place in zip(*columns, strict=True)
    ]


def fingerprints(folder: Path, wanted: Sequence[Item], old: Sequence[str], recipe: CorpusRecipe) -> Prints:
    """The prints of `wanted`, made where the folder has none yet, then those of the ids `old`, where it has them.

    Raises UserError for a full disk, and for a second pass into the same folder.
    """
    with files.only_writer(folder):
        parts = _load(folder)
        known = {key for part in parts for key in part["key"].to_pylist()}
        todo = [item for item in wanted if item.key not in known]
        for batch in _batches(_made(todo, recipe), SAVE_EVERY):
            parts.append(_append(folder, parts, batch))
    table = pa.concat_tables([SCHEMA.empty_table(), *parts])
    by_key = {key: row for row, key in enumerate(table["key"].to_pylist())}
    by_id = {name: row for row, name in enumerate(table["id"].to_pylist())} if old else {}
    row = np.array([by_key[i.key] for i in wanted] + [by_id.get(name, -1) for name in old], np.int64)
    return _prints(folder, table, row)


def _prints(folder: Path, table: pa.Table, row: np.ndarray) -> Prints:
    rows = table.take(pa.array(row, mask=row < 0))
    reasons = [
        (reason, remedy or "") if reason else None
        for reason, remedy in zip(rows["reason"].to_pylist(), rows["remedy"].to_pylist(), strict=True)
    ]
    eight = b"".join(value or bytes(64) for value in rows["eight"].to_pylist())
    thumbs = folder / "thumbs.u8"
    shape = (len(table), SIDE, SIDE)
    return Prints(
        sha256=rows["sha256"].to_pylist(),
        bytes=rows["bytes"].fill_null(0).to_numpy(),
        eight=np.frombuffer(eight, "<u8").reshape(-1, 8).astype(np.uint64),
        reasons=reasons,
        row=np.where([reason is None for reason in reasons], row, -1),
        thumbs=np.memmap(thumbs, np.uint8, "r", shape=shape) if len(table) else np.zeros(shape, np.uint8),
    )


def _place_of(source: Any) -> str:
    """What tells one source's places from another's."""
    return str(source.folder.resolve()) if hasattr(source, "stat") else recipe_hash(source.recipe)


def _key(how: str, where: str, place: str, source: Any) -> str:
    stamp = source.stat(place) if hasattr(source, "stat") else ""
    return hashlib.blake2b(f"{how}\n{where}\n{place}\n{stamp}".encode(), digest_size=16).hexdigest()


def _made(todo: Sequence[Item], recipe: CorpusRecipe) -> Iterator[tuple[Item, Print]]:
    workers = recipe.workers or cores()
    with ThreadPoolExecutor(workers) as pool:
        results = (
            pair
            for start in range(0, len(todo), AHEAD)
            for some in [todo[start : start + AHEAD]]
            for pair in zip(some, pool.map(lambda item: print_of(item, recipe), some), strict=True)
        )
        yield from track(results, "first pass over the images", len(todo))


def print_of(item: Item, recipe: CorpusRecipe) -> Print:
    """Read one picture and fingerprint it; one that cannot be read gets its reason."""
    data: Any = b""
    try:
        data = fetched(item.source, item.place, recipe.limits)
        thumb, reason, remedy = thumbnail(data, recipe), None, None
    except BadImage as error:
        thumb, reason, remedy = np.zeros((SIDE, SIDE), np.uint8), error.reason, error.remedy
    raw = data if isinstance(data, bytes) else f"{data.dtype}{data.shape}".encode() + data.tobytes()
    return Print(hashlib.sha256(raw).hexdigest(), len(raw), thumb, reason, remedy)


def thumbnail(data: bytes | np.ndarray, recipe: CorpusRecipe) -> np.ndarray:
    """The whole picture, grey and squashed to uint8 [64,64]. Raises BadImage; damage past the header may go unseen."""
    pixels = _quick(data, recipe) if isinstance(data, bytes) and simplejpeg.is_jpeg(data) else None
    if pixels is None:
        pixels = images.decode(images.prepare(data, recipe.limits, recipe.image).data, limits=recipe.limits)
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def _quick(data: bytes, recipe: CorpusRecipe) -> np.ndarray | None:
    """A JPEG at a reduced scale; None where only the thorough way knows what to do with it."""
    check_bytes(len(data), recipe.limits)
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_shape(width, height, recipe.limits)
    try:
        return images.decode(data, at_least=2 * SIDE, limits=recipe.limits)
    except BadImage:
        return None


def _load(folder: Path) -> list[pa.Table]:
    """The parts that the folder holds, up to a broken one; what lies behind it is removed, to be made anew."""
    parts: list[pa.Table] = []
    thumbs = folder / "thumbs.u8"
    pictures = thumbs.stat().st_size // PICTURE if thumbs.exists() else 0
    while (part := _read_part(folder, len(parts))) is not None and len(part) <= pictures:
        parts.append(part)
        pictures -= len(part)
    for path in folder.glob("prints-*.parquet"):
        if path not in [_part(folder, number) for number in range(len(parts))]:
            path.unlink()
    return parts


def _part(folder: Path, number: int) -> Path:
    return folder / f"prints-{number:05d}.parquet"


def _read_part(folder: Path, number: int) -> pa.Table | None:
    try:
        table = pq.read_table(_part(folder, number))
    except (pa.ArrowException, OSError):
        return None
    return table if table.schema == SCHEMA else None


def _append(folder: Path, parts: Sequence[pa.Table], batch: list[tuple[Item, Print]]) -> pa.Table:
    """The batch as the part after `parts`, saved: first the thumbnails, then the table that counts them.

    Raises UserError when the disk is full.
    """
    eight = hashes(np.stack([_half(result.thumb) for _, result in batch]))
    rows = [
        {
            "key": item.key,
            "id": item.id,
            "sha256": result.sha256,
            "bytes": result.bytes,
            "eight": eight[number].astype("<u8").tobytes(),
            "reason": result.reason,
            "remedy": result.remedy,
        }
        for number, (item, result) in enumerate(batch)
    ]
    part = pa.Table.from_pylist(rows, SCHEMA)
    with files.whole_file(_part(folder, len(parts))) as draft:
        _write_thumbs(folder / "thumbs.u8", sum(map(len, parts)), [result.thumb for _, result in batch])
        pq.write_table(part, draft)
    return part


def _write_thumbs(path: Path, first: int, thumbs: Sequence[np.ndarray]) -> None:
    """Put thumbnails behind the `first` that count, over what a stopped pass may have left."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(first * PICTURE)
        file.truncate()
        file.writelines(thumb.tobytes() for thumb in thumbs)
        file.flush()
        os.fsync(file.fileno())


def _half(thumb: np.ndarray) -> np.ndarray:
    """uint8 [64,64] -> [32,32], means of 2 x 2."""
    return np.rint(thumb.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3)))


def _batches(pairs: Iterable[tuple[Item, Print]], size: int) -> Iterator[list[tuple[Item, Print]]]:
    batch = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
