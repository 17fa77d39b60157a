"""Where a corpus lies: a folder on this machine, or a URL that fsspec reads (s3://, https://)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator


def address(given: Path | str) -> Path | str:
    """A URL as text, without a slash at its end; anything else as a path.

    Raises ValueError for a URL with a password: runs and models keep the address of their corpus.
    """
    text = str(given)
    if "://" not in text:
        return Path(given)
    if urlsplit(text).password is not None:
        raise ValueError("a URL with a password would be kept with every model: give it by the environment instead")
    return text.rstrip("/")


def folder(given: Path | str) -> Path:
    """A path on this machine. Raises ValueError for a URL."""
    if "://" in str(given):
        raise ValueError("is written to, so it must be a folder, not a URL: copy the folder there afterwards")
    return Path(given)


Address = Annotated[Path | str, BeforeValidator(address)]
Folder = Annotated[Path, BeforeValidator(folder)]
