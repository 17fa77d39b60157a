"""PMC-CLIP against a module laid out as its training code is, in both of its releases."""

import shutil

import numpy as np
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn
from torch.nn import functional

from medweave.errors import RequestError, UserError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGE = {"size": 64, "policy": "crop", "edge": 64, "interpolation": "bicubic", "mean": MEAN, "std": STD}
OPTIONS = {"layers": [1, 1, 1, 1], "width": 8, "heads": 4}


class Original(nn.Module):
    """What gives rows, and the masked-language part beside it."""

    def __init__(self, bert):
        super().__init__()
        self.visual = ModifiedResNet([1, 1, 1, 1], 12, 4, 64, 8)
        self.text_encoder = bert
        self.text_projection = nn.Parameter(torch.randn(24, 12) / 5)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))
        self.positional_embedding = nn.Parameter(torch.zeros(16, 24))
        self.ln_final, self.fusion_module = nn.LayerNorm(24), nn.Linear(24, 24)
        self.mlm_projection = nn.Parameter(torch.zeros(24, 21))
        self.img_special_token = nn.Parameter(torch.zeros(1, 1, 12))

    def encode_text(self, ids):
        """Without a mask, as it was trained."""
        return self.text_encoder(input_ids=ids).last_hidden_state[:, 0] @ self.text_projection


@pytest.fixture
def release(tmp_path, tiny_bert, card_of):
    """A function of a form (whole or three) to (original, card, folder)."""
    import transformers as t

    def make(form):
        torch.manual_seed(0)
        original, folder = Original(t.AutoModel.from_pretrained(tiny_bert)).eval(), tmp_path / "pmc"
        (folder / "text").mkdir(parents=True)
        t.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "text")
        original.text_encoder.config.save_pretrained(folder / "text")
        if form == "whole":
            state = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
            training = {"epoch": 3, "name": "x", "optimizer": {"state": {}}}
            torch.save({**training, "state_dict": state}, folder / "checkpoint.pt")
        else:
            torch.save(original.visual.state_dict(), folder / "image_encoder(resnet50).pth")
            text = {**original.text_encoder.state_dict(), "embeddings.position_ids": torch.arange(40)[None]}
            torch.save(text, folder / "text_encoder.pth")
            torch.save(original.text_projection, folder / "text_projection_layer.pth")
        text = {"tokenizer": "somebody/bert", "context": 16, "masked": False}
        return original, card_of(family="pmc_clip", options=OPTIONS, image=IMAGE, text=text, width=12), folder

    return make


@pytest.mark.parametrize("form", ["whole", "three"])
def test_rows_are_those_of_the_original(form, release, encoder, pictures, texts, tiny_bert):
    from transformers import AutoTokenizer

    original, card, folder = release(form)
    ours = encoder(card, folder)
    transform = image_transform_v2(PreprocessCfg(64, mean=MEAN, std=STD), is_train=False)
    padded = {"padding": "max_length", "max_length": 16, "truncation": True, "return_tensors": "pt"}
    ids = AutoTokenizer.from_pretrained(tiny_bert)(texts, **padded)["input_ids"]
    with torch.no_grad():
        images = functional.normalize(
            original.visual(torch.stack([transform(Image.fromarray(p)) for p in pictures])), dim=-1
        )
        rows = functional.normalize(original.encode_text(ids), dim=-1)
    np.testing.assert_allclose(ours.embed_images(pictures), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(texts), rows, atol=1e-5)
    assert not ours.separable and ours.image_features(pictures).shape == (3, 8 * 32)


def test_the_scale_is_that_of_the_checkpoint_and_unknown_in_the_three_files(release, encoder, card_of, tmp_path):
    _, card, folder = release("whole")
    assert encoder(card, folder).head.scale == pytest.approx(np.exp(4.0))
    (folder / "checkpoint.pt").rename(tmp_path / "checkpoint.pt")
    shutil.rmtree(folder)
    _, card, folder = release("three")
    with pytest.raises(UserError, match="the scale of tiny is not known"):
        _ = encoder(card, folder).head
    known = card_of(**{**card.model_dump(), "head": {"kind": "softmax", "scale": 50.0}})
    assert encoder(known, folder).head.scale == pytest.approx(50)


@pytest.mark.parametrize(
    ("how", "key", "words"),
    [
        ("missing", "module.visual.conv1.weight", "conv1.weight is missing"),
        ("missing", "module.text_encoder.embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias is missing"),
        ("missing", "module.text_projection", "text_projection is missing"),
        ("unexpected", "", "surplus.weight is unexpected"),
        ("shape", "module.visual.conv1.weight", r"conv1.weight is \[3, 3\] instead of"),
    ],
)
def test_weights_that_do_not_fit_stop(how, key, words, release, encoder, change):
    _, card, folder = release("whole")
    change(folder / "checkpoint.pt", how, key)
    with pytest.raises(UserError, match=words) as error:
        encoder(card, folder)
    assert "\n" not in str(error.value)


class Stranger:
    """What no weights file should hold."""


@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        ("image_encoder(resnet50).pth", {"a": torch.zeros(1), "note": "text"}, "not only tensors in this file: note"),
        ("text_encoder.pth", {"a": Stranger()}, "no weights can be read"),
        ("text_projection_layer.pth", Stranger(), "no weights can be read"),
        ("text_projection_layer.pth", {"a": torch.zeros(1)}, "a dict instead of one tensor"),
        ("text_projection_layer.pth", torch.zeros(5, 12), r"text_projection is \[5, 12\] instead of"),
    ],
)
def test_files_with_anything_else_are_refused(file, value, words, release, encoder):
    _, card, folder = release("three")
    torch.save(value, folder / file)
    with pytest.raises(UserError, match=words) as error:
        encoder(card, folder)
    assert "\n" not in str(error.value)


def test_a_folder_with_neither_release(release, encoder):
    _, card, folder = release("three")
    (folder / "text_encoder.pth").unlink()
    with pytest.raises(RequestError, match=r"neither checkpoint.pt nor text_encoder.pth"):
        encoder(card, folder)
