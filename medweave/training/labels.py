"""The findings of every sample, ready for label targets: any process looks up the labels of any batch without pixels.

Distinct label sets are few: each sample holds only the number of its own. n samples of the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.corpus.sample import State
from medweave.corpus.store import Corpus
from medweave.seeds import seed_of
from medweave.training.positives import LabelSet

NOTHING = -1


class Labels:
    """sets: the distinct label sets. codes: [n] int32, which of them a sample has, NOTHING when no finding is known."""

    def __init__(self, sets: Sequence[LabelSet], codes: NDArray[np.int32]) -> None:
        self.sets, self.codes = list(sets), codes

    def of(self, numbers: NDArray[np.int64]) -> list[LabelSet | None]:
        """The labels of some samples, [k]."""
        return [self.sets[code] if code != NOTHING else None for code in self.codes[numbers].tolist()]


def labels_of(corpus: Corpus) -> Labels:
    """The labels of all samples of a corpus."""
    table = corpus.index(["modality", "anatomy", "findings"]).combine_chunks()
    hashes, known = _hashes(table)
    _, first, code = np.unique(hashes[known], return_index=True, return_inverse=True)
    codes = np.full(len(table), NOTHING, np.int32)
    codes[known] = code
    examples = table.take(pa.array(np.flatnonzero(known)[first])).to_pylist()
    return Labels([_label_set(row) for row in examples], codes)


def _hashes(table: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """A hash of each sample's modality, anatomy and findings in any order, and whether any finding is known: two [n].

    Hashes of 64 bits are added up: 10^5 distinct label sets meet by chance once in 10^9 corpora.
    """
    findings = table["findings"].combine_chunks() if table["findings"].num_chunks != 1 else table["findings"].chunk(0)
    flat = findings.flatten()
    row = findings.value_parent_indices().to_numpy(zero_copy_only=False)
    state = flat.field("state")
    told = pc.is_in(state, value_set=pa.array([State.PRESENT, State.ABSENT])).to_numpy(zero_copy_only=False)
    parts = _hash_column(flat.field("name"), "name") * (_hash_column(state, "state") | np.uint64(1))
    hashes = _hash_column(table["modality"], "modality") + _hash_column(table["anatomy"], "anatomy")
    np.add.at(hashes, row[told], parts[told])
    return hashes, np.bincount(row[told], minlength=len(table)) > 0


def _hash_column(column: pa.ChunkedArray | pa.Array, purpose: str) -> NDArray[np.uint64]:
    """A hash of each value of a column of strings, null included."""
    coded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode("encode")
    hashes = np.array([seed_of(purpose, value) for value in coded.dictionary.to_pylist()] or [0], np.uint64)
    result: NDArray[np.uint64] = hashes[coded.indices.to_numpy(zero_copy_only=False)]
    return result


def _label_set(row: dict) -> LabelSet:
    names: dict[str, set[str]] = {State.PRESENT: set(), State.ABSENT: set()}
    for finding in row["findings"]:
        names.get(finding["state"], set()).add(finding["name"])
    key = (row["modality"], row["anatomy"])
    return LabelSet(key, frozenset(names[State.PRESENT]), frozenset(names[State.ABSENT]))
