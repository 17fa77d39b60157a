"""Files that did not come whole are named, with what is wrong with them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from medweave.errors import UserError
from medweave.models.weights import read_state
from medweave.models.whole import fault_of, need, refuse_broken

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"
STATE = {"weight": torch.zeros(50)}


@pytest.fixture
def folder(tmp_path):
    """A folder with a whole file of each format."""
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save(STATE, tmp_path / "model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "vocab.txt").write_text("heart\n")
    return tmp_path


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


NAMES = ("model.safetensors", "model.bin", "config.json", "vocab.txt")


def test_whole_files_have_no_fault(folder):
    assert [fault_of(folder / name) for name in NAMES] == [None] * 4
    refuse_broken(folder)


@pytest.mark.parametrize("name", NAMES)
def test_empty_files_and_pointers(name, folder):
    (folder / name).write_text("")
    assert fault_of(folder / name) == "is empty"
    (folder / name).write_text(POINTER)
    assert "pointer of git-lfs" in fault_of(folder / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("model.safetensors", "is cut short"), ("model.bin", "is cut short"), ("config.json", "no JSON")],
)
def test_files_that_are_cut_short_are_named_with_their_folder(name, words, folder):
    halve(folder / name)
    with pytest.raises(UserError, match=f"^{name} .*{words}.*: get it again") as error:
        refuse_broken(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
@pytest.mark.parametrize(("damage", "words"), [("", "is empty"), (POINTER, "pointer of git-lfs"), (None, "cut short")])
def test_weights_that_are_not_whole_cannot_be_read(name, damage, words, folder):
    file = folder / name
    halve(file) if damage is None else file.write_text(damage)
    with pytest.raises(UserError, match=f"^{name} .*{words}.*get it again") as error:
        read_state(file)
    assert "\n" not in str(error.value)


def test_a_file_that_is_lacking_is_named(folder):
    need(folder, "model.safetensors", "nothing.bin")
    need("somebody/on-the-hub", "config.json")
    with pytest.raises(UserError, match=r"no preprocessor_config\.json in this folder .*: get the missing file too"):
        need(folder, "preprocessor_config.json")
