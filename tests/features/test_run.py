"""The verb: several teachers, counts said aloud, one line and an exit status for what fails."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from medweave.features.run import run
from medweave.features.store import open_features
from medweave.models import dual
from medweave.models.load import load
from medweave.models.recipe import ModelRecipe


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


@pytest.mark.slow
def test_the_command_line(corpus, teachers):
    def shell(*words, **more):
        command = [sys.executable, "-m", "medweave", "features", str(corpus.path), *words]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    first = str(teachers / "first")
    for rank in (1, 0):
        shown = shell("--teacher", first, "--int8", "--workers", "1", RANK=str(rank), WORLD_SIZE="2")
        assert shown.returncode == 0, shown.stderr
        assert ("4 shards are left to other processes" in shown.stdout) == (rank == 1)
    assert open_features(corpus, "first").stamp.dtype == "int8"
    shown = shell("--teacher", first, "--teacher", str(teachers / "second"), "--workers", "1")
    assert shown.returncode == 2 and "second: rows of width 12" in shown.stdout
    assert "rows with other numbers lie there" in shown.stderr and "Traceback" not in shown.stderr
    shown = shell("--teacher", first, "--replace", "--workers", "1")
    assert shown.returncode == 0 and open_features(corpus, "first").stamp.dtype == "float16"
    assert shell("--teacher", first, "--views", "-1").returncode == 2
