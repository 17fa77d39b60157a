"""Tiny teachers with random weights in the formats that real ones come in, and cards for them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medweave.models.load import encoder_of
from medweave.models.teachers.catalogue import Card
from medweave.models.teachers.opening import opened

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXTS = ["chest x-ray", "ct of the brain with a fracture and no heart", "normal"]


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


def make_card(**changes) -> Card:
    """A card of a two-sided teacher that says as little as a card may; keywords change it."""
    known = {
        "name": "tiny",
        "title": "Tiny",
        "family": "clip",
        "hub": {"id": "nobody/tiny"},
        "domains": ["xray"],
        "image": {},
        "text": {},
        "head": {"kind": "softmax"},
        "width": "unknown",
        "licence": "MIT",
        "licence_class": "open",
        "gated": False,
        "features_redistributable": True,
        "reaches_models_trained_on_outputs": False,
    }
    return Card.model_validate({**known, **changes})


@pytest.fixture
def card_of():
    return make_card


@pytest.fixture
def encoder():
    """A function of a card and a folder to the Encoder of that copy."""

    def make(card: Card, folder: Path):
        return encoder_of(opened(card, folder), card.name, "cpu")

    return make


@pytest.fixture
def stored(tmp_path):
    """A function of a transformers model to its weights under the names that its library writes to disk."""

    def names(model) -> dict[str, torch.Tensor]:
        model.save_pretrained(tmp_path / "stored")
        return load_file(tmp_path / "stored" / "model.safetensors")

    return names


@pytest.fixture
def change():
    """A function that rewrites a weights file: drops a key, adds one, or gives one another shape."""

    def rewrite(file: Path, how: str, key: str) -> None:
        plain = file.suffix != ".safetensors"
        whole = torch.load(file, weights_only=True) if plain else load_file(file)
        state = dict(whole.get("state_dict", whole))
        if how == "missing":
            del state[key]
        elif how == "unexpected":
            prefix = "module." if next(iter(state)).startswith("module.") else ""
            state[f"{prefix}surplus.weight"] = torch.zeros(2)
        else:
            state[key] = torch.zeros(3, 3)
        if plain:
            torch.save({**whole, "state_dict": state} if "state_dict" in whole else state, file)
        else:
            save_file({name: t.contiguous() for name, t in state.items()}, file, metadata={"format": "pt"})

    return rewrite


@pytest.fixture
def tiny_pair(tmp_path, tiny_bert):
    """A function of a kind to (model, folder): CLIP or SigLIP as transformers writes it."""
    import transformers as t

    def make(kind: str):
        vision = {**SMALL, "image_size": 32, "patch_size": 8}
        text = {**SMALL, "vocab_size": 30, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 3}
        torch.manual_seed(0)
        if kind == "clip":
            model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
            processor = t.CLIPImageProcessor(size={"shortest_edge": 37}, crop_size=32)
        else:
            model = t.SiglipModel(t.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision))
            processor = t.SiglipImageProcessor(size={"height": 32, "width": 32})
        model.eval().save_pretrained(tmp_path / kind)
        processor.save_pretrained(tmp_path / kind)
        t.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / kind)
        return model, tmp_path / kind

    return make
