"""Words that a recipe expects in its manifest: one that never occurs is most likely misspelt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medweave.errors import RequestError, nearest
from medweave.progress import say

Row = Mapping[str, Any]
COMPARED = 10_000  # most words that a missing one is compared with


@dataclass
class Expected:
    """missing: a word as `words_of` would give it -> as the recipe has it. must: whether it is an error if one stays.

    words_of: the words of a row where those of `field` may occur.
    """

    field: str
    missing: dict[str, str]
    words_of: Callable[[Row], Iterable[str]]
    must: bool = True

    def see(self, row: Row) -> None:
        """Take the words of a row off the missing ones."""
        for word in self.words_of(row) if self.missing else ():
            self.missing.pop(word, None)


def report(expected: Sequence[Expected], rows: Callable[[], Iterator[Row]], where: Path) -> None:
    """Tell of the words that no row has, with the nearest that one has; of none where there is no row at all.

    Raises RequestError where they must occur.
    """
    missed = [item for item in expected if item.missing]
    if not missed or next(rows(), None) is None:
        return
    for item in missed:
        words = _words(item, rows())
        near = {own: ", ".join(nearest(own, words)) for own in item.missing.values()}
        what = f"{item.field}: nothing is called {' or '.join(map(repr, near))}"
        todo = f"nearest: {'; '.join(filter(None, near.values())) or 'none'}"
        if item.must:
            raise RequestError(what, where=where, todo=todo)
        say(f"{what} ({where}); {todo}")


def _words(item: Expected, rows: Iterable[Row]) -> list[str]:
    words: dict[str, None] = {}
    for row in rows:
        words |= dict.fromkeys(item.words_of(row))
        if len(words) >= COMPARED:
            break
    return list(words)
