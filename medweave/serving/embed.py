"""Rows for a folder of images or a list of texts, written as one Parquet file that anything can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medweave.errors import RequestError
from medweave.files import whole_file
from medweave.models.load import Encoder
from medweave.progress import track
from medweave.serving.classify import read

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm"}
BATCH = 64


def embed_images(encoder: Encoder, paths: Sequence[Path], out: Path) -> int:
    """Write one row an image to `out`: columns path, row (list<float32>, unit length). Returns how many."""
    files = list(image_files(paths))
    if not files:
        raise RequestError(
            "no images found", where=", ".join(map(str, paths)), todo=f"endings read: {sorted(IMAGE_ENDINGS)}"
        )
    batches = [files[i : i + BATCH] for i in range(0, len(files), BATCH)]
    rows = [encoder.embed_images([read(p) for p in batch]) for batch in track(batches, "embedding", len(batches))]
    _write(out, "path", [str(f) for f in files], np.concatenate(rows))
    return len(files)


def embed_texts(encoder: Encoder, texts: Sequence[str], out: Path) -> int:
    """Write one row a text to `out`: columns text, row (list<float32>, unit length). Returns how many."""
    if not texts:
        raise RequestError("no texts to embed")
    _write(out, "text", list(texts), encoder.embed_texts(texts))
    return len(texts)


def image_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files named, and all images below the folders named, in sorted order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_ENDINGS)
        else:
            yield path


def _write(out: Path, name: str, keys: list[str], rows: np.ndarray) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), pa.float32()), rows.shape[1])
    with whole_file(out) as draft:
        pq.write_table(pa.table({name: keys, "row": column}), draft)
