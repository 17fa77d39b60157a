import io

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from medweave.errors import RequestError, UserError
from medweave.models import dual
from medweave.models.load import load

TEXTS = ["chest x-ray", "ct of the brain with a fracture and no heart", "normal"]


@pytest.fixture
def encoder(recipe_of, tmp_path):
    dual.save(dual.build(recipe_of()), tmp_path / "night" / "model", {"licence": "open"})
    return load(tmp_path / "night")


def test_an_encoder_of_a_run(encoder):
    assert (encoder.name, encoder.dim, encoder.head.kind) == ("night", 12, "softmax")
    known = {"licence": "open", "width": 12, "context": 16, "size": 32}
    assert known.items() <= encoder.facts.items() and encoder.facts["parameters"] > 300_000


def test_one_or_many_pictures_of_any_form_in_any_batches(encoder, pictures, tmp_path):
    rows = encoder.embed_images(pictures)
    assert rows.shape == (3, 12) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    data = io.BytesIO()
    Image.fromarray(pictures[1]).save(data, "png")
    Image.fromarray(pictures[2]).save(tmp_path / "c.png")
    forms = [Image.fromarray(pictures[0]), data.getvalue(), tmp_path / "c.png"]
    np.testing.assert_allclose(encoder.embed_images(iter(forms), batch=2), rows, atol=1e-6)
    for form, row in zip(forms, rows, strict=True):
        np.testing.assert_allclose(encoder.embed_images(form), row[None], atol=1e-6)
    np.testing.assert_allclose(encoder.embed_images(pictures[0]), rows[:1], atol=1e-6)
    assert encoder.embed_images([]).shape == (0, 12) and encoder.embed_texts([]).shape == (0, 12)


def test_logits_use_the_models_own_scale_and_bias(recipe_of, tmp_path, pictures):
    model = dual.build(recipe_of(head="sigmoid"))
    dual.save(model, tmp_path / "m")
    encoder = load(tmp_path / "m")
    images, texts = encoder.embed_images(pictures), encoder.embed_texts(TEXTS)
    pixels = torch.stack([model.preprocess.tensor(model.preprocess.array(p)) for p in pictures])
    expected = model.clip.get_logits(pixels, model.tokenize(TEXTS))[0].detach()
    np.testing.assert_allclose(encoder.logits(images, texts), expected, atol=1e-4)


def test_weights_hash_tells_models_apart_and_knows_the_same(recipe_of, tmp_path):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        dual.save(dual.build(recipe_of(), seed), tmp_path / name)
        hashes.append(load(tmp_path / name).weights_hash)
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64


def test_a_model_in_training_goes_on_training(recipe_of, pictures):
    from medweave.models.encoder import Encoder

    model = dual.build(recipe_of(text={"freeze": True})).train()
    statistics = model.clip.visual.trunk.bn1.running_mean.clone()
    Encoder(model, "now").embed_images(pictures)
    assert model.clip.visual.training and not model.clip.text.transformer.training
    assert torch.equal(statistics, model.clip.visual.trunk.bn1.running_mean)


@pytest.fixture(params=["clip", "siglip"])
def foreign(request, tmp_path, tiny_bert):
    """A tiny CLIP or SigLIP with random weights in transformers' own format."""
    import transformers as t

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    text = {**small, "vocab_size": 30, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 3}
    torch.manual_seed(0)
    if request.param == "clip":
        config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        model, processor = t.CLIPModel(config), t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    else:
        config = t.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
        model, processor = t.SiglipModel(config), t.SiglipImageProcessor(size={"height": 32, "width": 32})
    model.eval().save_pretrained(tmp_path / "foreign")
    processor.save_pretrained(tmp_path / "foreign")
    t.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "foreign")
    return request.param, model, tmp_path / "foreign"


def test_transformers_models_give_their_own_logits(foreign, tiny_bert, pictures):
    from transformers import AutoTokenizer

    kind, model, folder = foreign
    encoder = load(f"transformers:{folder}")
    assert encoder.preprocess.policy == ("crop" if kind == "clip" else "squash")
    assert encoder.preprocess.mean[0] == pytest.approx(0.48145466 if kind == "clip" else 0.5)
    padding = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 16}
    tokens = AutoTokenizer.from_pretrained(tiny_bert)(TEXTS, return_tensors="pt", **padding)
    mask = {"attention_mask": tokens["attention_mask"]} if kind == "clip" else {}
    pixels = encoder.preprocess.tensor(np.stack([encoder.preprocess.array(p) for p in pictures]))
    with torch.no_grad():
        theirs = model(input_ids=tokens["input_ids"], pixel_values=pixels, **mask)
    images, texts = encoder.embed_images(pictures), encoder.embed_texts(TEXTS)
    np.testing.assert_allclose(images, theirs.image_embeds, atol=1e-5)
    np.testing.assert_allclose(texts, theirs.text_embeds, atol=1e-5)
    np.testing.assert_allclose(encoder.logits(images, texts), theirs.logits_per_image, atol=1e-4)
    assert encoder.dim == images.shape[1] and encoder.head.kind == ("softmax" if kind == "clip" else "sigmoid")
    assert encoder.image_features(pictures).shape == (3, 16)
    np.testing.assert_allclose(encoder.project(encoder.image_features(pictures)), images, atol=1e-5)


