"""Corrected labels: an overlay that says of some findings of some samples what is true instead of what was built in.

Columns id, finding, state. m corrections; n samples, k of their findings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medweave.corpus import columns
from medweave.corpus.order import Numbers
from medweave.corpus.sample import STATES
from medweave.errors import RequestError

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus


class Corrections:
    """numbers: [m] of samples, ascending. finding: [m] int32, places in `names`. state: [m] int8, places in STATES."""

    def __init__(self, numbers: Numbers, finding: NDArray[np.int32], state: NDArray[np.int8], names: list[str]) -> None:
        self.numbers, self.finding, self.state, self.names = numbers, finding, state, names

    @classmethod
    def read(cls, corpus: Corpus, name: str) -> Corrections:
        """The corrections in an overlay. Raises RequestError when it is not there, or holds no labels."""
        place: dict[str, int] = {}
        numbers, findings, states = [np.empty(0, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.int8)]
        for own, rows in corpus.overlay_pieces(name, ["finding", "state"]):
            code, names = columns.numbers(pa.chunked_array([rows["finding"]]))
            numbers.append(own)
            findings.append(np.array([place.setdefault(n, len(place)) for n in names], np.int32)[code])
            states.append(columns.codes(pa.chunked_array([rows["state"]]), STATES).astype(np.int8))
        number, finding, state = np.concatenate(numbers), np.concatenate(findings), np.concatenate(states)
        if (state < 0).any():
            raise RequestError("the overlay has a state that is none", where=name, todo=f"write {', '.join(STATES)}")
        if len(np.unique(number * len(place) + finding)) < len(number):
            raise RequestError("a finding of a sample stands twice in the overlay", where=name)
        order = np.argsort(number, kind="stable")
        return cls(number[order], finding[order], state[order], list(place))

    def of(self, number: int) -> dict[str, str]:
        """finding -> state, for one sample."""
        here = slice(*np.searchsorted(self.numbers, [number, number + 1]))
        pairs = zip(self.finding[here].tolist(), self.state[here].tolist(), strict=True)
        return {self.names[finding]: STATES[state] for finding, state in pairs}

    def applied(self, numbers: Numbers, findings: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """The column `findings` of some samples, [n] in ascending order, with what is corrected in it."""
        first, last = np.searchsorted(self.numbers, [numbers[0], numbers[-1] + 1]) if len(numbers) else (0, 0)
        here = first + np.flatnonzero(np.isin(self.numbers[first:last], numbers))
        if not len(here):
            return findings
        lists = findings.combine_chunks() if isinstance(findings, pa.ChunkedArray) else findings
        row, name, state = columns.flat(lists)
        told = np.searchsorted(numbers, self.numbers[here])
        code = columns.codes(pa.chunked_array([name]), self.names)
        stale = (code >= 0) & np.isin(row * len(self.names) + code, told * len(self.names) + self.finding[here])
        kept = pa.array(~stale)
        name = pa.concat_arrays([name.filter(kept), pa.array(self.names).take(pa.array(self.finding[here]))])
        state = pa.concat_arrays([state.filter(kept), pa.array(STATES).take(pa.array(self.state[here]))])
        return _lists(np.concatenate([row[~stale], told]), name, state, len(lists))


def _lists(row: Numbers, name: pa.Array, state: pa.Array, samples: int) -> pa.ListArray:
    """The column `findings` of so many samples from all their findings, each [k], in any order of samples."""
    order = np.argsort(row, kind="stable")
    inside = pa.StructArray.from_arrays([name, state], ["name", "state"]).take(pa.array(order))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=samples))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inside)
