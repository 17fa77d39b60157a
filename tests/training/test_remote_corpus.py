"""A corpus behind a URL through every stage, on real servers: the batches, weights and figures of a local copy."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medweave.cli import main
from medweave.corpus import fetch, store
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError, UserError
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.leaks import Met
from medweave.evaluation.recipe import EvaluateRecipe
from medweave.evaluation.trainings import trainings_of
from medweave.training.distributed import Ranks, start
from medweave.training.loader import Steps, batches
from medweave.training.loop import train
from medweave.training.run import Run
from medweave.training.work import data_of, prepare

FORK = multiprocessing.get_context("fork")
BLOCK = 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(store, "NEIGHBOURS", BLOCK)


@pytest.fixture
def cli(monkeypatch, capfd):
    """A function of the words of a command to what it printed; it must end with the status that is expected."""

    def run(*words, status=0):
        monkeypatch.setattr(sys, "argv", ["medweave", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capfd.readouterr()
        assert end.value.code == status, shown.err
        return shown.err if status else shown.out

    return run


def weights(run: Run) -> bytes:
    return (run.model / "open_clip_model.safetensors").read_bytes()


def share(steps, step, rank=0, world=1):
    """One process's pixels, texts and numbers of a step."""
    ranks = Ranks(rank, world, torch.device("cpu"))
    own = Steps(steps.corpus, steps.order, steps.captions, steps.look, steps.tokenize, ranks, 1)[step]
    return own.micros[0].pixels, own.micros[0].texts, own.numbers


