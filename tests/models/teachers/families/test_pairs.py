"""CLIP and SigLIP of transformers against transformers' own model, processor and tokenizer."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from medweave.errors import RequestError, UserError


def theirs(kind, model, folder, pictures, texts):
    """Unit rows of images and texts as transformers gives them."""
    from transformers import AutoImageProcessor, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    padding = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 16}
    tokens = AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", truncation=True, **padding)
    if kind == "siglip":
        tokens = {"input_ids": tokens["input_ids"]}
    pixels = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    with torch.no_grad():
        rows = (model.get_image_features(**pixels), model.get_text_features(**tokens))
    return [functional.normalize(getattr(row, "pooler_output", row), dim=-1).numpy() for row in rows]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_rows_are_those_of_transformers(kind, tiny_pair, card_of, encoder, pictures, texts):
    model, folder = tiny_pair(kind)
    head = "softmax" if kind == "clip" else "sigmoid"
    side = {"size": 32, "policy": "crop", "edge": 37} if kind == "clip" else {"size": 32, "policy": "squash"}
    card = card_of(
        family=kind, image=side, text={"context": 16}, head={"kind": head}, width=12 if kind == "clip" else 16
    )
    ours = encoder(card, folder)
    images, rows = theirs(kind, model, folder, pictures, texts)
    np.testing.assert_allclose(ours.embed_images(pictures), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(texts), rows, atol=1e-5)
    np.testing.assert_allclose(ours.project(ours.image_features(pictures)), images, atol=1e-5)
    assert ours.head.kind == head and ours.sides == ("images", "texts") and ours.facts["licence_class"] == "open"
    assert ours.head.scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-5)


def test_a_processor_file_of_old_times(tiny_pair, card_of, encoder, pictures, texts):
    model, folder = tiny_pair("clip")
    file = folder / "preprocessor_config.json"
    old = {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3}
    plain = {
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "image_mean": [0.4] * 3,
        "image_std": [0.3] * 3,
    }
    file.write_text(json.dumps({**old, **plain}))
    ours = encoder(card_of(image={"mean": (0.4, 0.4, 0.4)}), folder)
    assert ours.preprocess.mean[0] == 0.4 and ours.preprocess.edge is None
    np.testing.assert_allclose(
        ours.embed_images(pictures), theirs("clip", model, folder, pictures, texts)[0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("change_of", "words"),
    [
        ({"do_resize": False}, "does not resize"),
        ({"do_rescale": False}, "divide by 255"),
        ({"rescale_factor": 0.5}, "divide by 255"),
        ({"crop_size": {"height": 40, "width": 40}}, "cuts out more"),
        ({"size": {"height": 32, "width": 40}, "do_center_crop": False}, "no square input"),
        ({"resample": 0}, "neither bicubic nor bilinear"),
    ],
)
def test_preprocessing_that_cannot_be_repeated_is_refused(change_of, words, tiny_pair, card_of, encoder):
    _, folder = tiny_pair("clip")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change_of}))
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "logit_scale is missing"),
        ("unexpected", "surplus.weight is unexpected"),
        ("shape", r"logit_scale is \[3, 3\] instead of \[.*\]"),
    ],
)
def test_weights_that_do_not_fit_stop(kind, how, words, tiny_pair, card_of, encoder, change):
    _, folder = tiny_pair(kind)
    change(folder / "model.safetensors", how, "logit_scale")
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(family=kind, head={"kind": "softmax" if kind == "clip" else "sigmoid"}), folder)
    assert "\n" not in str(error.value)


def test_a_folder_of_the_other_kind(tiny_pair, card_of, encoder):
    with pytest.raises(RequestError, match="is a siglip, not a clip"):
        encoder(card_of(), tiny_pair("siglip")[1])


def test_a_folder_without_its_tokenizer(tiny_pair, card_of, encoder):
    _, folder = tiny_pair("clip")
    for file in (*folder.glob("token*"), *folder.glob("vocab*")):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer lies here") as error:
        encoder(card_of(), folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_of_another_tower(tiny_pair, card_of, encoder):
    import transformers as t

    _, folder = tiny_pair("clip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(60))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    for file in folder.glob("token*"):
        file.unlink()
    t.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    with pytest.raises(UserError, match="65 words and the text tower 30"):
        encoder(card_of(), folder)


class Stranger:
    """What no weights file should hold."""


@pytest.mark.parametrize(("value", "words"), [(Stranger(), "more than tensors"), ("a string", "note is unexpected")])
def test_pickles_with_more_than_tensors_are_refused(value, words, tiny_pair, card_of, encoder):
    model, folder = tiny_pair("clip")
    (folder / "model.safetensors").unlink()
    torch.save({**model.state_dict(), "note": value}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(), folder)
    assert "\n" not in str(error.value)
