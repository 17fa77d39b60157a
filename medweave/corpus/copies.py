"""Copies among the images of a plan: unreadable and repeated files leave it, near-duplicates are paired.

n rows: those of a corpus that exists (`old` of them), then new ones. p pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from medweave.corpus import columns, firstpass
from medweave.corpus.near import near_pairs
from medweave.corpus.recipe import CorpusRecipe, NearRecipe
from medweave.errors import unknown_name
from medweave.progress import say

STRICT = {"fundus": 0.65}  # round images of two eyes are more alike than other pictures are
USUAL = 0.5


@dataclass
class Copies:
    """reasons: row -> (reason, remedy) of rows that must go. pairs: int64 [p,2], rows that show the same thing.

    bytes: of the new images that were read; None where the recipe has some of them not read.
    """

    reasons: dict[int, tuple[str, str]]
    pairs: np.ndarray
    bytes: int | None


def find_copies(table: pa.Table, old: int, sources: Sequence[Any], recipe: CorpusRecipe) -> Copies:
    """Read every image whose source is searched for near-duplicates (from the cache, if it was read before).

    Raises RequestError when `groups.sources` names a source that there is not.
    """
    code, names = columns.numbers(table["source"])
    _check_names(recipe, {*names, *(name for source in sources for name in getattr(source, "names", ()))})
    near = [recipe.groups.sources.get(name, recipe.groups.near) for name in names]
    searched = np.flatnonzero(np.array([n.search for n in near], bool)[code])
    if not len(searched):
        return Copies({}, np.empty((0, 2), np.int64), None)
    before, new = searched[searched < old], searched[searched >= old]
    items = firstpass.items(columns.taken(table.select(["id", "recipe", "place"]), new), sources, recipe)
    ids = columns.taken(table.select(["id"]), before)["id"].to_pylist()
    prints = firstpass.fingerprints(recipe.path / "fingerprints", items, ids, recipe)
    _tell_of_lost(prints, len(new))
    rows = np.concatenate([new, before])
    reasons = _unreadable(rows, prints) | _repeated(table, old, rows, prints)
    usable = np.flatnonzero((prints.row >= 0) & ~np.isin(rows, list(reasons)))
    pairs = _pairs(table, rows[usable], prints, usable, [near[c] for c in code[rows[usable]]])
    everything = len(new) == len(table) - old
    return Copies(reasons, pairs, int(prints.bytes[: len(new)].sum()) if everything else None)


def _check_names(recipe: CorpusRecipe, known: set[str]) -> None:
    for name in recipe.groups.sources:
        if name not in known:
            raise unknown_name("source", name, known, where="corpus.groups.sources")


def _tell_of_lost(prints: firstpass.Prints, new: int) -> None:
    lost = int((prints.row[new:] < 0).sum())
    if lost:
        say(f"{lost:,} images of the corpus have no fingerprint any more: near-duplicates of them cannot be found")


def _unreadable(rows: np.ndarray, prints: firstpass.Prints) -> dict[int, tuple[str, str]]:
    return {int(row): reason for row, reason in zip(rows, prints.reasons, strict=True) if reason}


def _repeated(table: pa.Table, old: int, rows: np.ndarray, prints: firstpass.Prints) -> dict[int, tuple[str, str]]:
    """New images of the very bytes of an earlier one of their source: the first is kept."""
    source, _ = columns.numbers(table["source"])
    first: dict[tuple[int, str], int] = {}
    reasons = {}
    for place in np.argsort(rows):
        row = int(rows[place])
        if prints.row[place] < 0:
            continue
        kept = first.setdefault((int(source[row]), prints.sha256[place]), row)
        if kept != row and row >= old:
            reasons[row] = _why_repeated(table, kept, row)
    return reasons


def _why_repeated(table: pa.Table, kept: int, row: int) -> tuple[str, str]:
    reason = f"the same bytes as {table['id'][kept]}"
    if _states(table, kept) == _states(table, row):
        return reason, "nothing to do: one copy is kept"
    return f"{reason}, but with other labels", "decide which labels are right, and take the other off the manifest"


def _states(table: pa.Table, row: int) -> dict[str, str]:
    return {finding["name"]: finding["state"] for finding in table["findings"][row].as_py()}


def _pairs(
    table: pa.Table, rows: np.ndarray, prints: firstpass.Prints, usable: np.ndarray, near: Sequence[NearRecipe]
) -> np.ndarray:
    """Near-duplicates among `rows`, whose prints are the `usable` ones: int64 [p,2]."""
    modalities = table["modality"].take(pa.array(rows)).to_pylist()
    usual = [STRICT.get(modality, USUAL) for modality in modalities]
    least = np.array([n.correlation or u for n, u in zip(near, usual, strict=True)])
    bits = np.array([n.distance for n in near])
    stored = prints.row[usable]
    pairs = near_pairs(prints.eight[usable], lambda some: prints.thumbs[stored[some]], bits, least)
    return rows[pairs]
