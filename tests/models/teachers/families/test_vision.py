"""Image towers alone against timm's and transformers' own models and transforms."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from torch.nn import functional

from medweave.errors import RequestError, UserError

ONE_SIDED = {"family": "vision", "text": None, "head": None}


@pytest.fixture
def timm_folder(tmp_path):
    """A function of a timm name and arguments to the folder that timm itself would push to the hub."""

    def make(name, safe=False, **args):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=7, **args)
        save_for_hf(model, tmp_path / "timm", model_args=args, safe_serialization=safe)
        return tmp_path / "timm"

    return make


def theirs(folder, pictures, **args):
    """Rows of timm's own model under its own transform."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **args).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        return model, model(torch.stack([transform(Image.fromarray(picture)) for picture in pictures]))


def unit(rows):
    return functional.normalize(rows, dim=-1).numpy()


@pytest.mark.parametrize(("name", "safe"), [("test_vit", False), ("test_resnet", True)])
def test_rows_are_those_of_timm(name, safe, timm_folder, card_of, encoder, pictures):
    folder = timm_folder(name, safe)
    model, rows = theirs(folder, pictures)
    config = model.pretrained_cfg
    side = {
        "size": 160,
        "policy": "crop",
        "edge": int(160 / config["crop_pct"]),
        "interpolation": config["interpolation"],
    }
    ours = encoder(card_of(**ONE_SIDED, image=side, width=model.num_features), folder)
    np.testing.assert_allclose(ours.image_features(pictures), rows, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(ours.embed_images(pictures), unit(rows), atol=1e-5)
    assert ours.sides == ("images",) and ours.facts["context"] is None and ours.separable


def test_arguments_of_the_owners_page_and_both_ways_of_pooling(timm_folder, card_of, encoder, pictures):
    args = {"act_layer": "silu", "mlp_layer": timm.layers.SwiGLUPacked, "reg_tokens": 2}
    model = timm.create_model("test_vit", num_classes=0, **args).eval()
    folder = timm_folder("test_vit")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    options = {"mlp_layer": "SwiGLUPacked", "args": {"act_layer": "silu", "reg_tokens": 2}}
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        tokens = model.forward_features(torch.stack([transform(Image.fromarray(p)) for p in pictures]))
    wanted = {"cls": tokens[:, 0], "cls+mean": torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], -1)}
    for pooling, rows in wanted.items():
        ours = encoder(card_of(**ONE_SIDED, image={"pooling": pooling}, options=options), folder)
        np.testing.assert_allclose(ours.embed_images(pictures), unit(rows), atol=1e-5)
        assert ours.dim == rows.shape[1]


def test_tokens_that_nobody_pools_are_refused(timm_folder, card_of, encoder, pictures):
    ours = encoder(card_of(**ONE_SIDED, image={}), timm_folder("test_vit", global_pool=""))
    with pytest.raises(UserError, match="say in the card how they are pooled"):
        ours.embed_images(pictures)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("pooling", ["own", "cls", "cls+mean"])
def test_rows_are_those_of_transformers(registers, pooling, tmp_path, card_of, encoder, pictures):
    import transformers as t

    kind, extra = (t.Dinov2WithRegistersModel, {"num_register_tokens": 2}) if registers else (t.Dinov2Model, {})
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    model = kind(kind.config_class(**small, **extra)).eval()
    model.save_pretrained(tmp_path / "dino")
    processor = t.BitImageProcessor(
        size={"shortest_edge": 33}, crop_size={"height": 28, "width": 28}, image_mean=[0.53] * 3, image_std=[0.25] * 3
    )
    processor.save_pretrained(tmp_path / "dino")
    pixels = t.AutoImageProcessor.from_pretrained(tmp_path / "dino", use_fast=False)(
        [Image.fromarray(p) for p in pictures], return_tensors="pt"
    )
    with torch.no_grad():
        output = model(**pixels)
    tokens, first = output.last_hidden_state, 3 if registers else 1
    mean = torch.cat([tokens[:, 0], tokens[:, first:].mean(1)], -1)
    rows = {"own": output.pooler_output, "cls": tokens[:, 0], "cls+mean": mean}[pooling]
    side = {"size": 28, "policy": "crop", "edge": 33, "mean": [0.53] * 3, "pooling": pooling}
    ours = encoder(card_of(**ONE_SIDED, image=side, width=rows.shape[1]), tmp_path / "dino")
    np.testing.assert_allclose(ours.embed_images(pictures), unit(rows), atol=1e-5)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "bn1.weight is missing"),
        ("unexpected", "surplus.weight is unexpected"),
        ("shape", r"bn1.weight is \[3, 3\] instead of"),
    ],
)
def test_weights_that_do_not_fit_stop(how, words, timm_folder, card_of, encoder, change):
    folder = timm_folder("test_resnet", safe=True)
    change(folder / "model.safetensors", how, "bn1.weight")
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(**ONE_SIDED, image={}), folder)
    assert "\n" not in str(error.value)


class Stranger:
    """What no weights file should hold."""


@pytest.mark.parametrize(("value", "words"), [(Stranger(), "no weights can be read"), (3, "not only tensors .*: note")])
def test_pickles_with_more_than_tensors_are_refused(value, words, timm_folder, card_of, encoder):
    folder = timm_folder("test_resnet")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**state, "note": value}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(**ONE_SIDED, image={}), folder)
    assert "\n" not in str(error.value)


def test_preprocessing_that_cannot_be_repeated_is_refused(timm_folder, card_of, encoder):
    folder = timm_folder("test_resnet")
    config = json.loads((folder / "config.json").read_text())
    for change, words in (({"crop_mode": "border"}, "crop mode border"), ({"interpolation": "nearest"}, "neither")):
        changed = {**config, "pretrained_cfg": {**config["pretrained_cfg"], **change}}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=words):
            encoder(card_of(**ONE_SIDED, image={}), folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"args": {"foo": 1}}}, "no tower of timm .options of teacher tiny.: .*argument 'foo'"),
        ({"options": {"arch": "resnet_no"}}, r"no tower of timm .options of teacher tiny.: Unknown model"),
        ({"options": {"mlp_layer": "SwiGluPacked"}}, "no layer of timm.layers is called .*did you mean .*SwiGLUPacked"),
        ({"options": {"names": "package"}}, "names: package needs the package too .*: write package: efficientnet"),
        ({"options": {"names": "package"}, "package": "minilm"}, "names: package needs the package too"),
        ({"options": {"names": "package"}, "package": "efficientnet-lite0"}, "not those of efficientnet-lite0"),
    ],
)
def test_options_that_mean_nothing(changes, words, timm_folder, card_of, encoder):
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(**ONE_SIDED, image={}, **changes), timm_folder("test_resnet"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"), [(3, "config.json is no mapping"), ({"architecture": "nope"}, r"config.json.: Unknown model")]
)
def test_a_configuration_that_means_nothing(content, words, timm_folder, card_of, encoder):
    folder = timm_folder("test_resnet")
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(**ONE_SIDED, image={}), folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_configuration(tmp_path, card_of, encoder):
    with pytest.raises(RequestError, match="no configuration of transformers or timm"):
        encoder(card_of(**ONE_SIDED, image={}), tmp_path)
