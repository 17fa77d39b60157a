"""One grammar for every model reference -> one Encoder.

a run or model folder            trained here, or any open_clip folder
hf-hub:OWNER/NAME                an open_clip model of the hub
open_clip:ARCH/TAG               a public open_clip model
transformers:FOLDER_OR_NAME      a CLIP or SigLIP in transformers' format
timm:NAME[@WEIGHTS]              an image tower alone; WEIGHTS: a file, or offline:efficientnet-lite0
"""

from __future__ import annotations

from pathlib import Path

import torch

from medweave.models.encoder import Encoder, Head
from medweave.models.public import model_folder, open_whole
from medweave.models.single import TimmImages, TransformersPair

TRANSFORMERS = "transformers:"
TIMM = "timm:"


def load(reference: str | Path, device: str | torch.device | None = None) -> Encoder:
    """The Encoder of a model. device: None takes the GPU if there is one.

    Raises RequestError for a reference that means nothing, UserError for a model that cannot be had or opened.
    """
    name = str(reference)
    model: torch.nn.Module
    if name.startswith(TRANSFORMERS):
        model = TransformersPair(name.removeprefix(TRANSFORMERS))
    elif name.startswith(TIMM):
        model = TimmImages(name.removeprefix(TIMM))
    else:
        model = open_whole(name)
    model.requires_grad_(False)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(model.to(device).eval(), _name(name))


def _name(reference: str) -> str:
    """A folder's own name (a run's, for its `model/`); other references are names already."""
    if not Path(reference).is_dir():
        return reference
    folder = model_folder(reference).resolve()
    return folder.parent.name if folder.name == "model" else folder.name


__all__ = ["Encoder", "Head", "load"]
