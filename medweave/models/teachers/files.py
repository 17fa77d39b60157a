"""Small things that families ask of a card and of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from medweave.errors import RequestError, UserError
from medweave.files import read_json
from medweave.models.teachers.catalogue import Card
from medweave.recipe import Section, check

O = TypeVar("O", bound=Section)
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def options_of(card: Card, kind: type[O]) -> O:
    """The card's options as the family's own. Raises RequestError listing every mistake."""
    return check(card.options, kind, where=f"options of teacher {card.name}")


def mapping_in(file: Path) -> dict[str, Any]:
    """The mapping of a JSON file; an empty one where there is no such file. Raises UserError for any other value."""
    value = read_json(file) if file.is_file() else {}
    if not isinstance(value, dict):
        raise UserError(f"{file.name} is no mapping", where=file, todo="get the file as its owner gives it")
    return value


def weights_in(folder: Path, *names: str) -> Path:
    """The weights file of a folder: the first of these names that is there, else the only one. Raises RequestError."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(files) == 1:
        return files[0]
    found = ", ".join(path.name for path in files) or "none"
    raise RequestError("no single weights file in this folder", where=folder, todo=f"found: {found}")