def test_a_timm_tower_alone(tmp_path, pictures):
    source = timm.create_model("test_resnet", num_classes=5).eval()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    encoder = load(f"timm:test_resnet@{tmp_path / 'w.safetensors'}")
    pixels = encoder.preprocess.tensor(np.stack([encoder.preprocess.array(p) for p in pictures]))
    with torch.no_grad():
        expected = source.forward_head(source.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(encoder.image_features(pictures), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_images(pictures), functional.normalize(expected, dim=-1), atol=1e-6)
    np.testing.assert_allclose(encoder.project(expected.numpy()), encoder.embed_images(pictures), atol=1e-5)
    with pytest.raises(UserError, match="image tower only"):
        encoder.embed_texts(["heart"])


def test_the_offline_tower_alone(pictures):
    encoder = load("timm:tf_efficientnet_lite0@offline:efficientnet-lite0")
    assert (encoder.dim, encoder.preprocess.mean, encoder.preprocess.size) == (1280, (0.5, 0.5, 0.5), 224)
    assert encoder.image_features(pictures[0]).shape == (1, 1280)


def test_a_public_tag_is_open_clips_own_model(tiny_arch, tmp_path, monkeypatch, pictures):
    theirs = open_clip.create_model(tiny_arch).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    known = {"mean": (0.3, 0.3, 0.3), "std": (0.4, 0.4, 0.4), "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, tiny_arch, {"mine": {"url": "", "hf_hub": "", **known}})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "w.safetensors"))
    encoder = load(f"open_clip:{tiny_arch}/mine")
    assert (encoder.preprocess.policy, encoder.preprocess.mean[0]) == ("squash", 0.3)
    transform = image_transform_v2(PreprocessCfg(size=32, **known), is_train=False)
    with torch.no_grad():
        images = torch.stack([transform(Image.fromarray(p)) for p in pictures])
        np.testing.assert_allclose(
            encoder.embed_images(pictures), theirs.encode_image(images, normalize=True), atol=1e-5
        )
        texts = theirs.encode_text(open_clip.get_tokenizer(tiny_arch)(TEXTS), normalize=True)
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), texts, atol=1e-5)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nowhere/at-all", "no model 'nowhere/at-all'"),
        ("/nowhere/monet", r"no model '/nowhere/monet': give a run"),
        ("biomedclip", r"did you mean teacher:biomedclip\?"),
        ("open_clip:ViT-B-61/openai", "ViT-B-16"),
        ("open_clip:ViT-B-16", "laion2b_s34b_b88k"),
        ("open_clip:ViT-B-16/openia", "openai"),
        ("hf-hub:nobody/no-such-model", "nobody/no-such-model"),
        ("transformers:nobody/no-such-model", "nobody/no-such-model"),
        ("timm:tset_vit", "test_vit"),
        ("timm:test_vit", "test_vit"),
        ("timm:test_vit@no-such-file", "no such weights file"),
        ("timm:test_vit@offline:efficientnet-lite0", "tf_efficientnet_lite0"),
        ("timm:test_vit@offline:lite0", "efficientnet-lite0"),
    ],
)
def test_references_that_lead_nowhere_are_said_in_one_line(monkeypatch, reference, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=words) as error:
        load(reference)
    assert "\n" not in str(error.value)


def test_the_folder_that_one_stands_in_is_a_reference(encoder, tmp_path, monkeypatch):
    for folder in (tmp_path / "night", tmp_path / "night" / "model"):
        monkeypatch.chdir(folder)
        for reference in (".", "./"):
            assert (load(reference).name, load(reference).weights_hash) == ("night", encoder.weights_hash)
    monkeypatch.chdir(tmp_path)
    for reference in (".", "./", "/"):
        with pytest.raises(RequestError, match="no model in this folder"):
            load(reference)
    for reference in ("", " "):
        with pytest.raises(RequestError, match="the name of the model is empty"):
            load(reference)


def test_a_folder_of_a_like_name_is_told(encoder, tmp_path):
    with pytest.raises(RequestError, match=rf"did you mean {tmp_path}/night\?"):
        load(tmp_path / "nigth")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(RequestError, match="no model in this folder"):
        load(tmp_path)


def test_a_run_that_was_stopped_has_no_model_yet(tmp_path):
    (tmp_path / "run.json").write_text('{"asked": {}, "finished": false}')
    with pytest.raises(RequestError, match=r"this run has no model yet .*: the same `medweave train` goes on with it"):
        load(tmp_path)
