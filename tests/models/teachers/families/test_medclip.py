"""MedCLIP against a module laid out as medclip 0.0.3 is, saved under the names that its release has."""

import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional

from medweave.errors import RequestError, UserError

SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
GREY = {"mean": (0.5862785803043838,) * 3, "std": (0.27950088968644304,) * 3, "grey": True}
IMAGE = {**GREY, "size": 32, "policy": "pad", "square_first": True, "interpolation": "bicubic"}


class Vision(nn.Module):
    """The Swin with its own projection, or the ResNet whose fc is the projection."""

    def __init__(self, kind):
        super().__init__()
        import transformers as t

        if kind == "swin":
            self.model, self.projection_head = t.SwinModel(t.SwinConfig(**SWIN)), nn.Linear(16, 10, bias=False)
        else:
            self.model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 2, 2, 2])
            self.model.fc = nn.Linear(2048, 10, bias=False)

    def forward(self, pixels):
        if hasattr(self, "projection_head"):
            return self.projection_head(self.model(pixels).pooler_output)
        return self.model(pixels)


class Text(nn.Module):
    """The mean over tokens, padding among them, of layers 1, 2 and the last."""

    def __init__(self, bert):
        super().__init__()
        self.model, self.projection_head = bert, nn.Linear(24, 10, bias=False)

    def forward(self, tokens):
        states = self.model(**tokens, output_hidden_states=True).hidden_states
        return self.projection_head(torch.stack([states[1], states[2], states[-1]]).mean(0).mean(1))


class Original(nn.Module):
    def __init__(self, kind, bert):
        super().__init__()
        self.vision_model, self.text_model = Vision(kind), Text(bert)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))


def released(original, kind, stored):
    """The weights as the release has them: names of the transformers of that time, and its buffers."""
    state = {"logit_scale": original.logit_scale.detach()}
    text = stored(original.text_model.model)
    state |= {f"text_model.model.{name}": tensor for name, tensor in text.items()}
    state["text_model.model.embeddings.position_ids"] = torch.arange(40)[None]
    state["text_model.projection_head.weight"] = original.text_model.projection_head.weight.detach()
    if kind == "swin":
        vision = stored(original.vision_model.model)
        index = "encoder.layers.0.blocks.0.attention.self.relative_position_index"
        state |= {f"vision_model.model.{name}": t for name, t in {**vision, index: torch.zeros(16, 16)}.items()}
        state["vision_model.projection_head.weight"] = original.vision_model.projection_head.weight.detach()
    else:
        state |= {f"vision_model.model.{name}": t for name, t in original.vision_model.model.state_dict().items()}
    return state


def pixels_of(picture):
    """As MedCLIPFeatureExtractor: brightness, a square of at least the size, resized, one channel three times."""
    image = Image.fromarray(picture)
    side = max(32, *image.size)
    square = Image.new("L", (side, side), 0)
    square.paste(image, (int((side - image.width) / 2), int((side - image.height) / 2)))
    values = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy((values - GREY["mean"][0]) / GREY["std"][0]).float().repeat(3, 1, 1)


@pytest.fixture
def release(tmp_path, tiny_bert, stored, card_of):
    """A function of a kind of image tower to (original, card, folder)."""
    import transformers as t

    def make(kind):
        torch.manual_seed(0)
        original, folder = Original(kind, t.AutoModel.from_pretrained(tiny_bert)).eval(), tmp_path / "medclip"
        (folder / "text").mkdir(parents=True)
        torch.save(released(original, kind, stored), folder / "pytorch_model.bin")
        t.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "text")
        original.text_model.model.config.save_pretrained(folder / "text")
        options = {"transformers": {"model_type": "swin", **SWIN}} if kind == "swin" else {"timm": "resnet26"}
        text = {"tokenizer": "somebody/bert", "context": 16, "pooling": "mean"}
        return original, card_of(family="medclip", options=options, image=IMAGE, text=text, width=10), folder

    return make


