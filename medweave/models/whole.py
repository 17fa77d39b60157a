"""Files that did not come whole, or not at all: cut short, empty, a pointer of git-lfs in place of the file.

What shows cheaply is looked for, after a library has failed to read a file and its own words do not name it.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from medweave.errors import UserError

POINTER = b"version https://git-lfs"
ZIP = b"PK\x03\x04"  # PyTorch's files begin so
READ = (".json", ".safetensors", ".bin", ".pt", ".pth", ".txt", ".model")  # endings of a model's files
AGAIN = "get it again, with git lfs pull where the copy came by git"


def fault_of(file: Path) -> str | None:
    """What keeps a file from being whole, as words after its name; None where nothing shows."""
    with file.open("rb") as opened:
        head = opened.read(len(POINTER))
    if not head:
        return "is empty"
    if head == POINTER:
        return "is a pointer of git-lfs and not the file itself"
    if file.suffix == ".safetensors":
        return _fault_of_safetensors(file)
    if file.suffix == ".json":
        return _fault_of_json(file)
    return "is cut short" if head.startswith(ZIP) and not zipfile.is_zipfile(file) else None


def refuse_broken(folder: Path) -> None:
    """Raises UserError naming the files of a model's folder that are not whole, if there are any."""
    files = sorted(file for file in folder.iterdir() if file.suffix in READ and file.is_file())
    faults = [f"{file.name} {fault}" for file in files if (fault := fault_of(file))]
    if faults:
        raise UserError("; ".join(faults), where=folder, todo=AGAIN)


def need(source: str | Path, *patterns: str) -> None:
    """Raises UserError for a folder without any file of these names. source: a folder, or a name of the hub."""
    folder = Path(source)
    if folder.is_dir() and not any(file for pattern in patterns for file in folder.glob(pattern)):
        raise UserError(f"no {' or '.join(patterns)} in this folder", where=folder, todo="get the missing file too")


def _fault_of_safetensors(file: Path) -> str | None:
    """Its header tells how long it must be."""
    try:
        with safe_open(file, framework="pt"):
            return None
    except SafetensorError as error:
        return f"is cut short, or no safetensors file ({error})"


def _fault_of_json(file: Path) -> str | None:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"is no JSON ({error})"
    return None
