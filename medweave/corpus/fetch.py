"""Files behind a URL, by fsspec: asked for again while the connection fails; what cannot be helped is one line."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import fsspec

from medweave.errors import RequestError, UserError, in_short
from medweave.progress import say

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before a failed request is made again
STALLED = 60.0  # seconds without a byte after which a request over https has failed
EXTRAS = {"s3": "s3", "http": "https", "https": "https"}  # of pyproject.toml, by what a URL begins with
PASSING = (408, 429)  # HTTP's refusals that may pass: time-out, too many requests


class Source:
    """The files below a URL. A forked process gets connections of its own."""

    def __init__(self, url: str) -> None:
        self.url, self.kind = url, url.partition("://")[0]

    def copy(self, name: str, to: Path) -> None:
        """Write the content of `name` to a file. Raises FileNotFoundError where it does not exist, else UserError."""
        self._asked(name, lambda files, path: files.get_file(path, str(to)))

    def part(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of `name`, fewer where it ends before. Raises as `copy`."""
        data: bytes = self._asked(name, lambda files, path: files.cat_file(path, start=start, end=stop))
        if len(data) > stop - start:
            raise RequestError(
                "the server gives whole files only",
                where=f"{self.url}/{name}",
                todo="serve the corpus by one that answers range requests, or copy it to this machine",
            )
        return data

    def _asked(self, name: str, question: Callable[[Any, str], T]) -> T:
        """The answer to a question of (file system, path)."""
        where = f"{self.url}/{name}"
        for wait in (*WAITS, None):
            files, root = self._file_system()
            try:
                return question(files, f"{root}/{quote(name) if self.kind.startswith('http') else name}")
            except FileNotFoundError as error:
                if type(error.__cause__).__name__ == "NoSuchBucket":
                    raise RequestError("no such bucket", where=self.url) from None
                raise
            except Exception as error:  # every file system has errors of its own
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                if wait is None or _lasts(error):
                    raise _told(error, where) from error
                say(f"{where}: {in_short(error)}; again in {wait:g} s")
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _file_system(self) -> tuple[Any, str]:
        """fsspec's file system and the path of the URL on it. Raises RequestError where there is none."""
        try:
            return fsspec.core.url_to_fs(self.url, **_options(self.kind))
        except ImportError as error:
            extra = EXTRAS.get(self.kind)
            todo = f'pip install "medweave[{extra}]"' if extra else None
            raise RequestError(f"a package is missing: {in_short(error)}", where=self.url, todo=todo) from None
        except ValueError as error:
            raise RequestError(in_short(error), where=self.url, todo="URLs begin with s3:// or https://") from None


def _options(kind: str) -> dict[str, Any]:
    """What fsspec does not do by itself: give up a request over https that stalls, but never one that takes long."""
    if not kind.startswith("http"):
        return {}
    import aiohttp

    return {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)}


def _lasts(error: Exception) -> bool:
    """Whether asking again is no use: it is not allowed, or makes no sense."""
    status = getattr(error, "status", 0)
    refused = 400 <= status < 500 and status not in PASSING
    senseless = isinstance(error, ValueError) or getattr(error, "errno", None) == errno.EINVAL
    return refused or senseless or _is_forbidden(error) or _lacks_credentials(error)


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403)


def _lacks_credentials(error: Exception) -> bool:
    return "Credentials" in type(error).__name__  # botocore's own, which may not be installed


def _told(error: Exception, where: str) -> UserError:
    """What a user can do about a request that failed for good."""
    if _lacks_credentials(error):
        todo = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket "
        return UserError("no credentials", where=where, todo=todo + """FSSPEC_S3='{"anon": true}'""")
    if _is_forbidden(error):
        todo = "it takes the rights to read and to list: without the second, missing files look forbidden"
        return UserError(f"not allowed: {in_short(error)}", where=where, todo=todo)
    todo = "check address and connection; the same command goes on where it stopped"
    return UserError(f"cannot be fetched: {in_short(error)}", where=where, todo=todo)