@pytest.mark.parametrize("kind", ["swin", "resnet"])
def test_rows_are_those_of_the_original(kind, release, encoder, pictures, texts, tiny_bert):
    from transformers import AutoTokenizer

    original, card, folder = release(kind)
    ours, tokenizer = encoder(card, folder), AutoTokenizer.from_pretrained(tiny_bert)
    with torch.no_grad():
        images = functional.normalize(original.vision_model(torch.stack([pixels_of(p) for p in pictures])), dim=-1)
        alone = [original.text_model(tokenizer(text, return_tensors="pt")) for text in texts]
    np.testing.assert_allclose(ours.embed_images(pictures), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(texts), functional.normalize(torch.cat(alone), dim=-1), atol=1e-5)
    np.testing.assert_allclose(ours.project(ours.image_features(pictures)), images, atol=1e-5)
    assert ours.head.scale == pytest.approx(np.exp(3.0)) and ours.dim == 10 and ours.facts["context"] == 16


@pytest.mark.parametrize(
    ("how", "key", "words"),
    [
        ("missing", "vision_model.model.layernorm.weight", "layernorm.weight is missing"),
        ("missing", "vision_model.projection_head.weight", "vision_model.projection_head.weight is missing"),
        ("missing", "logit_scale", "logit_scale is missing"),
        ("shape", "text_model.projection_head.weight", r"weight is \[3, 3\] instead of \[3, 24\]|is \[10, 16\]"),
        ("missing", "text_model.model.embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias is missing"),
        ("missing", "text_model.projection_head.weight", "text_model.projection_head.weight is missing"),
        ("unexpected", "", "surplus.weight is unexpected"),
        ("shape", "text_model.model.pooler.dense.weight", r"pooler.dense.weight is \[3, 3\] instead of \[24, 24\]"),
    ],
)
def test_weights_that_do_not_fit_stop(how, key, words, release, encoder, change):
    _, card, folder = release("swin")
    change(folder / "pytorch_model.bin", how, key)
    with pytest.raises(UserError, match=words) as error:
        encoder(card, folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("logit_scale", torch.zeros(3, 3), r"logit_scale is \[3, 3\] and no single number"),
        ("logit_scale", torch.zeros(0), r"logit_scale is \[0\] and no single number"),
        ("text_model.projection_head.weight", torch.zeros(()), r"projection_head.weight is \[\] instead of \[d, w\]"),
        ("vision_model.projection_head.weight", torch.zeros(()), r"projection_head.weight is \[\] instead of \[d, w\]"),
    ],
)
def test_scale_and_projections_of_another_shape_stop(key, value, words, release, encoder):
    _, card, folder = release("swin")
    file = folder / "pytorch_model.bin"
    torch.save({**torch.load(file, weights_only=True), key: value}, file)
    with pytest.raises(UserError, match=words) as error:
        encoder(card, folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("swin", {"transformers": SWIN}, "no tower of transformers .options of teacher tiny.: .*'model_type'"),
        ("swin", {"transformers": {"model_type": "swni"}}, "no tower of transformers .*: .*identifier: swni"),
        ("swin", {"transformers": {"model_type": "swin", **SWIN, "num_heads": [3]}}, "this makes no model"),
        ("resnet", {"timm": "resnet_no"}, "no tower of timm .options of teacher tiny.: Unknown model"),
    ],
)
def test_options_that_make_no_tower(kind, options, words, release, encoder, card_of):
    _, card, folder = release(kind)
    with pytest.raises(RequestError, match=words) as error:
        encoder(card_of(**{**card.model_dump(), "options": options}), folder)
    assert "\n" not in str(error.value)


def test_a_card_that_leaves_pixels_open_is_refused(release, encoder, card_of):
    _, card, folder = release("swin")
    open_card = card_of(**{**card.model_dump(), "image": {"size": 32}})
    with pytest.raises(UserError, match="unknown: policy, interpolation, mean, std"):
        encoder(open_card, folder)


def test_a_card_names_one_image_tower(release, encoder, card_of):
    _, card, folder = release("swin")
    with pytest.raises(RequestError, match="give either timm or transformers"):
        encoder(card_of(**{**card.model_dump(), "options": {}}), folder)


def test_a_copy_without_its_tokenizer(release, encoder):
    _, card, folder = release("swin")
    for file in (*(folder / "text").glob("token*"), *(folder / "text").glob("vocab*")):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer lies here"):
        encoder(card, folder)


def test_a_copy_without_a_text_folder_says_what_to_get(release, encoder, monkeypatch):
    _, card, folder = release("swin")
    shutil.rmtree(folder / "text")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf download somebody/bert .* --local-dir FOLDER/text") as error:
        encoder(card, folder)
    assert "\n" not in str(error.value)
