"""Parts of a corpus as ranges of sample numbers: a split, one side of a fold, and the strata inside. None is withdrawn.

A split's ranges come from corpus.json alone, so a reading worker's memory does not grow with the corpus. A fold's come
from an overlay: one small row a sample.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from medweave.corpus.order import Numbers, Ranges
from medweave.corpus.store import Corpus
from medweave.errors import RequestError, unknown_name

By = Literal["source", "modality", "all"]
SIDES = ("train", "validation", "test")


def split_view(corpus: Corpus, split: str | None = None, overlay: str | None = None) -> Ranges:
    """The samples of one split (None: of all), as the corpus or the column `split` of an overlay says."""
    if split is not None and split not in SIDES:
        raise unknown_name("split", split, SIDES)
    if overlay is None:
        runs = [(s.start, s.stop) for s in corpus.strata if split in (None, s.split)]
        return _kept(corpus, _runs(runs))
    numbers, columns = _overlay(corpus, overlay, ["split"])
    return _kept(corpus, Ranges.of(numbers[columns["split"] == split] if split else numbers))


def fold_view(corpus: Corpus, fold: int, side: str, overlay: str = "folds") -> Ranges:
    """One side of a fold: test is the fold itself, validation the inner part 0 of the others, train the rest."""
    if side not in SIDES:
        raise unknown_name("side of a fold", side, SIDES)
    numbers, columns = _overlay(corpus, overlay, ["fold", "inner"])
    folds = np.unique(columns["fold"])
    if fold not in folds:
        raise RequestError(f"no fold {fold}", where=overlay, todo=f"there are {folds.min()} to {folds.max()}")
    test = columns["fold"] == fold
    validation = ~test & (columns["inner"] == 0)
    masks = {"test": test, "validation": validation, "train": ~test & ~validation}
    return _kept(corpus, Ranges.of(numbers[masks[side]]))


def strata_of(corpus: Corpus, view: Ranges, by: By = "source") -> dict[str, Ranges]:
    """A view cut into its sources or modalities; those with no sample in it are left out."""
    parts: dict[str, list[Ranges]] = {}
    for stratum in corpus.strata:
        name = "all" if by == "all" else getattr(stratum, by)
        parts.setdefault(name, []).append(view.within(stratum.start, stratum.stop))
    joined = {name: Ranges.joined(ranges) for name, ranges in parts.items()}
    return {name: ranges for name, ranges in joined.items() if len(ranges)}


def _runs(runs: list[tuple[int, int]]) -> Ranges:
    pairs = np.array(runs, np.int64).reshape(-1, 2)
    return Ranges(pairs[:, 0], pairs[:, 1])


def _kept(corpus: Corpus, ranges: Ranges) -> Ranges:
    return ranges.without(corpus.withdrawn())


def _overlay(corpus: Corpus, name: str, columns: list[str]) -> tuple[Numbers, dict[str, np.ndarray]]:
    """An overlay's sample numbers and columns, row by row."""
    table = corpus.overlay(name)
    absent = [column for column in columns if column not in table.column_names]
    if absent:
        raise RequestError(f"the overlay has no column {absent[0]!r}", where=name)
    numbers = corpus.numbers_of(table.column("id").to_pylist())
    return numbers, {column: table.column(column).to_numpy(zero_copy_only=False) for column in columns}
