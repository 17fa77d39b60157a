"""Which samples of a corpus are for training, for choices (validation) and for the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.errors import RequestError, unknown_name
from medweave.evaluation.recipe import Part

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

ROLES = ("train", "validation", "test", "none")


def roles(corpus: Corpus, part: Part) -> NDArray[np.str_]:
    """The role of every sample of the corpus, [samples]: one of ROLES; what was withdrawn has none.

    With an overlay, a sample that it does not name keeps the role of its split, but is never in the test part.
    Raises RequestError when the overlay lacks the fold.
    """
    table = corpus.index(["id", "split"])
    found = _by_split(table["split"], part)
    if part.overlay is not None:
        found = _by_fold(found, table["id"], corpus.overlay(part.overlay), part)
    found[np.fromiter(corpus.withdrawn(), np.int64)] = "none"
    return found


def check_test_split(corpus: Corpus, part: Part) -> None:
    """Raise RequestError when a test is asked for and no sample has its split, naming the nearest splits."""
    known = corpus.index(["split"])["split"].unique().to_pylist()
    if part.overlay is None and part.test not in known:
        raise unknown_name("split", part.test, known)


def numbers_of(corpus: Corpus, part: Part, role: str) -> NDArray[np.int64]:
    """The sample numbers of one role, ascending."""
    return np.flatnonzero(roles(corpus, part) == role)


def _by_split(splits: pa.ChunkedArray, part: Part) -> NDArray[np.str_]:
    names = splits.to_numpy(zero_copy_only=False).astype(str)
    wanted = [names == part.train, names == part.validation, names == part.test]
    return np.select(wanted, ROLES[:3], default="none")


def _by_fold(by_split: NDArray[np.str_], ids: pa.ChunkedArray, overlay: pa.Table, part: Part) -> NDArray[np.str_]:
    place = pc.index_in(ids, value_set=overlay["id"].combine_chunks())
    named = place.is_valid().to_numpy(zero_copy_only=False)
    row = place.fill_null(0).to_numpy(zero_copy_only=False)
    folds, inner = (overlay[name].to_numpy(zero_copy_only=False)[row] for name in ("fold", "inner"))
    if not (named & (folds == part.fold)).any():
        raise RequestError(
            f"overlay {part.overlay} has no fold {part.fold}", todo=f"folds: {sorted(set(folds.tolist()))}"
        )
    by_fold = np.select([folds == part.fold, inner == 0], ["test", "validation"], default="train")
    unnamed = np.where(by_split == "test", "none", by_split)
    return np.where(named, by_fold, unnamed)
