"""Progress with rate and time left on a terminal; a plain line now and then when the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

PLAIN_EVERY = 15.0  # seconds between plain lines


def say(text: str) -> None:
    """One line for the user, on standard error: standard output is kept for results."""
    print(text, file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Pass `items` on and show how far the work is. `total`: how many there will be."""
    if sys.stderr.isatty():
        yield from _bar(items, what, total)
    else:
        yield from _lines(items, what, total)


def _bar(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")
        start = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            bar.update(task, advance=1, rate=f"{done / max(time.monotonic() - start, 1e-9):.1f}/s")


def _lines(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_EVERY:
            last = now
            rate = done / (now - start)
            say(f"{what}: {done}/{total}, {rate:.1f}/s, about {(total - done) / rate:.0f} s left")
