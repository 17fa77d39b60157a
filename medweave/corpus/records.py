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
FEATURES = "features"  # another command may be writing there
FACTS = b"medweave"
ROWS = INDEX.remove(INDEX.get_field_index("shard"))


@dataclass(frozen=True)
class Record:
    """facts: what corpus.json says of the shard. skipped: item, source, reason, remedy. key: what it was made from."""

    facts: dict[str, Any]
    skipped: list[dict[str, str]]
    key: str


def write(folder: Path, name: str, shard: Shard, skipped: list[dict[str, str]], key: str) -> None:
    """Keep the record of the shard `name`, just written, whole or not at all."""
    facts = {"samples": len(shard.rows), "bytes": shard.bytes, "sha256": shard.sha256, "content": shard.content}
    rows = pa.Table.from_pylist(shard.rows, ROWS)
    known = canonical_json({"facts": facts, "skipped": skipped, "key": key})
    with whole_file(_path(folder, name)) as draft:
        pq.write_table(rows.replace_schema_metadata({FACTS: known}), draft)


def read(folder: Path, name: str) -> Record | None:
    """The record of the shard `name` without its rows, None where it was never finished."""
    path = _path(folder, name)
    return Record(**json.loads(pq.read_schema(path).metadata[FACTS])) if path.exists() else None


def read_rows(folder: Path, name: str) -> pa.Table:
    """The index's rows of a finished shard, but for the column `shard`."""
    return pq.read_table(_path(folder, name), use_threads=False).replace_schema_metadata(None)


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
        if draft.relative_to(folder).parts[0] != FEATURES:
            draft.unlink(missing_ok=True)


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name.removesuffix('.tar')}.parquet"
