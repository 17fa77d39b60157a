"""open_clip's hub folders and our own against open_clip itself."""

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image

from medweave.errors import RequestError, UserError
from medweave.models import dual

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


@pytest.fixture
def hub_folder(tmp_path, tiny_bert):
    """A folder as open_clip pushes it: a ViT of timm and a BERT with an MLP, as BiomedCLIP has them."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
        "text_cfg": {
            "hf_model_name": str(tiny_bert),
            "hf_tokenizer_name": str(tiny_bert),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "hf_model_pretrained": False,
            "context_length": 20,
        },
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-hub.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "configs")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-hub")
    folder = tmp_path / "hub"
    save_for_hf(model, open_clip.get_tokenizer("tiny-hub"), config, str(folder), safe_serialization=False)
    return folder


def theirs(folder, pictures, texts):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        images = model.eval().encode_image(
            torch.stack([transform(Image.fromarray(p)) for p in pictures]), normalize=True
        )
        return images, model.encode_text(tokens, normalize=True)


def test_rows_are_those_of_open_clip(hub_folder, card_of, encoder, pictures, texts):
    side = {**OPENAI, "size": 160, "policy": "crop", "edge": 160, "interpolation": "bicubic"}
    card = card_of(
        family="open_clip", image=side, text={"context": 20}, head={"kind": "softmax", "scale": 14.2857}, width=16
    )
    ours = encoder(card, hub_folder)
    images, rows = theirs(hub_folder, pictures, texts)
    np.testing.assert_allclose(ours.embed_images(pictures), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(texts), rows, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "logit_scale is missing"),
        ("unexpected", "surplus.weight is unexpected"),
        ("shape", r"visual.head.proj.weight is \[3, 3\] instead of"),
    ],
)
def test_weights_that_do_not_fit_stop(how, words, hub_folder, card_of, encoder, change):
    key = "visual.head.proj.weight" if how == "shape" else "logit_scale"
    change(hub_folder / "open_clip_pytorch_model.bin", how, key)
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(family="open_clip"), hub_folder)
    assert "\n" not in str(error.value)


class Stranger:
    """What no weights file should hold."""


@pytest.mark.parametrize(
    ("value", "words"), [(Stranger(), "no weights can be read"), ("x", "not only tensors .*: note")]
)
def test_pickles_with_more_than_tensors_are_refused(value, words, hub_folder, card_of, encoder):
    file = hub_folder / "open_clip_pytorch_model.bin"
    torch.save({**torch.load(file, weights_only=True), "note": value}, file)
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(family="open_clip"), hub_folder)
    assert "\n" not in str(error.value)


def test_a_copy_without_its_tokenizer(hub_folder, card_of, encoder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for file in (*hub_folder.glob("token*"), *hub_folder.glob("vocab*")):
        file.unlink()
    file = hub_folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "nobody/bert"
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot get the tokenizer of nobody/bert, which is not in") as error:
        encoder(card_of(family="open_clip"), hub_folder)
    assert str(hub_folder) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_something_else(tmp_path, card_of, encoder):
    with pytest.raises(RequestError, match="no open_clip model in this folder"):
        encoder(card_of(family="open_clip"), tmp_path)


def test_a_run_of_ours_is_a_teacher(recipe_of, tmp_path, card_of, encoder, pictures, texts):
    model = dual.build(recipe_of())
    dual.save(model, tmp_path / "night" / "model", {"licence": "theirs"})
    card = card_of(family="medweave", hub=None, get="runs/night", image={"size": 32, "policy": "pad"}, width=12)
    ours = encoder(card, tmp_path / "night")
    images, rows = theirs(tmp_path / "night" / "model", pictures, texts)
    np.testing.assert_allclose(ours.embed_images(pictures), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(texts), rows, atol=1e-5)
    assert ours.facts["licence"] == "MIT" and ours.facts["teacher"] == "tiny"
