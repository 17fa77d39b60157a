"""Parquet files of a corpus, opened so that a damaged one is told in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medweave.errors import DamagedError


@contextmanager
def opened(path: Path, todo: str) -> Iterator[pq.ParquetFile]:
    """The file at `path`. Raises DamagedError, with what to do, where it or a part read inside the block is damaged."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of what the file holds
            raise
        raise DamagedError("the file is damaged", where=path, todo=todo) from None
