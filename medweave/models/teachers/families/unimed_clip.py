"""UniMed-CLIP's checkpoints: `visual.*` as open_clip's ViT, `text_encoder.*` as its HFTextEncoder with an MLP.

Layout as in the reference's src/open_clip/model.py and hf_model.py; a trainer's `state_dict` with `module.` in front is
read too. Configuration and tokenizer of the text tower lie in `text/` of a copy, or on the hub.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import Field

from medweave.models.architecture import Architecture, arch_config, assemble, text_config
from medweave.models.teachers.catalogue import Card
from medweave.models.teachers.files import options_of, weights_in
from medweave.models.teachers.own_pair import context_of
from medweave.models.teachers.pixels import of_card
from medweave.models.teachers.places import text_folder
from medweave.models.teachers.strict import BUFFERS
from medweave.models.tokens import Tokens, tokenizer_of
from medweave.models.two_towers import DualModel
from medweave.models.weights import State, load_strictly, read_state
from medweave.recipe import Section


class Options(Section):
    """What a card says of this family."""

    arch: str = Field(description="open_clip's name of the image tower")


def open_teacher(card: Card, folder: Path) -> DualModel:
    """The model of a folder with one checkpoint."""
    options, context, file = options_of(card, Options), context_of(card), weights_in(folder)
    architecture = _architecture(options.arch, text_folder(card, folder), context)
    clip = assemble(architecture)
    load_strictly(clip, _renamed(read_state(file)), str(file))
    tokens = Tokens(tokenizer_of(architecture.model_cfg["text_cfg"]), context)
    return DualModel(clip, architecture, of_card(card), tokens).eval()


def _architecture(arch: str, text: Path, context: int) -> Architecture:
    config: dict[str, Any] = deepcopy(arch_config(arch))
    config["text_cfg"] = {
        "hf_model_name": str(text),
        "hf_tokenizer_name": str(text),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": context,
    }
    return Architecture(config, text_config(str(text)))


def _renamed(state: State) -> State:
    """The checkpoint under open_clip's names, without buffers that older transformers stored."""
    return {
        f"text.{name.removeprefix('text_encoder.')}" if name.startswith("text_encoder.") else name: tensor
        for name, tensor in state.items()
        if not name.endswith(BUFFERS)
    }
