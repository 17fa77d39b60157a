"""On which side of the split, and in which fold, each group of a plan lies.

A side that is settled already (in a corpus that exists, or by the owner's split) holds for its whole group; what would
tie two settled sides together stays outside. n rows, the first `old` of them of a corpus that exists; g groups.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from medweave.corpus import columns, grouping
from medweave.corpus.recipe import SIDES, CorpusRecipe
from medweave.errors import RequestError

SMALL = 20_000  # images of a source up to which `split: auto` is balanced


def settled(
    table: pa.Table, old: int, group: np.ndarray, parts: np.ndarray
) -> tuple[np.ndarray, dict[int, tuple[str, str]]]:
    """(index of SIDES each row must have or -1, int64 [n]; row -> (reason, remedy) of new rows that contradict it).

    parts: int64 [n,2], fold and inner part of old rows, -1 elsewhere. An owner's test wins over validation over train.
    """
    count = int(group.max(initial=-1)) + 1
    side, new = columns.codes(table["split"], SIDES), np.arange(len(group)) >= old
    low, high = columns.extremes(group[~new], side[~new], count)
    torn = low != high
    for part in parts.T:
        torn |= np.not_equal(*columns.extremes(group, part, count))
    _, owner = columns.extremes(group[new], side[new], count)
    fixed = np.where(high >= 0, high, owner)[group]
    between, other = torn[group] & new, new & (side >= 0) & (side != fixed)
    leak = ("belongs together with images on two sides of the corpus", "nothing to do: it would leak")
    reasons = {int(row): leak for row in np.flatnonzero(between)}
    for row in np.flatnonzero(other & ~between):
        what = f"in the owner's {SIDES[side[row]]}, but its patient or a near-duplicate is in {SIDES[fixed[row]]}"
        reasons[int(row)] = (what, "leave out columns.split to have whole groups dealt")
    return fixed, reasons


def dealt(table: pa.Table, group: np.ndarray, names: np.ndarray, fixed: np.ndarray, recipe: CorpusRecipe) -> np.ndarray:
    """The side of each row, index of SIDES, int64 [n]: as settled, balanced, or by the hash of its group's name [g]."""
    shares, side = recipe.split.shares, fixed.copy()
    balanced = np.zeros(len(names), bool)
    balanced[group[_kinds(table, fixed, recipe) == "balanced"]] = True
    waiting = np.unique(group[(fixed < 0) & ~balanced[group]])
    by_hash = np.full(len(names), -1)
    by_hash[waiting] = grouping.deal_by_hash(names[waiting].tolist(), shares, recipe.seed)
    side = np.where(side < 0, by_hash[group], side)
    some = np.flatnonzero(balanced[group])
    if len(some):
        own, kinds = columns.dense(group[some]), columns.dense(columns.classes(table)[some])
        side[some] = grouping.deal(own, kinds, shares, recipe.seed, fixed[some])
    return side


def _kinds(table: pa.Table, fixed: np.ndarray, recipe: CorpusRecipe) -> np.ndarray:
    """hash or balanced for each row. Raises RequestError where the split is `owner` and a row has none."""
    source, names = columns.numbers(table["source"])
    number = table["recipe"].fill_null(-1).to_numpy()
    chosen = [s.split or recipe.split.kind for s in recipe.sources] + [recipe.split.kind]
    kinds = np.array(chosen, object)[number]
    without = np.flatnonzero((kinds == "owner") & (fixed < 0))
    if len(without):
        raise RequestError(
            f"split: owner, but {len(without):,} images have none, the first in {names[source[without[0]]]}",
            todo="name columns.split of that source and fill it, or choose hash, balanced or auto",
        )
    small = np.bincount(source)[source] <= SMALL
    return np.where(kinds == "auto", np.where(small, "balanced", "hash"), kinds)


def folds(table: pa.Table, group: np.ndarray, parts: np.ndarray, recipe: CorpusRecipe) -> pa.Table | None:
    """The overlay id, fold, inner of all rows. parts: int64 [n,2] of old rows, -1 elsewhere, which groups keep."""
    if recipe.folds is None:
        return None
    count = int(group.max(initial=-1)) + 1
    fixed = np.stack([columns.extremes(group, part, count)[1][group] for part in parts.T], axis=1)
    own, kinds = columns.dense(group), columns.classes(table)
    fold, inner = grouping.deal_folds(own, kinds, recipe.folds.count, recipe.seed, fixed)
    return pa.table({"id": table["id"], "fold": pa.array(fold, pa.int8()), "inner": pa.array(inner, pa.int8())})


def parts_of(table: pa.Table, overlay: pa.Table | None) -> np.ndarray:
    """fold and inner of each row as an earlier overlay has them, -1 where it has none: int64 [n,2]."""
    if overlay is None:
        return np.full((len(table), 2), -1)
    known = {
        name: (f, i) for name, f, i in zip(*(overlay[c].to_pylist() for c in ("id", "fold", "inner")), strict=True)
    }
    return np.array([known.get(name, (-1, -1)) for name in table["id"].to_pylist()], np.int64).reshape(-1, 2)
