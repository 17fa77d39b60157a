import copy
import pickle

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from medweave.errors import RequestError, UserError
from medweave.models import dual
from medweave.models.recipe import ModelRecipe
from medweave.models.tokens import pads_freely

TEXTS = ["chest x-ray", "ct of the brain with a fracture and no heart", "normal"]
TOWERS = {
    "resnet": {"tower": "timm:test_resnet"},
    "vit": {"tower": "timm:test_vit"},
    "efficientnet": {"tower": "timm:test_efficientnet", "projection": "mlp"},
    "open_clip": {"tower": "open_clip:tiny-arch"},
}


def pixels(size=32, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TOWERS)
def test_shapes_and_unit_rows(recipe_of, tiny_arch, name):
    model = dual.build(recipe_of(image=TOWERS[name]))
    images, texts = model(pixels(), model.tokenize(TEXTS))
    assert images.shape == (2, 12) and texts.shape == (3, 12)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    assert model.dim == 12


@pytest.mark.parametrize("name", TOWERS)
def test_image_features_are_what_the_projection_takes(recipe_of, tiny_arch, name):
    model = dual.build(recipe_of(image=TOWERS[name]))
    features, visual = model.image_features(pixels()), model.clip.visual
    projected = features @ visual.proj if name == "open_clip" else visual.head(features)
    torch.testing.assert_close(functional.normalize(projected, dim=-1), model.encode_image(pixels()))
    torch.testing.assert_close(model.project_image(features), model.encode_image(pixels()))
    assert features.shape[1] != model.dim


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_text_rows_are_masked_means_of_the_transformer(recipe_of, tiny_bert, projection):
    model = dual.build(recipe_of(text={"projection": projection, "pooler": "mean_pooler"}))
    bert, tokenizer = AutoModel.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_bert)
    for text, row, pooled in zip(
        TEXTS,
        model.encode_text(model.tokenize(TEXTS)),
        model.text_pooled(model.tokenize(TEXTS)),
        strict=True,
    ):
        alone = bert.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(pooled, alone)
        torch.testing.assert_close(row, functional.normalize(model.clip.text.proj(alone), dim=-1))
        torch.testing.assert_close(model.project_text(pooled[None])[0], row)


def test_without_projections_the_joint_space_is_the_towers(recipe_of):
    wide = {"projection": "none"}
    with pytest.raises(RequestError, match="image tower's width, 96"):
        dual.build(recipe_of(image=wide))
    with pytest.raises(RequestError, match="text tower's width, 24"):
        dual.build(recipe_of(text=wide))
    model = dual.build(recipe_of(image=wide, embed=96))
    reference = functional.normalize(model.image_features(pixels()), dim=-1)
    torch.testing.assert_close(model.encode_image(pixels()), reference)


def test_open_clip_towers_give_open_clips_rows(recipe_of, tiny_arch, tmp_path):
    theirs = open_clip.create_model(tiny_arch, pretrained=None).eval()
    save_file(theirs.state_dict(), tmp_path / "whole.safetensors")
    weights = str(tmp_path / "whole.safetensors")
    image, text = {"tower": "open_clip:tiny-arch", "weights": weights}, {"tower": "open_clip", "weights": weights}
    model = dual.build(recipe_of(image=image, text={**text, "context": 20}, embed=None))
    tokens = model.tokenize(TEXTS)
    assert torch.equal(tokens, open_clip.get_tokenizer(tiny_arch)(TEXTS))
    torch.testing.assert_close(model.encode_text(tokens), theirs.encode_text(tokens, normalize=True))
    torch.testing.assert_close(model.encode_image(pixels()), theirs.encode_image(pixels(), normalize=True))
    torch.testing.assert_close(model.project_text(model.text_pooled(tokens)), model.encode_text(tokens))
    short = dual.build(recipe_of(image=image, text={**text, "context": 12}, embed=None))
    torch.testing.assert_close(short.encode_text(short.tokenize(TEXTS)), model.encode_text(tokens))


