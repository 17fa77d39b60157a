"""The verb: several teachers, counts said aloud, one line and an exit status for what fails."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from medweave.cli import main
from medweave.errors import RequestError
from medweave.features.run import run
from medweave.features.store import open_features
from medweave.features.texts import bank_captions
from medweave.models import dual
from medweave.models.load import load
from medweave.models.recipe import ModelRecipe
from medweave.models.teachers.catalogue import card
from medweave.recipe import as_data


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two model folders of tiny towers."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("teachers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest", "head", "scan", "normal", "pneumonia", "with", "of"]
    (folder / "bert").mkdir()
    (folder / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(folder / "bert" / "vocab.txt")).save_pretrained(folder / "bert")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=40, **sizes)).save_pretrained(folder / "bert")
    for seed, name in enumerate(("first", "second")):
        tree = {"image": {"tower": "timm:test_resnet", "size": 32}, "embed": 12}
        tree["text"] = {"tower": f"transformers:{folder / 'bert'}", "context": 16}
        dual.save(dual.build(ModelRecipe.model_validate(tree), seed), folder / name)
    return folder


def test_every_teacher_has_its_line_and_a_bad_one_stops_no_other(corpus, teachers):
    outcomes = list(run(corpus.path, [str(teachers / "first"), "nowhere:x", str(teachers / "second")], 1, workers=1))
    assert [outcome.status for outcome in outcomes] == [0, 2, 0]
    assert "first: rows of width 12 of 44 images in 2 views, 38 texts" in outcomes[0].text
    assert "covers" in outcomes[0].text and "8 shards made now" in outcomes[2].text
    encoder, features = load(teachers / "second"), open_features(corpus, "second")
    at = np.array([20])
    np.testing.assert_allclose(features.image(at), encoder.embed_images(corpus.read(20)), atol=2e-3)


@pytest.fixture
def shell(corpus, monkeypatch, capsys):
    """A function of words of the command line to (exit status, standard output, standard error)."""

    def call(*words, **environment):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["medweave", "features", str(corpus.path), *words, "--workers", "1"])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                main()
            except SystemExit as end:
                return (int(end.code or 0), *capsys.readouterr())
        raise AssertionError("main ends with an exit status")

    return call


def test_the_command_line(corpus, teachers, shell):
    first, second = (str(teachers / name) for name in ("first", "second"))
    for rank in (1, 0):
        status, said, _ = shell("--teacher", first, "--int8", RANK=str(rank), WORLD_SIZE="2")
        assert status == 0 and ("4 shards are left to other processes" in said) == (rank == 1)
    assert open_features(corpus, "first").stamp.dtype == "int8"
    status, said, wrong = shell("--teacher", first, "--teacher", second)
    assert status == 2 and "second: rows of width 12" in said and "rows with other numbers lie there" in wrong
    status, said, _ = shell("--teacher", first, "--replace")
    assert status == 0 and open_features(corpus, "first").stamp.dtype == "float16" and "covers" in said
    assert shell("--teacher", first, "--views", "-1")[0] == 2
    assert shell()[0] == 2


def test_rows_may_have_another_name_than_their_model(corpus, teachers, shell, tmp_path):
    twin = shutil.copytree(teachers / "second", tmp_path / "first=1" / "first")
    first = str(teachers / "first")
    status, _, wrong = shell("--teacher", first, "--teacher", str(twin), "--replace")
    assert status == 2 and "2 teachers are called 'first'" in wrong and "NAME=REFERENCE" in wrong
    assert len(wrong.strip().splitlines()) == 1 and not (corpus.path / "features").exists()
    assert shell("--teacher", first, "--teacher", f"twin={twin}")[0] == 0
    assert open_features(corpus, "first", load(first)) and open_features(corpus, "twin", load(twin))
    assert open_features(corpus, "twin").stamp.teacher.reference == str(twin)


def test_two_cards_of_one_name_are_refused(corpus, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(as_data(card("biomedclip")) | {"name": "mine"}))
    cards = [f"teacher:{tmp_path / name}.yaml@nowhere" for name in ("one", "two")]
    with pytest.raises(RequestError, match="2 teachers are called 'mine'"):
        list(run(corpus.path, cards))


def test_captions_of_corrected_labels_and_of_further_banks_get_rows(corpus, teachers, shell, tmp_path):
    (tmp_path / "labels.csv").write_text(f"id,finding,state\n{corpus.fields(0)['id']},pneumothorax,present\n")
    corpus.write_labels(tmp_path / "labels.csv", "fixed")
    entry = {"modality": "xray", "anatomy": "chest", "finding": "pneumonia", "captions": ["a lung of our own words"]}
    (tmp_path / "bank.yaml").write_text(json.dumps([entry]))
    first, bank = str(teachers / "first"), tmp_path / "bank.yaml"
    wanted = set(bank_captions(corpus.with_labels("fixed"), [bank]))
    assert shell("--teacher", first)[0] == 0
    assert not wanted <= open_features(corpus, "first").captions.keys()
    assert shell("--teacher", first, "--labels", "fixed", "--bank", str(bank))[0] == 0
    assert wanted <= open_features(corpus, "first").captions.keys() and "a lung of our own words" in wanted
    assert shell("--teacher", first, "--labels", "other")[0] == 2
    assert shell("--teacher", first, "--bank", str(tmp_path / "none.yaml"))[0] == 2
