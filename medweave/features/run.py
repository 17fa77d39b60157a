"""Several teachers, one after the other: rows, then coverage. One that fails does not keep the others from theirs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from medweave.corpus.resize import Policy
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError, UserError, unknown_name
from medweave.features.coverage import cover
from medweave.features.extract import extract
from medweave.features.layout import PLAIN, name_of, plain
from medweave.features.store import open_features
from medweave.features.texts import bank_captions
from medweave.features.views import Views
from medweave.models.load import TEACHER, name_of_reference
from medweave.models.teachers.catalogue import card

NAMED = re.compile(rf"({PLAIN.pattern})=(.+)")


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
    labels: str | None = None,
    banks: Sequence[Path] = (),
) -> Iterator[Outcome]:
    """The rows and the coverage of each teacher of a corpus. Others: as `extract`.

    teachers: REFERENCE, or NAME=REFERENCE where the rows are to have another name than the model's own.
    views: augmented views an image. resize: their policy, as the student's. labels: an overlay of corrected labels,
    banks: caption banks, both as a run will have them: their captions get rows too. Raises RequestError for another
    policy, an overlay or a bank that is none, and for two teachers of one name.
    """
    if resize not in get_args(Policy):
        raise unknown_name("way to a square", resize, get_args(Policy), where="--resize")
    asked = [_asked(teacher) for teacher in teachers]
    _check_distinct(asked)
    opened = open_corpus(corpus, labels=labels)
    drawn = Views(count=views, policy=cast(Policy, resize)) if views else None
    captions = bank_captions(opened, banks) if banks else None
    for name, teacher in asked:
        try:
            made = extract(
                opened,
                teacher,
                name,
                views=drawn,
                bank=captions,
                dtype="int8" if int8 else "float16",
                workers=workers,
                replace=replace,
            )
            lines = [made.text()]
            if not made.left:
                lines.append(cover(open_features(opened, made.name)).text())
            yield Outcome("; ".join(lines))
        except UserError as error:
            yield Outcome(f"{teacher or '--teacher'}: {error}", error.status)


def _asked(teacher: str) -> tuple[str | None, str]:
    """The name of the rows and the model's reference; no name where its card cannot be read, which `load` will say."""
    if named := NAMED.fullmatch(teacher):
        return named[1], named[2]
    try:
        return _rows_name(teacher), teacher
    except UserError:
        return None, teacher


def _rows_name(reference: str) -> str:
    """The name that rows get by themselves: a card's, or the model's own. Raises RequestError for no card."""
    model = name_of_reference(reference)
    return plain(card(model.removeprefix(TEACHER)).name) if model.startswith(TEACHER) else name_of(model)


def _check_distinct(asked: Sequence[tuple[str | None, str]]) -> None:
    """Raises RequestError where rows of two teachers would have one name."""
    counts = Counter(name for name, _ in asked if name is not None)
    for name, count in counts.items():
        if count > 1:
            alike = " and ".join(reference for other, reference in asked if other == name)
            todo = "name the rows: `--teacher NAME=REFERENCE`"
            raise RequestError(f"{count} teachers are called {name!r} ({alike})", where="--teacher", todo=todo)
