"""Rows of a manifest: CSV, TSV or Parquet, or the images of a folder as if it had one. Streaming: memory stays flat."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medweave.errors import RequestError

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm")
DICOM = (".dcm", ".dicom")
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
TREE_COLUMNS = ("path", "folder")


def columns_of(manifest: Path | None) -> list[str]:
    """The columns of a manifest; of a folder without one if it is None. Raises RequestError when it cannot be read."""
    if manifest is None:
        return list(TREE_COLUMNS)
    if manifest.suffix.lower() in SHEETS:
        raise RequestError("a spreadsheet is no manifest", where=manifest, todo="save it as CSV")
    if not manifest.is_file():
        raise RequestError("no such manifest", where=manifest)
    return _parquet(manifest).schema_arrow.names if manifest.suffix == ".parquet" else _header(manifest)


def rows_of(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a manifest; the first row after the header is number 1."""
    rows = _parquet_rows(manifest) if manifest.suffix == ".parquet" else _csv_rows(manifest)
    yield from enumerate(rows, 1)


def rows_of_tree(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, {path, folder}) of every image below a folder, by path. Hidden files and folders are left out.

    A link that leads out of the folder counts as one, and is not followed.
    """
    images = (path for path in _files(folder) if _is_image(path, folder))
    for number, path in enumerate(images, 1):
        place = PurePosixPath(path.relative_to(folder))
        yield number, {"path": str(place), "folder": place.parent.name}


def others_of_tree(folder: Path) -> Iterator[str]:
    """The paths of the files below a folder that are neither a picture nor DICOM, but for hidden ones."""
    return (str(path.relative_to(folder)) for path in _files(folder) if not _is_image(path, folder))


def empty_folders(folder: Path) -> list[Path]:
    """The folders below a folder that hold neither an image nor a folder."""
    found = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not folders and parent != str(folder) and not any(rows_of_tree(Path(parent))):
            found.append(Path(parent))
    return found


def is_picture(path: str) -> bool:
    """Whether a file is a picture other than DICOM, by its suffix."""
    return os.path.splitext(path)[1].lower() in PICTURES


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix, or begins like one and has no picture's suffix."""
    suffix = path.suffix.lower()
    if suffix in (*PICTURES, *DICOM):
        return suffix in DICOM
    try:
        return path.is_file() and _starts_like_dicom(path)
    except OSError:
        return False


def _starts_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, by path, but for hidden ones and for pipes and devices."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        yield from (path for path in paths if path.is_file() or not path.exists())


def _is_image(path: Path, folder: Path) -> bool:
    return is_picture(path.name) or _leads_out(path, folder) or is_dicom(path)


def _leads_out(path: Path, folder: Path) -> bool:
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder.resolve())


def _header(manifest: Path) -> list[str]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        try:
            columns = next(csv.reader(file, delimiter=_delimiter(manifest)), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise _no_csv(error, manifest) from None
    if len(set(columns)) < len(columns):
        twice = sorted({c for c in columns if columns.count(c) > 1})
        raise RequestError(f"columns named twice: {', '.join(twice)}", where=manifest)
    return columns


def _no_csv(error: UnicodeDecodeError | csv.Error, manifest: Path) -> RequestError:
    """The error for a table that cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return RequestError("the text is not UTF-8", where=manifest, todo="save it as UTF-8")
    return RequestError(f"not a CSV file: {error}", where=manifest)


def _delimiter(manifest: Path) -> str:
    """Tab in a .tsv; else the more frequent of comma and semicolon in the first line."""
    if manifest.suffix == ".tsv":
        return "\t"
    with manifest.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline()
    return ";" if line.count(";") > line.count(",") else ","


def _csv_rows(manifest: Path) -> Iterator[dict[str, Any]]:
    columns, delimiter = _header(manifest), _delimiter(manifest)
    csv.field_size_limit(2**31 - 1)
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        next(reader, None)
        try:
            for values in reader:
                if values and len(values) != len(columns):
                    raise csv.Error(f"line {reader.line_num} has {len(values)} values, the header {len(columns)}")
                if values:
                    yield dict(zip(columns, values, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise _no_csv(error, manifest) from None


def _parquet(manifest: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(manifest)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"not a Parquet file: {error}", where=manifest) from None


def _parquet_rows(manifest: Path) -> Iterator[dict[str, Any]]:
    for batch in _parquet(manifest).iter_batches(batch_size=4096):
        yield from batch.to_pylist()
