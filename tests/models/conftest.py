"""Tiny towers: a BERT with a WordPiece tokenizer, timm's test models, open_clip configurations of two layers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medweave.models.recipe import ModelRecipe

torch.set_num_threads(1)
WORDS = ["chest", "x", "ray", "of", "the", "lungs", "with", "a", "heart", "and", "no", "fracture", "ct", "brain"]
WORDS += ["normal"]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "-", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_arch(tmp_path_factory) -> str:
    """A tiny open_clip configuration, registered under its name."""
    import open_clip

    folder = tmp_path_factory.mktemp("configs")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
    }
    (folder / "tiny-arch.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return "tiny-arch"


@pytest.fixture
def recipe_of(tiny_bert):
    """Recipe of a tiny model; keywords change parts: recipe_of(image={"size": 48}, embed=8)."""

    def make(image=None, text=None, **others) -> ModelRecipe:
        image = {"tower": "timm:test_resnet", "size": 32, **(image or {})}
        text = {"tower": f"transformers:{tiny_bert}", "context": 16, **(text or {})}
        return ModelRecipe.model_validate({"image": image, "text": text, "embed": 12, **others})

    return make


@pytest.fixture
def pictures() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((40, 64), (33, 32), (90, 50))]
