"""Tables beside a corpus, keyed by sample id: folds, corrected labels, and the samples that were withdrawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medweave.corpus.order import Numbers
from medweave.corpus.parquet import opened
from medweave.corpus.remote import Place
from medweave.errors import RequestError, unknown_name
from medweave.files import only_writer, whole_file

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

WITHDRAWN = "withdrawn.parquet"
WITHDRAWALS = pa.schema([("number", pa.int64()), ("id", pa.string()), ("reason", pa.string())])
AGAIN = "restore it from a copy, or make it again as it was made (folds come with a new corpus only)"
PIECES, LEAST = 16, 65_536  # a large table of ids is read in so many pieces, of at least so many rows


def file_of(name: str) -> str:
    """An overlay's file inside the corpus. Raises RequestError for a name that is no plain one."""
    if not name or Path(name).name != name or name.startswith("."):
        raise RequestError(f"{name!r} is no name for an overlay", todo="give a plain name without a path")
    return f"overlays/{name}.parquet"


def path_of(place: Place, name: str) -> Path:
    """A local file with an overlay's table. Raises RequestError when there is none of that name."""
    path = place.local(file_of(name), changing=True)
    if not path.exists():
        raise unknown_name("overlay", name, [other.stem for other in path.parent.glob("*.parquet")], where=path.parent)
    return path


def read(place: Place, name: str) -> pa.Table:
    """An overlay's table. Raises RequestError when there is none of that name."""
    with opened(path_of(place, name), AGAIN) as file:
        return file.read()


def pieces(corpus: Corpus, name: str, columns: Sequence[str]) -> Iterator[tuple[Numbers, pa.RecordBatch]]:
    """An overlay piece by piece: the numbers of its samples, and its other columns for them.

    Ids that the corpus does not have are left out. Raises RequestError when the overlay or a column is not there.
    """
    with opened(path_of(corpus.place, name), AGAIN) as file:
        absent = [column for column in columns if column not in file.schema_arrow.names]
        if absent:
            raise RequestError(f"the overlay has no column {absent[0]!r}", where=name)
        for batch in file.iter_batches(piece(file.metadata.num_rows), columns=["id", *columns]):
            numbers = corpus.numbers_of(batch["id"])
            yield numbers[numbers >= 0], batch.select(columns).filter(pa.array(numbers >= 0))


def piece(rows: int) -> int:
    """The rows of one piece of a table with so many rows."""
    return max(LEAST, -(-rows // PIECES))


def write(corpus: Corpus, name: str, table: pa.Table) -> None:
    """Keep `table` as an overlay: a column `id`, each id once and in the corpus, and any others."""
    folder = corpus.local_path()
    if "id" not in table.column_names:
        raise RequestError("an overlay needs a column `id`", where=name)
    ids = table.column("id").to_pylist()
    if len(set(ids)) < len(ids):
        raise RequestError("an id stands twice in the overlay", where=name, todo="give one row a sample")
    _known(corpus, ids)
    with only_writer(folder):
        write_table(folder / file_of(name), table)


def withdrawn(place: Place) -> set[int]:
    """The numbers of the samples that were withdrawn."""
    path = place.local(WITHDRAWN, changing=True)
    return set(_withdrawals(path, ["number"]).column(0).to_pylist())


def _withdrawals(path: Path, columns: Sequence[str] = tuple(WITHDRAWALS.names)) -> pa.Table:
    if not path.exists():
        return WITHDRAWALS.empty_table().select(columns)
    with opened(path, "restore it from a copy: it says which samples must not be used") as file:
        return file.read(columns=list(columns))


def withdraw(corpus: Corpus, ids: Sequence[str], reason: str) -> None:
    """Add samples to withdrawn.parquet: number, id, reason."""
    path = corpus.local_path() / WITHDRAWN
    numbers = _known(corpus, ids)
    with only_writer(corpus.local_path()):
        rows = {row["number"]: row for row in _withdrawals(path).to_pylist()}
        for number, sample in zip(numbers.tolist(), ids, strict=True):
            rows.setdefault(number, {"number": number, "id": sample, "reason": reason})
        write_table(path, pa.Table.from_pylist([rows[number] for number in sorted(rows)]))


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file, whole or not at all."""
    with whole_file(path) as draft:
        pq.write_table(table, draft, compression="zstd")


def _known(corpus: Corpus, ids: Sequence[str]) -> np.ndarray:
    """The numbers of ids, all of which must be in the corpus."""
    numbers = corpus.numbers_of(ids)
    missing = [sample for sample, number in zip(ids, numbers, strict=True) if number < 0]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise RequestError(f"no sample {missing[0]!r}{more} in the corpus", where=corpus.path)
    return numbers
