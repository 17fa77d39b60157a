"""Columns of a plan or an index as NumPy arrays. n rows, m labels of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medweave.corpus.sample import State


def numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """(codes int64 [n] into names, -1 for null; names in order of first appearance)."""
    coded = pc.dictionary_encode(column).unify_dictionaries().combine_chunks()
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def codes(column: pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    """The place of each value in `names`, int64 [n]; -1 for null and for other values."""
    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return found.fill_null(-1).to_numpy().astype(np.int64)


def flat(findings: pa.Array) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """All findings of a column of them, one after the other: row int64 [m], name [m], state [m]."""
    inside = pc.list_flatten(findings)
    row = pc.list_parent_indices(findings).to_numpy(zero_copy_only=False).astype(np.int64)
    return row, inside.field("name"), inside.field("state")


def labels(table: pa.Table, state: State | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(row int64 [m], finding int64 [m] into names, names of all) of all labels, or of those in one state."""
    rows, found, stated, first = [np.empty(0, np.int64)], [], [], 0
    for findings in table["findings"].chunks:  # joined, the names of millions of rows are beyond what a column holds
        row, name, states = flat(findings)
        rows.append(row + first)
        found.append(name)
        stated.append(states)
        first += len(findings)
    finding, names = numbers(pa.chunked_array(found, pa.string()))
    if state is None:
        return np.concatenate(rows), finding, names
    some = pc.equal(pa.chunked_array(stated, pa.string()), str(state)).to_numpy()
    return np.concatenate(rows)[some], finding[some], names


def dense(values: np.ndarray) -> np.ndarray:
    """The same values numbered from 0, in their order."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def classes(table: pa.Table) -> np.ndarray:
    """A class for each row, int64 [n] from 0: its source with the rarest of its present findings."""
    source, _ = numbers(table["source"])
    row, finding, names = labels(table, State.PRESENT)
    label = source[row] * len(names) + finding
    frequency = np.bincount(label)[label] if len(label) else label
    order = np.lexsort((label, frequency, row))
    first = order[np.unique(row[order], return_index=True)[1]]
    result = -1 - source
    result[row[first]] = label[first]
    return dense(result)


def extremes(group: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest of the values that are not negative in each group, int64 [count]; -1 where there is none."""
    some = values >= 0
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, group[some], values[some])
    np.maximum.at(high, group[some], values[some])
    return np.where(high < 0, -1, low), high


def replaced(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """The table with other values in some columns."""
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), values)
    return table


def taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows in their order, chunk by chunk: taking from a chunked table would first join all of it."""
    batches = table.to_batches()
    ends = np.cumsum([len(batch) for batch in batches])
    chunk = np.searchsorted(ends, rows, side="right")
    parts, places = [table.schema.empty_table()], []
    for number in np.unique(chunk):
        places.append(np.flatnonzero(chunk == number))
        inside = rows[places[-1]] - (ends[number] - len(batches[number]))
        parts.append(pa.Table.from_batches([batches[number].take(pa.array(inside))]))
    order = np.argsort(np.concatenate([np.empty(0, np.int64), *places]))
    return pa.concat_tables(parts).combine_chunks().take(pa.array(order))
