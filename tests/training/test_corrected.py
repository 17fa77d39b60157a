"""Planted wrong labels that an overlay corrects: training and evaluation are those of a corpus with the right ones."""

import csv
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from medweave.corpus.build import build
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.evaluation.benchmark import load
from medweave.evaluation.cases import cases
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.recipe import EvaluateRecipe, Part
from medweave.training.distributed import start
from medweave.training.loop import train
from medweave.training.recipe import Recipe
from medweave.training.run import Run
from medweave.training.work import data_of, prepare

PLANTED = range(0, 60, 7)  # images of lungs that are called what they are not
OTHER = {"normal": "pneumonia", "pneumonia": "normal"}


@pytest.fixture(scope="module")
def corpora(corpus_recipe, tmp_path_factory):
    """The same images, split by hash: with the right labels; with wrong ones and the overlay `corrected`."""
    folder = tmp_path_factory.mktemp("corrected")
    by_hash = corpus_recipe.split.model_copy(update={"kind": "hash"})
    recipe = corpus_recipe.model_copy(update={"split": by_hash, "folds": None, "path": folder / "right"})
    right, (lungs, heads) = build(recipe), recipe.sources
    copy = shutil.copytree(lungs.path, folder / "lungs")
    header, *rows = csv.reader((copy / "manifest.csv").read_text().splitlines())
    told = [(f"lungs/{at:03}", rows[at][1]) for at in PLANTED]
    for at in PLANTED:
        rows[at][1] = OTHER[rows[at][1]]
    with (copy / "manifest.csv").open("w") as file:
        csv.writer(file).writerows([header, *rows])
    wrong = build(recipe.model_copy(update={"path": folder / "wrong", "sources": [_at(lungs, copy), heads]}))
    with (folder / "corrected.csv").open("w") as file:
        states = [
            (i, name, state) for i, label in told for name, state in ((label, "present"), (OTHER[label], "absent"))
        ]
        csv.writer(file).writerows([("id", "finding", "state"), *states])
    assert wrong.write_labels(folder / "corrected.csv", "corrected") == 2 * len(PLANTED)
    return right, wrong


def _at(source, path):
    return source.model_copy(update={"path": type(source.path)(path)})


@pytest.fixture
def recipe_at(recipe_of):
    """A function of a corpus and changes to its training recipe."""
    menu = {"objectives": [{"kind": "menu"}, {"kind": "contrastive", "targets": "label"}]}

    def make(corpus, **train) -> Recipe:
        return recipe_of(train={**menu, "corpus": str(corpus.path), **train})

    return make


def told(data, loader):
    """Everything of some steps that labels decide: findings, captions, targets."""
    batches = [data.batch(data.order.numbers(step), loader.menu) for step in range(5)]
    return {
        "findings": data.findings,
        "captions": [loader.texts(step) for step in range(5)],
        "texts": [micro.texts for step in range(5) for micro in loader[step].micros],
        "labels": [batch.labels for batch in batches],
        "truth": torch.cat([batch.truth for batch in batches]).tolist(),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_targets_and_captions_are_those_of_the_right_labels(corpora, recipe_at, workers):
    ranks, found = start(), {}
    right, wrong = corpora
    assert right.index(["id", "split"]).equals(wrong.index(["id", "split"]))
    asked = {"right": (right, None), "wrong": (wrong, None), "corrected": (wrong, "corrected")}
    for name, (corpus, labels) in asked.items():
        recipe = recipe_at(corpus, labels=labels, workers=workers)
        data = data_of(recipe, ranks)
        found[name] = told(data, prepare(recipe, Run(recipe.train.run), data, ranks).loader)
    assert found["corrected"] == found["right"]
    assert all(found["wrong"][what] != found["right"][what] for what in ("captions", "labels", "truth"))


def as_told(case):
    parts = [(items.numbers.tolist(), items.truth.tolist()) for items in (case.train, case.validation)]
    return case.name, case.classes, case.multi, parts, case.test.numbers.tolist(), case.test.labels_hash


def test_cases_are_those_of_the_right_labels(corpora):
    right, wrong = corpora
    made = [
        list(map(as_told, cases(load("corpus-zero-shot"), corpus, Part())))
        for corpus in (right, wrong.with_labels("corrected"), wrong)
    ]
    assert made[0] == made[1] != made[2] and len(made[0]) == 2


def test_a_run_and_its_results_name_the_overlays_that_they_rest_on(corpora, recipe_at, tmp_path):
    _, built = corpora
    corpus = open_corpus(shutil.copytree(built.path, tmp_path / "corpus"))
    ids = corpus.index(["id"])["id"]
    inner = np.arange(len(ids)) // 2 % 3
    corpus.write_overlay("folds", pa.table({"id": ids, "fold": np.arange(len(ids)) // 6 % 2, "inner": inner}))
    folds, hashes = {"overlay": "folds", "fold": 1}, corpus.overlay_hashes("corrected", "folds")
    run = train(recipe_at(corpus, labels="corrected", data=folds, steps=2))
    assert run.facts["asked"]["inputs"]["overlay corrected"] == hashes["overlay corrected"]
    asked = EvaluateRecipe(draws=100, labels="corrected", benchmarks=["corpus-zero-shot"])
    first = evaluate(run.path, corpus=corpus, recipe=asked, out=tmp_path / "out")
    assert first.results and not first.failed
    assert all(hashes.items() <= result["inputs"].items() for result in first.results)
    plain = evaluate(run.path, corpus=corpus, recipe=asked.model_copy(update={"labels": None}), out=tmp_path / "plain")
    assert "overlay corrected" not in plain.results[0]["inputs"]
    assert plain.results[1]["inputs"]["labels"] != first.results[1]["inputs"]["labels"]

    table = corpus.overlay("corrected")
    corpus.write_labels(_csv(tmp_path / "fewer.csv", table.slice(2).to_pylist()), "corrected")
    with pytest.raises(RequestError, match="another overlay corrected"):
        train(recipe_at(corpus, labels="corrected", data=folds, steps=2))
    again = evaluate(run.path, corpus=corpus, recipe=asked, out=tmp_path / "out")
    assert again.results[0]["inputs"]["overlay corrected"] == corpus.overlay_hash("corrected")
    with pytest.raises(RequestError, match="did you mean corrected"):
        train(recipe_at(corpus, labels="correct", run=str(tmp_path / "other")))
    failed = evaluate(
        run.path, corpus=corpus, recipe=asked.model_copy(update={"labels": "correct"}), out=tmp_path / "no"
    )
    assert "did you mean corrected" in failed.failed[0]["reason"]


def _csv(path, rows):
    with path.open("w") as file:
        csv.writer(file).writerows([("id", "finding", "state"), *(tuple(row.values()) for row in rows)])
    return path
