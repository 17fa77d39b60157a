"""How a corpus's folder is read: on a local disk, or behind any fsspec URL (s3://, https://) through a local cache.

From afar, shards come in blocks: the bytes of a sample and its neighbours by one range request, kept in the cache for
whoever asks next, in this process or another. Whole small files are kept likewise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import filelock

from medweave.corpus.fetch import Source
from medweave.errors import RequestError, UserError
from medweave.files import whole_file, write_bytes

OPEN_SHARDS = 128
CACHE_GIB = 50.0
TRIM_EVERY = 2**30  # bytes that a process fetches between two looks at the size of the cache


class LocalFolder:
    """A folder on a local or mounted disk. Safe to use from threads and after a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = lru_cache(maxsize=OPEN_SHARDS)(_Handle)

    def local(self, name: str, changing: bool = False) -> Path:
        """The file itself."""
        return self.path / name

    def open(self, name: str) -> IO[bytes]:
        """`name`, to be read front to back. Raises FileNotFoundError."""
        return (self.path / name).open("rb")

    def range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of `name`; fewer where it is shorter. Raises FileNotFoundError."""
        handle = self._handle(self.path / name)  # held until the bytes are there: another thread may push it out
        return os.pread(handle.number, stop - start, start)


class RemoteFolder:
    """A folder behind a URL, kept in part under root/name: whole files, and blocks of shards.

    The blocks of all corpora under `root` together stay within MEDWEAVE_CACHE_GIB (50), but for a gigabyte that each
    process may add before it looks; those fetched longest ago go first. Safe to use from threads and after a fork.
    """

    def __init__(self, url: str, root: Path, name: str = "") -> None:
        self.source, self.root, self.cache = Source(url), root, _inside(root, name)
        self._lock, self._fetched = threading.Lock(), TRIM_EVERY

    def local(self, name: str, changing: bool = False) -> Path:
        """A copy in the cache, fetched once, or each time where it may change."""
        copy = _inside(self.cache, name)
        if not changing and copy.exists():
            return copy
        with _turn(copy):
            if changing or not copy.exists():
                self._copy(name, copy)
        return copy

    def open(self, name: str) -> IO[bytes]:
        """`name`, to be read front to back out of a copy that goes when it is closed. Raises FileNotFoundError."""
        _make(self.root)
        file = NamedTemporaryFile(dir=self.root)  # noqa: SIM115
        self.source.copy(name, Path(file.name))
        return file

    def within(self, name: str, block: tuple[int, int], start: int, stop: int) -> bytes:
        """Bytes [start, stop) of `name`, fewer where it is shorter; with them all of `block` comes into the cache.

        Raises FileNotFoundError, and UserError where the URL cannot be read.
        """
        first, last = block
        copy = self.cache / "blocks" / f"{name.replace('/', '_')}.{first}-{last}"
        with suppress(FileNotFoundError):
            return _part(copy, start - first, stop - first)
        with _turn(copy):
            with suppress(FileNotFoundError):
                return _part(copy, start - first, stop - first)
            data = self.source.part(name, first, last)
            if len(data) == last - first:
                write_bytes(copy, data)
        self._trim(len(data))
        return data[start - first : stop - first]

    def _copy(self, name: str, copy: Path) -> None:
        """Bring a file into the cache; where it is not there any more, it goes from the cache too."""
        try:
            with whole_file(copy) as draft:
                self.source.copy(name, draft)
        except FileNotFoundError:
            copy.unlink(missing_ok=True)

    def _trim(self, fetched: int) -> None:
        """Now and then, delete the oldest blocks that are too many."""
        with self._lock:
            self._fetched += fetched
            if self._fetched < TRIM_EVERY:
                return
            self._fetched = 0
        files = sorted((stat.st_mtime, stat.st_size, path) for path, stat in _blocks(self.root))
        excess = sum(size for _, size, _ in files) - cache_bytes()
        for _, size, path in files:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


class _Handle:
    """An open file that closes when its last user lets go of it: eviction from a cache never hurts a reader."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


Place = LocalFolder | RemoteFolder


def cache_folder() -> Path:
    """Where parts of remote corpora are kept: MEDWEAVE_CACHE, or ~/.cache/medweave."""
    return Path(os.environ.get("MEDWEAVE_CACHE", Path.home() / ".cache" / "medweave"))


def cache_bytes() -> float:
    """How much of blocks is kept: MEDWEAVE_CACHE_GIB. Raises RequestError where that is no number."""
    given = os.environ.get("MEDWEAVE_CACHE_GIB", CACHE_GIB)
    try:
        return float(given) * 2**30
    except ValueError:
        raise RequestError(f"{given!r} is no number", where="MEDWEAVE_CACHE_GIB", todo="give gigabytes") from None


@contextmanager
def _turn(copy: Path) -> Iterator[None]:
    """One thread of all processes fetches a file; those that waited find it."""
    _make(copy.parent)
    lock = copy.with_name(f".{copy.name}.lock")
    with filelock.FileLock(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        raise UserError("no right to write the cache", where=folder, todo="name another by MEDWEAVE_CACHE") from None


def _inside(folder: Path, name: str) -> Path:
    """folder/name. Raises UserError where that leads out of the folder: the names come from afar."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{name!r} leads out of its folder", where=folder, todo="do not trust this corpus")
    return folder / name


def _part(file: Path, start: int, stop: int) -> bytes:
    with file.open("rb", buffering=0) as opened:
        return os.pread(opened.fileno(), stop - start, start)


def _blocks(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The blocks of all corpora in a cache; what is being written has a name with a dot."""
    for path in root.glob("*/blocks/[!.]*"):
        with suppress(FileNotFoundError):  # another process may trim at the same time
            yield path, path.stat()
