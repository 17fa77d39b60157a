"""One shard: a plain tar that stock tools read, KEY.jpg|png + KEY.txt + KEY.json a sample, and its rows of the index.

Every byte follows from the samples: times and owners are zero, keys come from the samples' ids.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from medweave.corpus.recipe import SIDES
from medweave.files import canonical_json, whole_file

TEXTS = pa.list_(pa.struct([("kind", pa.string()), ("text", pa.string())]))
FINDINGS = pa.list_(pa.struct([("name", pa.string()), ("state", pa.string())]))

PLANNED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("modality", pa.string()),
        ("anatomy", pa.string()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("group", pa.string()),
        ("texts", TEXTS),
        ("findings", FINDINGS),
        ("licence", pa.string()),
        ("licence_class", pa.string()),
        ("extra", pa.string()),
    ]
)
PLACE = {"shard": pa.int32(), "offset": pa.int64(), "length": pa.int32()}
PIXELS = {
    "format": pa.string(),
    "sha256": pa.string(),
    "phash": pa.uint64(),
    "width": pa.int32(),
    "height": pa.int32(),
}
INDEX = pa.schema([*PLANNED, *pa.schema(PLACE | PIXELS)])

SIDE_INSIDE = re.compile(rf"-(?=({'|'.join(SIDES)})(-|$))", re.IGNORECASE)
BLOCK = tarfile.BLOCKSIZE
HEAD = 16_384  # bytes after an image that nearly always hold its KEY.txt and KEY.json


@dataclass(frozen=True)
class Item:
    """One sample ready to be written. row: the PLANNED columns. caption: what KEY.txt says."""

    row: Mapping[str, Any]
    caption: str
    data: bytes
    format: str
    width: int
    height: int
    phash: int


@dataclass(frozen=True)
class Shard:
    """A written shard. rows: the INDEX columns but `shard`. sha256 of the tar; content: sha256 of the rows."""

    rows: list[dict[str, Any]]
    bytes: int
    sha256: str
    content: str


def write_shard(path: Path, items: Iterable[Item]) -> Shard:
    """Write one tar, whole or not at all; no file where there are no items. Raises UserError when the disk is full."""
    items = iter(items)
    first = next(items, None)
    if first is None:
        return Shard([], 0, "", content_hash([]))
    with whole_file(path) as draft, draft.open("wb") as file:
        tar = _Tar(file)
        rows = [_add(tar, item) for item in itertools.chain([first], items)]
        tar.end()
    return Shard(rows, tar.size, tar.digest.hexdigest(), content_hash(rows))


def bytes_of(items: Iterable[Item]) -> int:
    """The bytes that samples take in a shard. Nothing is kept of them."""
    with Path(os.devnull).open("wb") as file:
        tar = _Tar(file)
        for item in items:
            _add(tar, item)
    return tar.size


def stem_of(source: str, split: str) -> str:
    """What the names of a source's shards of one split begin with; only those of train match `*-train-*`.

    A dash before a split's name inside the source's name becomes an underscore, so two sources may share a stem.
    """
    return f"{SIDE_INSIDE.sub('_', source)}-{split}"


def content_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of rows of the index, whatever wrote the Parquet file around them; `shard` numbers do not count."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json({name: value for name, value in row.items() if name != "shard"}))
    return digest.hexdigest()


def key_of(sample_id: str) -> str:
    """The name of a sample's files: readable, safe for every tar reader, unique."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", sample_id)[:60].strip("_-")
    return f"{readable or 'sample'}-{hashlib.blake2b(sample_id.encode(), digest_size=10).hexdigest()}"


def read_fields(tail: bytes, length: int) -> dict[str, Any] | None:
    """KEY.json as data, from the tar's bytes that follow an image of `length` bytes; None when they are too few."""
    start = -length % BLOCK
    for _ in range(2):
        header, start = tail[start : start + BLOCK], start + BLOCK
        if len(header) < BLOCK:
            return None
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        data, start = tail[start : start + member.size], start + member.size + -member.size % BLOCK
    return json.loads(data) if len(data) == member.size else None


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What KEY.json says of a row, planned or stored: its facts, findings as name -> state, extra as data."""
    known = {name: row[name] for name in (*PLANNED.names, *PIXELS) if name in row}
    findings = {finding["name"]: finding["state"] for finding in row["findings"] or []}
    return known | {"texts": row["texts"] or [], "findings": findings, "extra": json.loads(row["extra"] or "{}")}


def _add(tar: _Tar, item: Item) -> dict[str, Any]:
    """Write the three files of one sample; its row of the index."""
    key = key_of(item.row["id"])
    row = {name: item.row[name] for name in PLANNED.names} | {
        "offset": tar.add(f"{key}.{item.format}", item.data),
        "length": len(item.data),
        "format": item.format,
        "sha256": hashlib.sha256(item.data).hexdigest(),
        "phash": item.phash,
        "width": item.width,
        "height": item.height,
    }
    tar.add(f"{key}.txt", item.caption.encode())
    tar.add(f"{key}.json", canonical_json(fields_of(row)))
    return row


class _Tar:
    """A USTAR file written front to back, with a running hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Write one member; the offset of its data."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data + bytes(-len(data) % BLOCK))
        return offset

    def end(self) -> None:
        """Two empty blocks, then zeros up to a whole record, as tar does."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)
