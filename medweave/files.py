"""Files that are either whole or absent: atomic writes, hashes, canonical JSON, one writer a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from medweave.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well it is synced and renamed to `path`.

    Raises UserError when the disk is full; the file that was there before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                "the disk is full",
                where=path.parent,
                todo="free space and run the same command again: it goes on where it stopped",
            ) from error
        raise
    finally:
        with suppress(OSError):  # the first error is what counts
            draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_bytes(data)


def canonical_json(value: Any) -> bytes:
    """The one way to write `value` as JSON: sorted keys, no spaces, UTF-8. Equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises UserError when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except ValueError as error:
        raise UserError(f"not a JSON file: {error}", where=path) from None


def hash_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def hash_of_file(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a second writer gets a UserError at once instead of mixing its files in."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            "another process is writing into this folder",
            where=folder,
            todo="wait for it to end, or choose another folder",
        ) from None
    try:
        yield
    finally:
        lock.release()