def killed_at(step: int, recipe) -> None:
    """Train in a process of its own, and kill it once a checkpoint past `step` is there."""
    process = FORK.Process(target=train, args=(recipe,))
    process.start()
    while process.is_alive():
        if any(int(p.stem.split("-")[1]) > step for p in (recipe.train.run / "checkpoints").glob("step-*.pt")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.mark.slow
def test_s3_gives_batches_weights_and_figures_of_a_local_copy(recipe_of, corpus_recipe, bucket, tmp_path, cli):
    url = bucket.put(corpus_recipe.path, "own")
    settings = {"steps": 12, "checkpoint": 2, "validation": {"every": 6}, "workers": 1}

    def recipe(name, corpus=url, **changes):
        return recipe_of(train={**settings, "run": str(tmp_path / name), "corpus": str(corpus), **changes})

    here, far = recipe("local", corpus_recipe.path, mix={"block": BLOCK}), recipe("far")
    ranks = start()
    local, remote = (prepare(r, Run(r.train.run), data_of(r, ranks), ranks).loader for r in (here, far))
    for step in (0, 5, 1000):
        whole = share(local, step)
        for parts in ([share(remote, step)], [share(remote, step, rank, 2) for rank in range(2)]):
            assert torch.equal(whole[0], torch.cat([pixels for pixels, _, _ in parts]))
            assert whole[1] == [text for _, texts, _ in parts for text in texts]
            assert np.array_equal(whole[2], np.concatenate([numbers for _, _, numbers in parts]))

    killed_at(3, far)
    with pytest.raises(RequestError, match=r"another train\.mix\.block"):
        train(recipe("far", corpus_recipe.path))
    runs = [train(here), train(far)]
    assert weights(runs[0]) == weights(runs[1]) and runs[0].counts == runs[1].counts
    facts = json.loads((runs[1].model / "medweave.json").read_text())["facts"]
    assert facts["trained_on"]["path"] == url

    told = []
    for run, corpus in zip(runs, (corpus_recipe.path, url), strict=True):
        kept = tmp_path / "kept" if corpus != url else None
        quick = EvaluateRecipe(draws=100, benchmarks=["corpus-zero-shot", "corpus-probe"], cache=kept)
        told.append([one | {"model": ""} for one in evaluate(str(run.path), corpus=corpus, recipe=quick).results])
    assert told[0] == told[1] and len(told[0]) == 4
    assert not Path("s3:").exists()
    another = shutil.copytree(corpus_recipe.path, tmp_path / "another")
    changed = json.loads((another / "corpus.json").read_text()) | {"hash": "f" * 64}
    (another / "corpus.json").write_text(json.dumps(changed))
    other, numbers = open_corpus(another), np.arange(120)
    met = Met(trainings_of(facts, other), other, numbers)
    assert met.counts(numbers)["bytes"] >= runs[0].counts["training_samples"]

    words = ("evaluate", tmp_path / "far", "evaluate.draws=100", "--out", tmp_path / "again")
    for more in ((), ("--corpus", url), (f"evaluate.corpus={url}",)):
        assert "corpus-zero-shot/lungs" in cli(*words, *more) and (tmp_path / "again" / "report.html").exists()
    assert f"Corpus {url}" in cli("info", url)
    assert cli("preview", url, "--count", 4, "--out", tmp_path / "sheet.html").strip() == str(tmp_path / "sheet.html")
    assert "no such bucket" in cli("info", "s3://medweave-none/own", status=2)
    rows = open_corpus(corpus_recipe.path).index(["shard"])["shard"].to_pylist()
    blocks = {(number // BLOCK, shard) for number, shard in enumerate(rows)}
    fetched = [name for name in bucket.requests() if "shards/" in name]
    assert 0 < len(fetched) <= len(blocks) + 1  # all these commands together; one may have been killed on the way


def test_an_epoch_from_afar_takes_one_request_a_block(recipe_of, corpus_recipe, web, monkeypatch):
    server = web(corpus_recipe.path)
    rows = open_corpus(corpus_recipe.path).index(["split", "shard"]).to_pylist()
    blocks = {(number // BLOCK, row["shard"]) for number, row in enumerate(rows) if row["split"] == "train"}
    monkeypatch.setenv("MEDWEAVE_CACHE_GIB", "2e-4")  # far less than the corpus
    monkeypatch.setattr("medweave.corpus.remote.TRIM_EVERY", 1)

    recipe = recipe_of(train={"corpus": server.url, "steps": 9, "batch": 8, "mix": {"alpha": 1.0}})
    data = data_of(recipe, start())
    assert data.order.block == BLOCK
    asked = {}
    for name, order in (("blocks", data.order), ("samples", replace(data.mix, block=1).order(8, 0))):
        del server.log[:]
        for step in range(9):
            for number in order.numbers(step).tolist():
                data.corpus.read(number)
                data.corpus.fields(number)
        asked[name] = len(server.log)
    assert asked["blocks"] <= len(blocks) < asked["samples"] / 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lost_connection_is_one_line_and_skips_nothing(recipe_of, corpus_recipe, web, monkeypatch, workers):
    monkeypatch.setattr(fetch, "WAITS", (0.0,))
    server = web(corpus_recipe.path)
    settings = {"steps": 8, "checkpoint": 1, "batch": 8, "workers": workers, "validation": {"every": 8}}
    recipe = recipe_of(train={**settings, "corpus": server.url, "keep": "last"})

    answer, lost = server.RequestHandlerClass, []

    def sometimes(*words):
        if sum(asked is not None for _, asked in server.log) >= 8 and not lost:
            server.faults[:] = ["cut"] * 1000
        return answer(*words)

    server.RequestHandlerClass = sometimes
    with pytest.raises(UserError, match=r"cannot be fetched.*the same command goes on") as error:
        train(recipe)
    assert "\n" not in str(error.value)
    lost.append(True)
    server.faults.clear()
    run = train(recipe)
    whole = train(recipe_of(train={**settings, "corpus": server.url, "keep": "last", "run": f"{run.path}-whole"}))
    assert weights(run) == weights(whole) and run.counts == whole.counts and not run.counts["skipped"]


def test_loader_processes_share_what_they_fetch(recipe_of, corpus_recipe, web):
    server = web(corpus_recipe.path)
    recipe = recipe_of(train={"corpus": server.url, "steps": 9, "batch": 8, "mix": {"alpha": 1.0}})
    ranks = start()
    steps = prepare(recipe, Run(recipe.train.run), data_of(recipe, ranks), ranks).loader
    del server.log[:]
    assert len(list(batches(steps, 0, 9, 2, False))) == 9
    assert server.log and len(server.log) == len(set(server.log))
