"""open_clip's hub folders: BiomedCLIP, QuiltNet, BMC-CLIP, DermLIP and the like."""

from __future__ import annotations

from pathlib import Path

from medweave.errors import RequestError
from medweave.models.folder import CONFIG, open_folder
from medweave.models.teachers.catalogue import Card
from medweave.models.two_towers import DualModel


def open_teacher(card: Card, folder: Path) -> DualModel:
    """The model of a folder with open_clip_config.json, weights and, for a transformers text tower, its tokenizer."""
    if not (folder / CONFIG).is_file():
        raise RequestError(f"no open_clip model in this folder (no {CONFIG})", where=folder)
    return open_folder(folder)
