"""Rows for images or texts, written as one Parquet file that anything can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medweave.errors import RequestError
from medweave.files import whole_file
from medweave.models.load import Encoder
from medweave.progress import track
from medweave.serving.reading import BATCH, Read, batches, image_files, reading_of


def embed_images(encoder: Encoder, paths: Sequence[Path], out: Path) -> tuple[int, list[Read]]:
    """Write one row an image to `out`: columns path, row (list<float32>, unit length). Memory is that of a batch.

    Returns how many, and the files that cannot be read, which are listed in `skipped_file(out)`.
    Raises RequestError when no file is there to be read.
    """
    files = image_files(paths)
    read = batches(files, reading_of(encoder.facts))
    schema = _schema("path", encoder.dim)
    unreadable: list[Read] = []
    with whole_file(out) as draft, pq.ParquetWriter(draft, schema) as writer:
        for batch in track(read, f"embedding, batches of {BATCH}", -(-len(files) // BATCH)):
            good = [file for file in batch if file.error is None]
            unreadable += [file for file in batch if file.error is not None]
            rows = encoder.embed_images([file.data for file in good])
            writer.write_table(_table(schema, [str(file.path) for file in good], rows))
    _write_skipped(skipped_file(out), unreadable)
    return len(files) - len(unreadable), unreadable


def embed_texts(encoder: Encoder, texts: Sequence[str], out: Path) -> int:
    """Write one row a text to `out`: columns text, row (list<float32>, unit length). Returns how many."""
    if not texts:
        raise RequestError("no texts to embed")
    rows = encoder.embed_texts(texts)
    with whole_file(out) as draft:
        pq.write_table(_table(_schema("text", rows.shape[1]), texts, rows), draft)
    return len(texts)


def skipped_file(out: Path) -> Path:
    """Where the unreadable files are listed beside `out`, with the columns item, reason, remedy."""
    return out.with_name(f"{out.stem}.skipped.parquet")


def _write_skipped(path: Path, unreadable: Sequence[Read]) -> None:
    """List the unreadable files; where there are none, a list of an earlier call goes."""
    if not unreadable:
        path.unlink(missing_ok=True)
        return
    rows = [{"item": str(f.path), "reason": f.error.reason, "remedy": f.error.remedy} for f in unreadable if f.error]
    with whole_file(path) as draft:
        pq.write_table(pa.Table.from_pylist(rows), draft)


def _schema(key: str, width: int) -> pa.Schema:
    return pa.schema([(key, pa.string()), ("row", pa.list_(pa.float32(), width))])


def _table(schema: pa.Schema, keys: Sequence[str], rows: np.ndarray) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), pa.float32()), rows.shape[1])
    return pa.table([pa.array(keys, pa.string()), column], schema=schema)
