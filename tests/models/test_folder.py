"""A saved folder is an open_clip folder: a fresh offline process with stock open_clip gives the same rows."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models._hub import load_model_config_from_path
from transformers import AutoConfig, AutoTokenizer

from medweave.errors import RequestError, UserError
from medweave.models import dual
from medweave.models.folder import CONFIG, FACTS, WEIGHTS, add_facts, export, facts_of, open_folder
from medweave.models.load import load
from medweave.models.recipe import ModelRecipe

TEXTS = ["chest x-ray", "ct of the brain with a fracture and no heart", "normal"]
STOCK = """
import sys, numpy, torch, open_clip
from PIL import Image
picture, texts, folders = sys.argv[1], sys.argv[2].split("|"), sys.argv[3:]
for folder in folders:
    name = "local-dir:" + folder
    model, transform = open_clip.create_model_from_pretrained(name)
    tokens = open_clip.get_tokenizer(name)(texts)
    with torch.no_grad():
        images = model.eval().encode_image(transform(Image.open(picture))[None], normalize=True)
        rows = model.encode_text(tokens, normalize=True)
    scale = [model.logit_scale.exp().item(), 0.0 if model.logit_bias is None else model.logit_bias.item()]
    numpy.savez(folder + ".npz", images=images.numpy(), texts=rows.numpy(), scale=scale)