def test_timm_weights_from_a_file_at_another_size_are_timms_own(recipe_of, tmp_path):
    source = timm.create_model("test_vit", num_classes=7)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    image = {"tower": "timm:test_vit", "weights": str(tmp_path / "vit.safetensors"), "size": 48}
    model = dual.build(recipe_of(image=image))
    overlay = {"file": str(tmp_path / "vit.safetensors"), "num_classes": 7}
    theirs = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=48)
    torch.testing.assert_close(model.image_features(pixels(48)), theirs.eval()(pixels(48)))


def test_same_seed_same_weights_and_the_callers_draws_are_left_alone(recipe_of):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (dual.build(recipe_of(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(one.clip.visual.head.proj.weight, other.clip.visual.head.proj.weight)


def learning(tower):
    return {name for name, p in tower.named_parameters() if p.requires_grad}


def test_a_frozen_tower_keeps_its_projection_trainable_and_its_statistics_still(recipe_of):
    model = dual.build(recipe_of(image={"freeze": True}, text={"freeze": True, "dropout": 0.5})).train()
    assert learning(model.clip.visual) == {"head.proj.weight"}
    assert learning(model.clip.text) == {"proj.0.weight", "proj.2.weight"}
    assert model.frozen_text
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    tokens = model.tokenize(TEXTS)
    assert torch.equal(model.text_pooled(tokens), model.text_pooled(tokens))
    model.encode_image(pixels())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("tower", "count", "first"),
    [
        ("timm:test_vit", 2, "trunk.blocks.4."),
        ("timm:test_resnet", 1, "trunk.layer4.0."),
        ("open_clip:tiny-arch", 1, "transformer.resblocks.2."),
    ],
)
def test_last_blocks_stay_trainable(recipe_of, tiny_arch, tower, count, first):
    visual = dual.build(recipe_of(image={"tower": tower, "freeze": count})).clip.visual
    names = [name for name, _ in visual.named_parameters() if name != "proj"]
    start = next(i for i, name in enumerate(names) if name.startswith(first))
    assert learning(visual) - {"proj"} == set(names[start:])


def test_last_blocks_of_a_text_tower(recipe_of):
    model = dual.build(recipe_of(text={"freeze": 1})).train()
    layers = model.clip.text.transformer.encoder.layer
    assert [layer.training for layer in layers] == [False, False, True]
    assert not model.frozen_text
    with pytest.raises(RequestError, match="has 3 blocks"):
        dual.build(recipe_of(text={"freeze": 4}))


def test_a_whole_model_is_frozen_as_its_towers_are(recipe_of, tmp_path):
    dual.save(dual.build(recipe_of()), tmp_path / "start")

    def started(**freeze):
        return dual.build(ModelRecipe.model_validate({"start": str(tmp_path / "start"), "freeze": freeze}))

    for freeze in ({"image": True}, {"text": True}, {"image": 1, "text": 2}):
        built = dual.build(recipe_of(**{side: {"freeze": how} for side, how in freeze.items()}))
        assert learning(started(**freeze)) == learning(built) != learning(started())
    assert started(text=True).frozen_text and not started(image=True).frozen_text
    with pytest.raises(RequestError, match="has 3 blocks"):
        started(text=4)


def test_dropout_is_refused_where_open_clips_text_tower_has_none(recipe_of, tiny_arch):
    towers = {"image": {"tower": "open_clip:tiny-arch"}, "text": {"tower": "open_clip", "context": 20, "dropout": 0.1}}
    with pytest.raises(RequestError, match=r"tiny-arch has open_clip's own text tower.*model.text.dropout"):
        dual.build(recipe_of(**towers))


def test_text_dropout_is_off_unless_asked_for(recipe_of):
    quiet, noisy = (dual.build(recipe_of(text={"dropout": p})).train() for p in (0.0, 0.5))
    tokens = quiet.tokenize(TEXTS)
    assert torch.equal(quiet.encode_text(tokens), quiet.encode_text(tokens))
    assert not torch.equal(noisy.encode_text(tokens), noisy.encode_text(tokens))


def test_padding_is_free_only_with_a_mask(recipe_of, tiny_arch):
    masked = dual.build(recipe_of())
    assert masked.tokenize.freely and masked.tokenize(["normal"]).shape == (1, 3)
    masked.clip.text.config.pad_token_id = 999  # now padding is read as text
    assert not pads_freely(masked.clip, masked.tokenize)
    causal = dual.build(recipe_of(image={"tower": "open_clip:tiny-arch"}, text={"tower": "open_clip", "context": 20}))
    assert not causal.tokenize.freely and causal.tokenize(["normal"]).shape == (1, 20)


def test_long_texts_are_cut_at_the_context(recipe_of):
    assert dual.build(recipe_of()).tokenize(["heart " * 100]).shape == (1, 16)


def test_tokens_go_to_other_processes_and_models_are_copied(recipe_of):
    model = dual.build(recipe_of(text={"freeze": True}))
    assert torch.equal(pickle.loads(pickle.dumps(model.tokenize))(TEXTS), model.tokenize(TEXTS))
    twin = copy.deepcopy(model).train()
    torch.testing.assert_close(twin.encode_text(twin.tokenize(TEXTS)), model.encode_text(model.tokenize(TEXTS)))


def test_heads(recipe_of):
    softmax, sigmoid = (dual.build(recipe_of(head=head)) for head in ("softmax", "sigmoid"))
    assert softmax.logit_bias is None and softmax.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert sigmoid.logit_bias.item() == -10 and sigmoid.logit_scale.exp().item() == pytest.approx(10)


def test_convolutional_towers_run_channels_last(recipe_of):
    assert (
        dual.build(recipe_of())
        .clip.visual.trunk.layer1[0]
        .conv1.weight.is_contiguous(memory_format=torch.channels_last)
    )
    assert not dual.build(recipe_of(image={"tower": "timm:test_vit"})).channels_last


@pytest.mark.parametrize("lite", ["lite0", "lite1", "lite2"])
def test_offline_towers_are_what_their_packages_hold(lite, pictures):
    from medweave.models import offline

    image = {"tower": f"timm:tf_efficientnet_{lite}", "weights": f"offline:efficientnet-{lite}", "size": 64}
    text = {"tower": "offline:minilm", "freeze": True}
    model = dual.build(ModelRecipe.model_validate({"image": image, "text": text}))
    assert model.preprocess.mean == (0.5, 0.5, 0.5) and model.dim == 512 and model.tokenize.context == 256
    bert = AutoModel.from_pretrained(offline.minilm_folder()).eval()
    tokens = model.tokenize(["chest x-ray"])
    torch.testing.assert_close(model.text_pooled(tokens)[0], bert(input_ids=tokens).last_hidden_state[0].mean(0))
    state = torch.load(next(offline.folder_of(f"efficientnet-{lite}").rglob("*.pth")), weights_only=True)
    own = model.clip.visual.trunk.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(own, list(state.values())[: len(own)], strict=True))


def test_absent_offline_packages_name_the_extra(recipe_of, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"medweave\[offline\]"):
        dual.build(recipe_of(text={"tower": "offline:minilm"}))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"image": {"tower": "timm:tset_vit"}}, "test_vit"),
        ({"image": {"tower": "open_clip:ViT-B-61"}}, "ViT-B-16"),
        ({"image": {"tower": "open_clip:coca_ViT-B-32"}}, "CoCa"),
        ({"image": {"tower": "open_clip:ViT-B-16", "weights": "laion2b"}}, "laion2b_s34b_b88k"),
        ({"image": {"weights": "offline:efficientnet-lite0"}}, "tf_efficientnet_lite0"),
        ({"image": {"weights": "nothing.safetensors"}}, "a file, a model folder"),
        ({"text": {"tower": "transformers:no/such-model"}}, "no/such-model"),
        ({"text": {"tower": "offline:bert"}}, "offline:minilm"),
        ({"text": {"context": 41}}, "at most 40 tokens"),
    ],
)
def test_mistakes_are_said_in_one_line(recipe_of, monkeypatch, parts, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=words) as error:
        dual.build(recipe_of(**parts))
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_list_what_differs(recipe_of, tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="another architecture") as error:
        dual.build(recipe_of(image={"tower": "timm:test_efficientnet", "weights": str(tmp_path / "a.safetensors")}))
    assert "conv_stem.weight is missing" in str(error.value) and "\n" not in str(error.value)


def test_a_pickle_is_not_unpickled(recipe_of, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no weights can be read"):
        dual.build(recipe_of(image={"weights": str(tmp_path / "a.pth")}))
    assert not (tmp_path / "sprung").exists()
