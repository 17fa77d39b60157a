"""What a GPU must give: the CPU's losses and weights; in bf16, compiled, or on two GPUs what is near them.

Run by `make test-gpu`.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from medweave.corpus.store import open_corpus
from medweave.features.extract import extract
from medweave.models.load import load
from medweave.recipe import as_data
from medweave.training.distributed import Ranks
from medweave.training.loop import train
from medweave.training.run import Run
from medweave.training.work import data_of, prepare

ASKED = "MEDWEAVE_GPU_TESTS" in os.environ
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not ASKED, reason="`make test-gpu` runs these, on a CUDA device")]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PLAIN = [{"kind": "menu", "captions": 2}, {"kind": "contrastive", "targets": "label"}]
TAUGHT = [*PLAIN, {"kind": "feature"}, {"kind": "affinity"}, {"kind": "relation", "which": "all"}]
MORE = [{"kind": "interactive"}, {"kind": "answer", "captions": 2}, {"kind": "mmkd"}]
STILL = {"augment": None, "precision": "fp32", "norm": "frozen", "keep": "last", "log": 1}


@pytest.fixture(autouse=True)
def exactly(monkeypatch):
    """A device, and float32 as the CPU has it."""
    assert torch.cuda.is_available(), "no CUDA device: there is nothing to compare with the CPU"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def rows_folder(recipe_of, corpus_recipe, tmp_path):
    """Stored rows of a small run, as teacher `one`."""
    run = train(recipe_of(train={**STILL, "run": str(tmp_path / "teacher"), "objectives": PLAIN}))
    extract(open_corpus(corpus_recipe.path), str(run.model), "one", root=tmp_path / "rows")
    return tmp_path / "rows"


def on(device, recipe, monkeypatch):
    """The losses of the recipe's run on a device, step by step, and the rows of its model for two texts."""
    with monkeypatch.context() as patched:
        if device == CPU:
            patched.setattr("torch.cuda.is_available", lambda: False)
        run = train(recipe)
        losses = [line["losses"] for line in run.log("train")]
        return losses, load(run.model).embed_texts(["a chest X-ray", "a head"])


def near(ours, theirs, share):
    """Whether two runs' losses agree to a share of their size."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=share, abs=share), name


def test_a_run_is_that_of_the_cpu(recipe_of, rows_folder, monkeypatch, tmp_path):
    found = {}
    for device in (CPU, CUDA):
        teachers = {"rows": ["one"], "folder": str(rows_folder)}
        ways = {"head_start": {"steps": 4, "batch": 24}, "head_finish": {"steps": 4, "batch": 24}, "ema": 0.9}
        settings = {"teachers": teachers, "objectives": [*TAUGHT, *MORE], "run": str(tmp_path / device.type)}
        found[device] = on(device, recipe_of(train={**STILL, **ways, **settings}), monkeypatch)
    near(found[CUDA][0], found[CPU][0], 1e-3)
    np.testing.assert_allclose(found[CUDA][1], found[CPU][1], atol=1e-3)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"compile": True}, {"workers": None}])
def test_other_ways_are_near(recipe_of, monkeypatch, tmp_path, changes):
    plain, _ = on(CUDA, recipe_of(train={**STILL, "objectives": PLAIN, "run": str(tmp_path / "plain")}), monkeypatch)
    settings = {**STILL, "objectives": PLAIN, "run": str(tmp_path / "other"), **changes}
    near(on(CUDA, recipe_of(train=settings), monkeypatch)[0], plain, 0.05)


def test_what_arrives_is_on_the_device(recipe_of, rows_folder):
    settings = {"teachers": {"rows": ["one"], "folder": str(rows_folder)}, "objectives": TAUGHT}
    recipe, ranks = recipe_of(train={**STILL, **settings}), Ranks(0, 1, CUDA)
    work = prepare(recipe, Run(recipe.train.run), data_of(recipe, ranks), ranks)
    batch = work.batch(work.data.order, work.loader[0])
    assert {value.device for value in (batch.rows["one"].gate, batch.rows["one"].image)} == {CUDA}
    assert all(parameter.device == CUDA for parameter in [*work.model.parameters(), *work.objectives.parameters()])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_processes_over_nccl_are_one(recipe_of, monkeypatch, tmp_path):
    plain, _ = on(CUDA, recipe_of(train={**STILL, "objectives": PLAIN, "run": str(tmp_path / "plain")}), monkeypatch)
    file = tmp_path / "recipe.yaml"
    recipe = recipe_of(train={**STILL, "objectives": PLAIN, "run": str(tmp_path / "two")})
    file.write_text(yaml.safe_dump(json.loads(json.dumps(as_data(recipe)))))
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*two, "-m", "medweave", "train", str(file)], check=True, env=dict(os.environ), timeout=300)
    near([line["losses"] for line in Run(tmp_path / "two").log("train")], plain, 1e-4)


def test_rows_do_not_depend_on_their_batch(recipe_of, tmp_path):
    encoder = load(train(recipe_of(train={**STILL, "objectives": PLAIN})).model)
    torch.backends.cudnn.allow_tf32 = True
    pictures = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3), dtype=np.uint8)
    rows = encoder.embed_images(list(pictures))
    np.testing.assert_allclose(encoder.embed_images(list(pictures), batch=2), rows, atol=1e-6)
    on_cpu = load(tmp_path / "run" / "model", device="cpu").embed_images(list(pictures))
    np.testing.assert_allclose(rows, on_cpu, atol=1e-5)
    assert torch.backends.cudnn.allow_tf32