"""
MODELS = {
    "resnet": {"image": {"size": 40, "interpolation": "bilinear"}, "head": "sigmoid"},
    "vit at another size": {"image": {"tower": "timm:test_vit", "size": 48, "resize": "squash"}},
    "open_clip": {"image": {"tower": "open_clip:tiny-arch", "resize": "crop"}, "text": {"tower": "open_clip"}},
    "no projection": {"image": {"projection": "none"}, "embed": 96, "text": {"pooler": "cls_pooler"}},
}


@pytest.fixture
def open_clip_folder(recipe_of, tiny_arch, tmp_path):
    """A model of open_clip's own towers: 32 pixels, 20 tokens."""
    image, text = {"tower": f"open_clip:{tiny_arch}"}, {"tower": "open_clip", "context": 20}
    dual.save(dual.build(recipe_of(image=image, text=text, embed=16)), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_stock_open_clip_gives_the_same_rows_even_after_a_move(recipe_of, tiny_arch, tmp_path, pictures):
    picture = tmp_path / "a.png"
    Image.fromarray(pictures[0]).save(picture)
    models = {name: dual.build(recipe_of(**parts)) for name, parts in MODELS.items()}
    for name, model in models.items():
        dual.save(model, tmp_path / f"{name} first", {"recipe": "abc"})
        shutil.move(tmp_path / f"{name} first", tmp_path / name)
    encoders = {name: load(tmp_path / name) for name in models}
    in_stock(picture, [tmp_path / name for name in models])
    for name, model in models.items():
        theirs, encoder = np.load(tmp_path / f"{name}.npz"), encoders[name]
        with torch.no_grad():
            pixels = model.preprocess.tensor(model.preprocess.array(picture))[None]
            assert np.abs(model.encode_image(pixels).numpy() - theirs["images"]).max() < 1e-5
            assert np.abs(model.encode_text(model.tokenize(TEXTS)).numpy() - theirs["texts"]).max() < 1e-5
        assert np.abs(encoder.embed_images(picture) - theirs["images"]).max() < 1e-5
        assert np.abs(encoder.embed_texts(TEXTS) - theirs["texts"]).max() < 1e-5
        assert (encoder.head.scale, encoder.head.bias) == pytest.approx(tuple(theirs["scale"]))
        assert encoder.preprocess == model.preprocess
        assert encoder.facts["recipe"] == "abc"


def in_stock(picture, folders):
    """A fresh offline process with stock open_clip, and nothing of ours, writes the rows beside each folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STOCK, str(picture), "|".join(TEXTS), *map(str, folders)]
    subprocess.run(command, check=True, env=environment, cwd="/", capture_output=True)


def test_saving_is_the_same_every_time_and_replaces_the_folder_whole(recipe_of, tmp_path):
    model, folder = dual.build(recipe_of()), tmp_path / "model"
    dual.save(model, folder, {"step": 1})
    before = {name: (folder / name).read_bytes() for name in (CONFIG, FACTS, WEIGHTS, "README.md")}
    dual.save(open_folder(folder), folder, {"step": 1})
    assert {name: (folder / name).read_bytes() for name in before} == before
    dual.save(model, folder, {"step": 2})
    add_facts(folder, {"calibration": 1.5})
    assert open_folder(folder).facts["step"] == 2 and open_folder(folder).facts["calibration"] == 1.5
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_old_model(recipe_of, tmp_path):
    """What `train` turns into one line: safetensors' own writer would raise an error of its own."""
    folder = tmp_path / "model"
    dual.save(dual.build(recipe_of()), folder, {"step": 1})
    code = (
        "import resource, sys; from medweave.models.folder import open_folder, save; from pathlib import Path\n"
        "model = open_folder(Path(sys.argv[1])); import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save(model, Path(sys.argv[1]), {'step': 2})\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == os.strerror(errno.EFBIG)
    assert open_folder(folder).facts["step"] == 1


def test_facts_change_nothing_else_and_stand_in_a_folder_of_another_maker(recipe_of, tmp_path):
    folder = tmp_path / "model"
    dual.save(dual.build(recipe_of()), folder)
    weights = load(folder).weights_hash
    files = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != FACTS}
    (folder / FACTS).unlink()
    assert facts_of(folder) == {}
    add_facts(folder, {"calibration": {"weights": weights}})
    add_facts(folder, {"more": 1})
    assert facts_of(folder) == {"calibration": {"weights": weights}, "more": 1}
    assert load(folder).weights_hash == weights and files == {f: f.read_bytes() for f in files}


def test_the_card_lies_with_the_model_and_with_its_export(recipe_of, tmp_path):
    sentence = "Learnt from Tiny (tiny; licence MIT, class open)."
    facts = {"name": "student", "inherits": [sentence], "trained_on": {"corpus": "c", "path": str(tmp_path)}}
    dual.save(dual.build(recipe_of()), tmp_path / "model", facts)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# student" in card and f"- {sentence}" in card and "image: `timm:test_resnet`" in card
    assert str(tmp_path) not in card
    export(tmp_path / "model", tmp_path / "out", "medweave/tiny")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- {sentence}" in card and 'medweave.load("hf-hub:medweave/tiny")' in card


def test_a_corpus_beside_the_run_moves_with_it_and_another_stays_where_it_is(recipe_of, tmp_path, monkeypatch):
    model, home = dual.build(recipe_of()), tmp_path / "lab"
    for corpus in (home / "corpora" / "mine", tmp_path / "far"):
        corpus.mkdir(parents=True)
        dual.save(model, home / "run" / "model", {"trained_on": {"corpus": "c", "path": str(corpus)}})
        stored = json.loads((home / "run" / "model" / FACTS).read_text())["facts"]["trained_on"]["path"]
        assert stored == ("../corpora/mine" if corpus.is_relative_to(home) else str(corpus))
        dual.save(open_folder(home / "run" / "model"), home / "run" / "model")
        assert json.loads((home / "run" / "model" / FACTS).read_text())["facts"]["trained_on"]["path"] == stored
        monkeypatch.chdir(corpus)
        assert load(home / "run").facts["trained_on"] == {"corpus": "c", "path": str(corpus)}
    dual.save(model, home / "run" / "model", {"trained_on": {"corpus": "c", "path": str(home / "corpora" / "mine")}})
    home.rename(tmp_path / "moved")
    assert load(tmp_path / "moved" / "run").facts["trained_on"]["path"] == str(tmp_path / "moved" / "corpora" / "mine")


def test_the_corpora_of_earlier_trainings_move_too_and_are_left_out_of_an_export(recipe_of, tmp_path):
    model, home = dual.build(recipe_of()), tmp_path / "lab"
    for corpus in ("mine", "earlier", "first"):
        (home / corpus).mkdir(parents=True)
    first = {"corpus": "a", "path": str(home / "first"), "before": None}
    earlier = {"corpus": "b", "path": str(home / "earlier"), "before": first}
    told = {"corpus": "c", "path": str(home / "mine"), "before": earlier}
    dual.save(model, home / "run" / "model", {"trained_on": told})
    assert facts_of(home / "run" / "model")["trained_on"] == told
    assert str(home) not in (home / "run" / "model" / FACTS).read_text()
    home.rename(tmp_path / "moved")
    moved = facts_of(tmp_path / "moved" / "run" / "model")["trained_on"]
    assert moved["before"]["before"] == {**first, "path": str(tmp_path / "moved" / "first")}
    add_facts(tmp_path / "moved" / "run" / "model", {"trained_on": moved})
    export(tmp_path / "moved" / "run" / "model", tmp_path / "out", "medweave/tiny")
    out = facts_of(tmp_path / "out")["trained_on"]
    assert [out["path"], out["before"]["path"], out["before"]["before"]["path"]] == [None] * 3


def test_a_failed_save_leaves_the_old_model(recipe_of, tmp_path, monkeypatch):
    model, folder = dual.build(recipe_of()), tmp_path / "model"
    dual.save(model, folder)
    monkeypatch.setattr("medweave.models.folder.write_json", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        dual.save(model, folder)
    monkeypatch.undo()
    assert open_folder(folder) and [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_process_that_died_between_two_renames_loses_nothing(recipe_of, tmp_path):
    dual.save(dual.build(recipe_of()), tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.old")
    assert load(tmp_path / "model").dim == 12


def test_a_folder_of_something_else_is_not_replaced(recipe_of, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match="something else"):
        dual.save(dual.build(recipe_of()), tmp_path)


def test_weights_of_another_architecture(recipe_of, tmp_path):
    for name, parts in (("a", {}), ("b", {"image": {"tower": "timm:test_efficientnet"}})):
        dual.save(dual.build(recipe_of(**parts)), tmp_path / name)
    shutil.copy(tmp_path / "a" / WEIGHTS, tmp_path / "b" / WEIGHTS)
    with pytest.raises(UserError, match=r"visual.trunk.conv_stem.weight is missing") as error:
        load(tmp_path / "b")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("vision_cfg", "image_size", 64, r"visual.positional_embedding is \[17, 32\] instead of \[65, 32\]"),
        ("text_cfg", "context_length", 10, r"text.positional_embedding is \[20, 16\] instead of \[10, 16\]"),
        ("text_cfg", "context_length", 40, r"text.positional_embedding is \[20, 16\] instead of \[40, 16\]"),
    ],
)
def test_weights_of_another_size_are_not_resized(part, key, value, words, open_clip_folder):
    file = open_clip_folder / CONFIG
    config = json.loads(file.read_text())
    config["model_cfg"][part][key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=words) as error:
        load(open_clip_folder)
    assert "\n" not in str(error.value)


def test_checkpoints_of_older_open_clip_are_read(open_clip_folder, pictures):
    """Half precision, the text tower's weights without `text.`, a scale of one number, numbers of positions."""
    before, file = load(open_clip_folder), open_clip_folder / WEIGHTS
    state = {name.removeprefix("text."): tensor.half() for name, tensor in load_file(file).items()}
    state["logit_scale"] = state["logit_scale"].reshape(1)
    state["text.transformer.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(state, file)
    after = load(open_clip_folder)
    assert after.model.clip.visual.proj.dtype == torch.float32
    np.testing.assert_allclose(after.embed_images(pictures), before.embed_images(pictures), atol=5e-3)
    np.testing.assert_allclose(after.embed_texts(TEXTS), before.embed_texts(TEXTS), atol=5e-3)
    assert after.head.scale == pytest.approx(before.head.scale, rel=1e-2)


def test_a_configuration_that_lacks_a_part(open_clip_folder):
    file = open_clip_folder / CONFIG
    for model_cfg in ([], {"embed_dim": 16, "vision_cfg": {}}):
        file.write_text(json.dumps({"model_cfg": model_cfg}))
        with pytest.raises(UserError, match="no model_cfg with embed_dim, vision_cfg and text_cfg"):
            load(open_clip_folder)


@pytest.mark.parametrize("damage", ["cut", "text", "gone"])
def test_damaged_weights(recipe_of, tmp_path, damage):
    dual.save(dual.build(recipe_of()), tmp_path / "model")
    file = tmp_path / "model" / "open_clip_model.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"not at all")
    with pytest.raises(UserError) as error:
        load(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_export_names_the_hub_and_holds_what_open_clip_fetches(recipe_of, tmp_path, tiny_bert):
    dual.save(dual.build(recipe_of(image={"tower": "timm:test_vit", "size": 48})), tmp_path / "model")
    add_facts(tmp_path / "model", {"trained_on": {"corpus": "c", "path": str(tmp_path)}})
    export(tmp_path / "model", tmp_path / "out", "medweave/tiny")
    assert facts_of(tmp_path / "out")["trained_on"] == {"corpus": "c", "path": None}
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    assert config["text_cfg"]["hf_model_name"] == config["text_cfg"]["hf_tokenizer_name"] == "medweave/tiny"
    assert config["vision_cfg"]["timm_model_name"] == "hf-hub:medweave/tiny"
    files = [file.read_bytes() for file in (tmp_path / "out").iterdir()]
    assert not any(str(place).encode() in file for file in files for place in (tmp_path, tiny_bert))
    assert AutoConfig.from_pretrained(tmp_path / "out").hidden_size == 24
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS)["input_ids"]
    _, architecture, options = load_model_config_from_path(tmp_path / "out")
    assert (architecture, options) == ("test_vit", {"img_size": 48})


def test_a_model_can_be_gone_on_from(recipe_of, tmp_path):
    model = dual.build(recipe_of())
    dual.save(model, tmp_path / "run" / "model")
    again = dual.build(ModelRecipe(start=str(tmp_path / "run")))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    weights = str(tmp_path / "run" / "model")
    other = dual.build(recipe_of(image={"weights": weights}, text={"weights": weights}, head="sigmoid"))
    tokens = model.tokenize(TEXTS)
    torch.testing.assert_close(other.encode_text(tokens), model.encode_text(tokens))
