"""The progress of a build: one small Parquet file a finished shard, with its rows of the index and what was skipped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medweave.corpus.shards import INDEX, Shard
from medweave.corpus.store import Corpus
from medweave.files import canonical_json, whole_file

FOLDER = ".build"
FACTS = b"medweave"
ROWS = INDEX.remove(INDEX.get_field_index("shard"))


@dataclass(frozen=True)
class Record:
    """rows: INDEX without `shard`. facts: what corpus.json says of the shard. key: what the shard was made from.

    skipped: item, source, reason, remedy.
    """

    rows: pa.Table
    facts: dict[str, Any]
    skipped: list[dict[str, str]]
    key: str

    @classmethod
    def of(cls, shard: Shard, skipped: list[dict[str, str]], key: str) -> Record:
        """The record of a shard just written."""
        facts = {"samples": len(shard.rows), "bytes": shard.bytes, "sha256": shard.sha256, "content": shard.content}
        return cls(pa.Table.from_pylist(shard.rows, ROWS), facts, skipped, key)


def write(folder: Path, name: str, record: Record) -> None:
    """Keep the record of the shard `name`, whole or not at all."""
    facts = canonical_json({"facts": record.facts, "skipped": record.skipped, "key": record.key})
    with whole_file(_path(folder, name)) as draft:
        pq.write_table(record.rows.replace_schema_metadata({FACTS: facts}), draft)


def read(folder: Path, name: str) -> Record | None:
    """The record of the shard `name`, None where it was never finished."""
    path = _path(folder, name)
    if not path.exists():
        return None
    rows = pq.read_table(path, use_threads=False)
    kept = json.loads(rows.schema.metadata[FACTS])
    return Record(rows.replace_schema_metadata(None), **kept)


def is_whole(folder: Path, name: str, facts: dict[str, Any]) -> bool:
    """Whether a shard's file is there with all its bytes."""
    path = folder / "shards" / name
    return path.stat().st_size == facts["bytes"] if path.exists() else facts["samples"] == 0


def forget_others(folder: Path, names: set[str], corpus: Corpus | None) -> None:
    """Remove what a killed or abandoned build left, but what `names` can go on with and what is in the corpus."""
    kept = names | ({shard["name"] for shard in corpus.shards} if corpus else set())
    for path in (folder / FOLDER).glob("*.parquet"):
        if f"{path.stem}.tar" not in names:
            path.unlink()
    for path in (folder / "shards").glob("*.tar"):
        if path.name not in kept:
            path.unlink()
    for draft in folder.rglob(".*.part"):
        draft.unlink(missing_ok=True)


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name.removesuffix('.tar')}.parquet"
