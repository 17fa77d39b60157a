"""Where a corpus lies: a local folder, or any fsspec URL (s3://, https://) read by ranges into a local cache."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

import fsspec

from medweave.errors import UserError
from medweave.files import write_bytes

OPEN_SHARDS = 128
CACHE_BYTES = 50 * 2**30
TRIM_EVERY = 256  # blocks fetched between two looks at the size of the cache


class Place(Protocol):
    """The three ways in which a corpus reads its folder."""

    def local(self, name: str, changing: bool = False) -> Path:
        """A local file with the whole content of `name`, which may not exist; fetched again where it may change."""

    def open(self, name: str) -> BinaryIO:
        """`name`, to be read front to back."""

    def range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of `name`; fewer where it is shorter."""


class LocalFolder:
    """A folder on a local or mounted disk. Safe to use from threads and after a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = lru_cache(maxsize=OPEN_SHARDS)(_Handle)

    def local(self, name: str, changing: bool = False) -> Path:
        """The file itself."""
        return self.path / name

    def open(self, name: str) -> BinaryIO:
        """`name`, to be read front to back."""
        return (self.path / name).open("rb")

    def range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of `name`; fewer where it is shorter."""
        handle = self._handle(self.path / name)  # held until the bytes are there: another thread may push it out
        return os.pread(handle.number, stop - start, start)


class RemoteFolder:
    """A folder behind a URL. Whole small files and ranges of shards are kept in `cache`; the oldest go first."""

    def __init__(self, url: str, cache: Path) -> None:
        self.url, self.cache = url.rstrip("/"), cache
        self._lock, self._fetched = threading.Lock(), 0

    def local(self, name: str, changing: bool = False) -> Path:
        """A copy in the cache, fetched once, or each time where it may change."""
        copy = self.cache / name
        if copy.exists() and not changing:
            return copy
        if self._exists(name):
            write_bytes(copy, self._fetch(name, None, None))
        else:
            copy.unlink(missing_ok=True)
        return copy

    def open(self, name: str) -> BinaryIO:
        """`name`, to be read front to back, past the cache."""
        files, root = fsspec.core.url_to_fs(self.url)
        handle: BinaryIO = files.open(f"{root}/{name}", "rb")
        return handle

    def range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of `name`, from the cache where they were asked for before."""
        copy = self.cache / "blocks" / f"{name.replace('/', '_')}.{start}-{stop}"
        try:
            return copy.read_bytes()
        except FileNotFoundError:
            data = self._fetch(name, start, stop)
        write_bytes(copy, data)
        self._trim(copy.parent)
        return data

    def _exists(self, name: str) -> bool:
        files, root = fsspec.core.url_to_fs(self.url)
        return bool(files.exists(f"{root}/{name}"))

    def _fetch(self, name: str, start: int | None, stop: int | None) -> bytes:
        files, root = fsspec.core.url_to_fs(self.url)  # fsspec gives a forked process a connection of its own
        try:
            data: bytes = files.cat_file(f"{root}/{name}", start=start, end=stop)
        except FileNotFoundError:
            raise UserError("no such file", where=f"{self.url}/{name}") from None
        except OSError as error:
            raise UserError(f"cannot be fetched: {error}", where=f"{self.url}/{name}") from error
        return data

    def _trim(self, blocks: Path) -> None:
        with self._lock:
            self._fetched += 1
            if self._fetched % TRIM_EVERY:
                return
        files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(blocks))
        excess = sum(size for _, size, _ in files) - CACHE_BYTES
        for _, size, path in files:
            if excess <= 0:
                break
            Path(path).unlink(missing_ok=True)
            excess -= size


class _Handle:
    """An open file that closes when its last user lets go of it: eviction from a cache never hurts a reader."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
