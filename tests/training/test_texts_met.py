"""A run with too many captions to draw them first: texts are embedded when they are met, and nothing else changes."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from medweave.models import dual
from medweave.training import texts
from medweave.training.distributed import Ranks
from medweave.training.loop import train
from medweave.training.run import Run
from medweave.training.texts import Growing, computed, kept, read_met, with_more, write_met

ALONE = Ranks(0, 1, torch.device("cpu"))
FORK = multiprocessing.get_context("fork")
ROW = 4 * 24  # bytes
SETTINGS = {"steps": 12, "checkpoint": 2, "ema": 0.9, "validation": {"every": 5}, "workers": 1, "norm": "frozen"}


@pytest.fixture
def model(recipe_of):
    return dual.build(recipe_of(text={"freeze": True}).model)


def begun(model, tmp_path, rows=100):
    return Growing(model, kept(model, ["chest", "head"], tmp_path / "texts.safetensors", ALONE), rows * ROW)


def test_a_text_is_embedded_once_while_there_is_room(model, tmp_path, monkeypatch):
    seen = []
    pooled = begun(model, tmp_path, rows=3)
    monkeypatch.setattr(texts, "computed", lambda m, t: seen.append(list(t)) or computed(m, t))
    asked = ["lung", "head", "x ray", "lung"]
    for _ in range(2):
        assert torch.allclose(pooled(asked), computed(model, asked), atol=1e-5)
    assert seen == [["lung", "x ray"]]
    more = ["ct", "scan of head", "chest"]
    for _ in range(2):
        assert torch.allclose(pooled(more), computed(model, more), atol=1e-5)
    assert seen[1:] == [["ct", "scan of head"], ["scan of head"]], "one row was left"
    assert list(pooled.place) == ["chest", "head", "lung", "x ray", "ct"] and len(pooled.rows) == 5
    assert torch.equal(with_more(pooled, model, ["normal", "ct"])(asked), pooled(asked))


def test_a_bank_may_be_empty(model, tmp_path):
    pooled = Growing(model, kept(model, [], tmp_path / "texts.safetensors", ALONE), 100 * ROW)
    assert torch.allclose(pooled(["lung", "head"]), computed(model, ["lung", "head"]), atol=1e-5)


def test_what_was_met_up_to_a_step_comes_back(model, tmp_path):
    pooled = begun(model, tmp_path)
    states = {}
    for step, asked in enumerate((["lung"], ["lung", "x ray"], ["head"], ["ct", "scan"])):
        pooled(asked)
        write_met(pooled, tmp_path, ALONE, step)
        states[step] = list(pooled.place), pooled.rows.clone()
    for step, (known, rows) in states.items():
        again = begun(model, tmp_path)
        read_met(again, tmp_path, ALONE, step)
        assert list(again.place) == known and torch.equal(again.rows, rows)
    assert len(list(tmp_path.glob("texts-0-*"))) == 3, "where nothing is new there is no file"
    read_met(again, tmp_path, Ranks(1, 2, torch.device("cpu")), 3)
    assert torch.equal(again.rows, rows)


@pytest.mark.parametrize("rows", [7, 10_000])
def test_a_killed_run_ends_with_the_same_bytes(recipe_of, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(texts, "MOST_DRAWN", 0)
    monkeypatch.setattr(texts, "ROOM", rows * ROW)

    def recipe(name):
        menu = {"objectives": [{"kind": "menu"}, {"kind": "contrastive"}], "head_start": {"steps": 4, "batch": 24}}
        return recipe_of(train={**SETTINGS, **menu, "run": str(tmp_path / name)}, text={"freeze": True})

    whole = train(recipe("whole"))
    for past in (3, 7):
        _kill_after(past, lambda: train(recipe("killed")), tmp_path / "killed")
    killed = train(recipe("killed"))
    assert _weights(killed.path).read_bytes() == _weights(whole.path).read_bytes()
    assert list(killed.log("validation")) == list(whole.log("validation"))
    assert not list(killed.checkpoints.iterdir())


def test_it_is_the_run_that_draws_its_captions_first(recipe_of, together, tmp_path, monkeypatch):
    runs = {"first": (2**19, 1, 1), "met": (0, 1, 1), "accumulated": (0, 1, 4), "two": (0, 2, 1)}
    for name, (most, world, accumulate) in runs.items():
        monkeypatch.setattr(texts, "MOST_DRAWN", most)
        settings = {**SETTINGS, "run": str(tmp_path / name), "accumulate": accumulate, "keep": "last"}
        recipe = recipe_of(train=settings, text={"freeze": True})
        together(world, lambda recipe=recipe: train(recipe))
    first = load_file(_weights(tmp_path / "first"))
    for name in runs:
        for key, value in load_file(_weights(tmp_path / name)).items():
            assert torch.allclose(value.float(), first[key].float(), atol=1e-4), (name, key)


def _weights(run):
    return run / "model" / "open_clip_model.safetensors"


def _kill_after(step, work, folder):
    """Run `work` in a process of its own and kill it once a checkpoint past `step` is there."""
    process = FORK.Process(target=work)
    process.start()
    while process.is_alive() and not any(int(p.stem[5:]) > step for p in (folder / "checkpoints").glob("step-*.pt")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL and not Run(folder).finished, "the run ended before it could be killed"
