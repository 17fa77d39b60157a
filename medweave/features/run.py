"""Several teachers, one after the other: rows, then coverage. One that fails does not keep the others from theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from medweave.corpus.resize import Policy
from medweave.corpus.store import open_corpus
from medweave.errors import UserError, unknown_name
from medweave.features.coverage import cover
from medweave.features.extract import extract
from medweave.features.store import open_features
from medweave.features.views import Views


@dataclass(frozen=True)
class Outcome:
    """What became of one teacher: a line for a terminal, and an exit status."""

    text: str
    status: int = 0


def run(
    corpus: Path | str,
    teachers: Sequence[str],
    views: int = 0,
    resize: str = "pad",
    *,
    int8: bool = False,
    workers: int | None = None,
    replace: bool = False,
) -> Iterator[Outcome]:
    """The rows and the coverage of each teacher of a corpus. Others: as `extract`.

    views: augmented views an image. resize: their policy, as the student's. Raises RequestError for another policy.
    """
    if resize not in get_args(Policy):
        raise unknown_name("way to a square", resize, get_args(Policy), where="--resize")
    opened, drawn = open_corpus(corpus), Views(count=views, policy=cast(Policy, resize)) if views else None
    for teacher in teachers:
        try:
            made = extract(
                opened,
                teacher,
                views=drawn,
                dtype="int8" if int8 else "float16",
                workers=workers,
                replace=replace,
            )
            lines = [made.text()]
            if not made.left:
                lines.append(cover(open_features(opened, made.name)).text())
            yield Outcome("; ".join(lines))
        except UserError as error:
            yield Outcome(f"{teacher}: {error}", error.status)
