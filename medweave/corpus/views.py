"""Parts of a corpus as ranges of sample numbers: a split, one side of a fold, and the strata inside. None is withdrawn.

A split's ranges come from corpus.json alone, so a reading worker's memory does not grow with the corpus. A fold's come
from an overlay that is read piece by piece: one byte a sample.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.corpus.order import Ranges
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
    mask = np.zeros(len(corpus), bool)
    for numbers, columns in corpus.overlay_pieces(overlay, ["split"]):
        mask[numbers] = np.asarray(pc.equal(columns["split"], split)) if split else True
    return _kept(corpus, Ranges.of_mask(mask))


def fold_view(
    corpus: Corpus,
    fold: int,
    side: str,
    overlay: str = "folds",
    others: Ranges | None = None,
    aside: Collection[int] = (),
) -> Ranges:
    """One side of a fold: test is the fold itself, validation the inner part 0 of the others, train the rest.

    others: samples that are on this side too where the overlay does not name them. aside: inner parts that are on no
    side. Raises RequestError for a fold, side or inner part that there is none of.
    """
    if side not in SIDES:
        raise unknown_name("side of a fold", side, SIDES)
    mask = np.zeros(len(corpus), bool) if others is None else others.mask(len(corpus))
    folds: set[int] = set()
    inner: set[int] = set()
    for numbers, columns in corpus.overlay_pieces(overlay, ["fold", "inner"]):
        folds.update(columns["fold"].unique().to_pylist())
        inner.update(columns["inner"].unique().to_pylist())
        mask[numbers] = _on_side(columns, fold, side, aside)
    if fold not in folds:
        known = f"there are {min(folds)} to {max(folds)}" if folds else None
        raise RequestError(f"overlay {overlay} has no fold {fold}", todo=known)
    missing = sorted(set(aside) - inner)
    if missing:
        raise RequestError(f"overlay {overlay} has no inner part {missing[0]}", todo=f"there are {sorted(inner)}")
    return _kept(corpus, Ranges.of_mask(mask))


def strata_of(
    corpus: Corpus,
    view: Ranges,
    by: By = "source",
    leave_out: Collection[str] = (),
    only: Collection[str] | None = None,
) -> dict[str, Ranges]:
    """A view cut into its sources or modalities, without the sources `leave_out`; those with no sample in it are none.

    only: the modalities that count; None: all. In the order in which the corpus has their first samples of the view.
    """
    parts: dict[str, list[Ranges]] = {}
    for stratum in corpus.strata:
        part = view.within(stratum.start, stratum.stop)
        if len(part) and stratum.source not in leave_out and (only is None or stratum.modality in only):
            parts.setdefault("all" if by == "all" else getattr(stratum, by), []).append(part)
    return {name: Ranges.joined(ranges) for name, ranges in parts.items()}


def _on_side(columns: pa.RecordBatch, fold: int, side: str, aside: Collection[int]) -> NDArray[np.bool_]:
    """Which rows of an overlay of folds are on one side of a fold."""
    folds, inner = (columns[name].to_numpy(zero_copy_only=False) for name in ("fold", "inner"))
    if side == "test":
        return folds == fold
    return (folds != fold) & ((inner == 0) == (side == "validation")) & ~np.isin(inner, list(aside))


def _runs(runs: list[tuple[int, int]]) -> Ranges:
    pairs = np.array(runs, np.int64).reshape(-1, 2)
    return Ranges(pairs[:, 0], pairs[:, 1])


def _kept(corpus: Corpus, ranges: Ranges) -> Ranges:
    return ranges.without(corpus.withdrawn())
