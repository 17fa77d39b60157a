"""Copies that cannot be opened or used: `medweave teachers` says in one line what is wrong with which file."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from medweave.errors import UserError
from medweave.models.load import load
from medweave.models.teachers import about
from medweave.recipe import as_data

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"
TEXT_SIDE = {"family": "text", "image": None, "head": None, "text": {"pooling": "mean"}}


def halved(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model.safetensors", halved, "model.safetensors is cut short"),
        ("model.safetensors", lambda _: b"", "model.safetensors is empty"),
        ("model.safetensors", lambda _: POINTER, "model.safetensors is a pointer of git-lfs"),
        ("pytorch_model.bin", halved, "pytorch_model.bin is cut short"),
        ("pytorch_model.bin", lambda _: b"", "pytorch_model.bin is empty"),
        ("pytorch_model.bin", lambda _: POINTER, "pytorch_model.bin is a pointer of git-lfs"),
        ("model.safetensors", None, "no *.safetensors or *.bin in this folder"),
        ("config.json", halved, "config.json is no JSON"),
        ("config.json", lambda _: b"[]", "the configuration in this folder cannot be read"),
        ("config.json", None, "no config.json in this folder"),
        ("tokenizer.json", halved, "tokenizer.json is no JSON"),
        ("preprocessor_config.json", halved, "preprocessor_config.json is no JSON"),
        ("preprocessor_config.json", None, "no preprocessor_config.json"),
    ],
)
def test_a_broken_file_of_a_folder_is_named_and_no_hub_is_spoken_of(name, damage, words, tiny_pair, card_of, tmp_path):
    _, folder = tiny_pair("clip")
    if name.endswith(".bin"):
        torch.save(load_file(folder / "model.safetensors"), folder / name)
        (folder / "model.safetensors").unlink()
    file = folder / name
    file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
    problem = about.checked(card_of(), folder).problem
    assert words in problem and str(folder) in problem and "\n" not in problem and "hub" not in problem
    (tmp_path / "mine.yaml").write_text(json.dumps(as_data(card_of())))
    with pytest.raises(UserError):
        load(f"teacher:{tmp_path / 'mine.yaml'}@{folder}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("modules.json", {"a": 1}, "modules.json is no list of modules"),
        ("modules.json", ["a"], "modules.json is no list of modules"),
        ("1_Pooling/config.json", [], "config.json is no mapping"),
        ("sentence_bert_config.json", [], "sentence_bert_config.json is no mapping"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length is 'many' and no whole number"),
        ("sentence_bert_config.json", {"max_seq_length": 512}, "cannot embed a text of 512 tokens"),
    ],
)
def test_settings_of_a_sentence_encoder_that_mean_nothing(name, content, words, tiny_bert, tmp_path, card_of):
    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    problem = about.checked(card_of(**TEXT_SIDE), folder).problem
    assert words in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("visual_projection.weight", torch.nan, "gives an image a row that is not a number"),
        ("visual_projection.weight", 0.0, "gives an image a row of length 0 instead of 1"),
        ("text_projection.weight", torch.nan, "gives a text a row that is not a number"),
        ("text_projection.weight", 0.0, "gives a text a row of length 0 instead of 1"),
        ("logit_scale", torch.nan, "the scale of teacher:tiny is nan"),
        ("logit_scale", 200.0, "the scale of teacher:tiny is inf"),
        ("logit_scale", -200.0, "the scale of teacher:tiny is 0"),
    ],
)
def test_weights_that_are_in_their_place_and_give_no_rows(name, value, words, tiny_pair, card_of):
    _, folder = tiny_pair("clip")
    state = load_file(folder / "model.safetensors")
    state[name].fill_(value)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    problem = about.checked(card_of(), folder).problem
    assert words in problem and "get the copy again" in problem and "\n" not in problem


def test_a_copy_whose_preprocessing_is_not_the_towers_is_not_right(tiny_pair, card_of):
    _, folder = tiny_pair("clip")
    (folder / "preprocessor_config.json").write_text("{}")
    problem = about.checked(card_of(), folder).problem
    assert "cannot embed an image of 224 pixels" in problem and "\n" not in problem


def test_a_context_that_the_tower_cannot_read_is_not_right(tiny_bert, card_of):
    card = card_of(**{**TEXT_SIDE, "text": {"pooling": "mean", "context": 100}})
    problem = about.checked(card, tiny_bert).problem
    assert "cannot embed a text of 100 tokens" in problem and "\n" not in problem
    fits = card_of(**{**TEXT_SIDE, "text": {"pooling": "mean", "context": 40}})
    assert about.checked(fits, tiny_bert).problem is None
