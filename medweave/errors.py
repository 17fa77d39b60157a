"""Errors that a user can cause: what is wrong, where, and what to do, in one line and without a traceback.

UserError          something failed while the work was under way      exit status 1
├── DamagedError   a file is not what was written; others are sound   exit status 1
└── RequestError   the request itself was wrong (recipe, name, path)  exit status 2
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

WORDS = 160  # characters of a library's own message


class UserError(Exception):
    """What is wrong, where, and what to do: printed as one line a mistake, never as a traceback."""

    status = 1

    def __init__(self, what: str, *, where: str | Path | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, where, todo
        place = f" ({where})" if where is not None else ""
        remedy = f": {todo}" if todo else ""
        super().__init__(f"{what}{place}{remedy}")


class DamagedError(UserError):
    """A file is not what was once written there; work on others can go on."""


class RequestError(UserError):
    """The request was wrong before any work began."""

    status = 2


def in_short(error: BaseException) -> str:
    """The first words of an error, on one line; its kind where it says nothing."""
    return " ".join(str(error).split())[:WORDS] or type(error).__name__


def mistakes(lines: Sequence[str], where: str | Path) -> RequestError:
    """The error for a file with mistakes: how many, and a line for each."""
    count = f"{len(lines)} mistakes" if len(lines) > 1 else "a mistake"
    return RequestError(f"{count} in {where}\n" + "\n".join(f"  {line}" for line in lines))


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest in spelling to `name`, best first; all of them when they are few and none is close."""
    names = sorted(set(known))
    lowered = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.5)
    return [lowered[c] for c in close] or (names if len(names) <= 2 * count else [])


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: str | Path | None = None) -> RequestError:
    """The error for a name that is not known, with the nearest names that are."""
    options = nearest(name, known)
    return RequestError(
        f"no {kind} is called {name!r}", where=where, todo=f"did you mean {' or '.join(options)}?" if options else None
    )
