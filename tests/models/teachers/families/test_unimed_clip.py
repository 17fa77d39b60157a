"""UniMed-CLIP against open_clip's own towers under the names of the reference's checkpoint."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.nn import functional

from medweave.errors import RequestError, UserError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGE = {"size": 32, "policy": "crop", "edge": 32, "interpolation": "bicubic", "mean": MEAN, "std": STD}


@pytest.fixture
def release(tmp_path, tiny_bert, tiny_arch, card_of):
    """(image tower, text tower, card, folder)."""
    import transformers as t

    torch.manual_seed(0)
    visual = open_clip.create_model(tiny_arch).eval().visual
    options = {"proj_type": "mlp", "pooler_type": "cls_last_hidden_state_pooler", "pretrained": False}
    text, folder = HFTextEncoder(str(tiny_bert), output_dim=16, **options).eval(), tmp_path / "unimed"
    (folder / "text").mkdir(parents=True)
    t.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "text")
    text.config.save_pretrained(folder / "text")
    state = {f"module.visual.{name}": tensor for name, tensor in visual.state_dict().items()}
    state |= {f"module.text_encoder.{name}": tensor for name, tensor in text.state_dict().items()}
    state["module.text_encoder.transformer.embeddings.position_ids"] = torch.arange(40)[None]
    state["module.logit_scale"] = torch.tensor(4.0)
    torch.save({"epoch": 10, "state_dict": state}, folder / "tiny-b16.pt")
    side = {"tokenizer": "somebody/bert", "context": 16}
    card = card_of(family="unimed_clip", options={"arch": tiny_arch}, image=IMAGE, text=side, width=16)
    return visual, text, card, folder


def test_rows_are_those_of_the_towers(release, encoder, pictures, texts):
    visual, text, card, folder = release
    ours = encoder(card, folder)
    transform = image_transform_v2(PreprocessCfg(32, mean=MEAN, std=STD), is_train=False)
    tokens = open_clip.tokenizer.HFTokenizer(str(folder / "text"), 16)(texts)
    with torch.no_grad():
        images = functional.normalize(visual(torch.stack([transform(Image.fromarray(p)) for p in pictures])), dim=-1)
        rows = functional.normalize(text(tokens), dim=-1)
    np.testing.assert_allclose(ours.embed_images(pictures), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(texts), rows, atol=1e-5)
    assert ours.head.scale == pytest.approx(np.exp(4.0)) and ours.facts["context"] == 16


@pytest.mark.parametrize(
    ("how", "key", "words"),
    [
        ("missing", "module.text_encoder.proj.2.weight", "text.proj.2.weight is missing"),
        ("unexpected", "", "surplus.weight is unexpected"),
        ("shape", "module.visual.proj", r"visual.proj is \[3, 3\] instead of \[32, 16\]"),
    ],
)
def test_weights_that_do_not_fit_stop(how, key, words, release, encoder, change):
    *_, card, folder = release
    change(folder / "tiny-b16.pt", how, key)
    with pytest.raises(UserError, match=words) as error:
        encoder(card, folder)
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_card_is_said(release, encoder, card_of):
    *_, card, folder = release
    for options, words in (({"arch": "tiny-arhc"}, "tiny-arch"), ({"arc": "x"}, "arch: must be given")):
        with pytest.raises(RequestError, match=words):
            encoder(card_of(**{**card.model_dump(), "options": options}), folder)


def test_one_weights_file_is_wanted(release, encoder):
    *_, card, folder = release
    (folder / "tiny-b16.pt").rename(folder / "weights.txt")
    with pytest.raises(RequestError, match=r"no single weights file .*: found: none"):
        encoder(card, folder)
