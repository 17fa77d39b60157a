"""What is known of every sample: samples with the same modality, anatomy and findings share a number of four bytes.

Distinct label sets are few, so that the labels of a corpus of any size fit into memory. n samples, k distinct sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.corpus.columns import flat
from medweave.corpus.order import Hashes, Numbers, Ranges
from medweave.corpus.sample import State
from medweave.seeds import seed_of

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus


@dataclass(frozen=True)
class LabelSet:
    """What is known of one sample: findings named neither present nor absent are unknown."""

    key: tuple[str, str | None]  # (modality, anatomy): findings are compared inside one key only
    present: frozenset[str]
    absent: frozenset[str]

    @property
    def told(self) -> bool:
        """Whether any finding is known."""
        return bool(self.present or self.absent)


@dataclass(frozen=True)
class Known:
    """sets: [k], in order of first appearance. codes: [n] int32, which of them a sample has."""

    sets: list[LabelSet]
    codes: NDArray[np.int32]

    def counts(self, ranges: Ranges) -> Numbers:
        """How many samples of these ranges have each set: int64 [k]."""
        counts = np.zeros(len(self.sets), np.int64)
        for numbers in ranges.pieces():
            counts += np.bincount(self.codes[numbers], minlength=len(self.sets))
        return counts


def known_of(corpus: Corpus) -> Known:
    """What is known of all samples of a corpus."""
    codes = np.empty(len(corpus), np.int32)
    sets: list[LabelSet] = []
    place: dict[int, int] = {}
    first = 0
    for batch in corpus.batches(["modality", "anatomy", "findings"]):
        hashes, examples, inverse = np.unique(_hashes(batch), return_index=True, return_inverse=True)
        new = [at for at, value in enumerate(hashes.tolist()) if value not in place]
        place.update({int(hashes[at]): len(sets) + n for n, at in enumerate(new)})
        sets += map(_label_set, batch.take(pa.array(examples[new])).to_pylist())
        codes[first : first + len(batch)] = np.array([place[value] for value in hashes.tolist()], np.int32)[inverse]
        first += len(batch)
    return Known(sets, codes)


def _hashes(batch: pa.RecordBatch) -> Hashes:
    """A hash of each sample's modality, anatomy and findings that are told, in any order: [n].

    Hashes of 64 bits are added up: 10^5 distinct label sets meet by chance once in 10^9 corpora.
    """
    row, name, state = flat(batch["findings"])
    told = pc.is_in(state, value_set=pa.array([State.PRESENT, State.ABSENT])).to_numpy(zero_copy_only=False)
    parts = _hash_column(name, "name") * (_hash_column(state, "state") | np.uint64(1))
    hashes = _hash_column(batch["modality"], "modality") + _hash_column(batch["anatomy"], "anatomy")
    np.add.at(hashes, row[told], parts[told])
    return hashes


def _hash_column(column: pa.Array, purpose: str) -> Hashes:
    """A hash of each value of a column of strings, null included."""
    coded = column.dictionary_encode("encode")
    hashes = np.array([seed_of(purpose, value) for value in coded.dictionary.to_pylist()] or [0], np.uint64)
    result: Hashes = hashes[coded.indices.to_numpy(zero_copy_only=False)]
    return result


def _label_set(row: dict[str, Any]) -> LabelSet:
    names: dict[str, set[str]] = {State.PRESENT: set(), State.ABSENT: set()}
    for finding in row["findings"] or ():
        names.get(finding["state"], set()).add(finding["name"])
    key = (row["modality"], row["anatomy"])
    return LabelSet(key, frozenset(names[State.PRESENT]), frozenset(names[State.ABSENT]))
