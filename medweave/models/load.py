"""One grammar for every model reference -> one Encoder.

a run or model folder            trained here, or any open_clip folder
hf-hub:OWNER/NAME                an open_clip model of the hub
open_clip:ARCH/TAG               a public open_clip model
transformers:FOLDER_OR_NAME      a CLIP or SigLIP in transformers' format
timm:NAME[@WEIGHTS]              an image tower alone; WEIGHTS: a file, or offline:efficientnet-lite0
teacher:NAME[@FOLDER]            a teacher of the catalogue, from the hub or a local copy; NAME may be a card (YAML)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from medweave.models.encoder import Encoder, Head
from medweave.models.public import model_folder, open_whole
from medweave.models.teachers.families.vision import public_tower
from medweave.models.teachers.opening import FOLDER, open_pair, open_teacher

TEACHER = "teacher:"
OPENERS: dict[str, Callable[[str], torch.nn.Module]] = {
    "transformers:": open_pair,
    "timm:": public_tower,
    TEACHER: open_teacher,
}


def load(reference: str | Path, device: str | torch.device | None = None) -> Encoder:
    """The Encoder of a model. device: None takes the GPU if there is one.

    Raises RequestError for a reference that means nothing, UserError for a model that cannot be had or opened.
    """
    name = str(reference)
    prefix = next((prefix for prefix in OPENERS if name.startswith(prefix)), None)
    model = open_whole(name) if prefix is None else OPENERS[prefix](name.removeprefix(prefix))
    return encoder_of(model, name_of_reference(name), device)


def encoder_of(model: torch.nn.Module, name: str, device: str | torch.device | None = None) -> Encoder:
    """An opened model in use: frozen, on its device."""
    model.requires_grad_(False)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(model.to(device).eval(), name)


def name_of_reference(reference: str) -> str:
    """A folder's own name (a run's, for its `model/`), a teacher's without its place; others are names already."""
    if reference.startswith(TEACHER):
        return reference.partition(FOLDER)[0]
    if not Path(reference).is_dir():
        return reference
    folder = model_folder(reference).resolve()
    return folder.parent.name if folder.name == "model" else folder.name


__all__ = ["Encoder", "Head", "encoder_of", "load"]
