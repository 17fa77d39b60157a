"""Rows as they lie on disk: half precision, or eight bits after a rotation; one array a shard, mapped when first read.

Eight bits a number need no scale beside them: a row has length 1, so its codes are known but for their own length, and
are divided by it. n rows, d width.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from medweave.errors import DamagedError, UserError
from medweave.features.rotation import gathered, spread
from medweave.files import write_bytes

Rows = NDArray[np.float32]
Kind = Literal["float16", "int8"]

MOST = 127  # the largest code
MAPS = 16_000  # arrays that all columns of a process keep mapped; Linux allows it 65,530 maps
AGAIN = "make these rows again as they were made: the same `medweave features`, or `convert`"


def encoded(rows: Rows, kind: Kind) -> NDArray[Any]:
    """[n, d] float32 -> [n, d] as stored. int8: the rows' length is not kept."""
    if kind == "float16":
        return rows.astype(np.float16)
    turned = spread(rows)
    largest = np.abs(turned).max(-1, keepdims=True)
    return np.rint(turned * (MOST / np.maximum(largest, 1e-30))).astype(np.int8)


def decoded(stored: NDArray[Any]) -> Rows:
    """[n, d] as stored -> [n, d] float32. A row of zeros stays one."""
    rows: Rows = torch.from_numpy(stored).float().numpy()  # ten times as fast as NumPy's own conversion
    if stored.dtype != np.int8:
        return rows
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return gathered(rows / np.maximum(lengths, 1))


def write_array(path: Path, array: NDArray[Any]) -> None:
    """An .npy file, whole or not at all. Raises UserError when the disk is full."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def is_stored(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> bool:
    """Whether an .npy file begins as one of that shape and type, and is as long as it should be."""
    kind, header = np.dtype(dtype), io.BytesIO()
    told = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, told)
    try:
        with path.open("rb") as file:
            begins_so = file.read(header.tell()) == header.getvalue()
        return begins_so and path.stat().st_size == header.tell() + math.prod(shape) * kind.itemsize
    except OSError:
        return False


class Column:
    """One array a shard, `file_of(shard)` with `sizes[shard]` entries of `dtype` and `width` (0: plain numbers)."""

    def __init__(
        self, file_of: Callable[[int], Path], sizes: Sequence[int], dtype: npt.DTypeLike, width: int = 0
    ) -> None:
        self.file_of, self.sizes, self.dtype, self.width = file_of, sizes, np.dtype(dtype), width

    def whole(self, shard: int) -> NDArray[Any]:
        """A shard's array, mapped into memory. Raises DamagedError where the file is not as it was written."""
        return _mapped(self, shard)

    def take(self, shards: Sequence[int], places: Sequence[int]) -> NDArray[Any]:
        """The entries at some places of some shards: [b, d] as stored, or [b]."""
        taken = np.empty((len(shards), self.width) if self.width else len(shards), self.dtype)
        for at, (shard, place) in enumerate(zip(shards, places, strict=True)):
            taken[at] = _mapped(self, shard)[place]
        return taken


@lru_cache(maxsize=MAPS)  # one cache for all columns: it is the process whose maps are limited
def _mapped(column: Column, shard: int) -> NDArray[Any]:
    """A shard's array, mapped into memory.

    Raises DamagedError where the file is not as it was written, UserError where the system maps no more files.
    """
    path = column.file_of(shard)
    shape = (column.sizes[shard], column.width) if column.width else (column.sizes[shard],)
    try:
        with path.open("rb") as file:
            npy.read_magic(file)
            found, _, dtype = npy.read_array_header_1_0(file)
            start = file.tell()
        if (found, dtype) != (shape, column.dtype):
            raise ValueError
        length = int(np.prod(shape)) * column.dtype.itemsize
        pages = torch.from_file(str(path), shared=False, size=start + length, dtype=torch.uint8).numpy()
    except (OSError, ValueError, RuntimeError) as error:
        if os.strerror(errno.ENOMEM) in str(error):
            todo = "raise vm.max_map_count or `ulimit -v`, or read fewer teachers or views in one process"
            raise UserError("the system maps no more files into memory", where=path, todo=todo) from None
        raise DamagedError("missing or damaged", where=path, todo=AGAIN) from None
    return pages[start:].view(column.dtype).reshape(shape)
