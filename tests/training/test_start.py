"""What a model was trained on before: by the model that it goes on from, and on a corpus that has grown since."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from medweave.cli import main
from medweave.corpus.build import build
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.leaks import Met
from medweave.evaluation.recipe import EvaluateRecipe, Part
from medweave.evaluation.trainings import trainings_of
from medweave.models.folder import FACTS, facts_of
from medweave.training.loop import train

QUICK = {"draws": 100, "benchmarks": ["corpus-zero-shot"]}


def fold(number):
    return {"overlay": "folds", "fold": number}


@pytest.fixture
def run_of(recipe_of, tmp_path):
    """A function of a name and changes to the `train:` section (and others) to a run of two steps."""

    def make(name, start=None, **settings):
        others = {} if start is None else {"model": {"start": str(start.path)}}
        return train(recipe_of(train={"run": str(tmp_path / name), "steps": 2, **settings}, **others))

    return make


@pytest.fixture
def grown(corpus_recipe, tmp_path):
    """A recipe like the session's, of a corpus and sources of its own."""
    sources = []
    for source in corpus_recipe.sources:
        copy = shutil.copytree(source.path, tmp_path / "sources" / source.name)
        sources.append(source.model_copy(update={"path": copy}))
    recipe = corpus_recipe.model_copy(update={"path": tmp_path / "corpus", "sources": sources})
    build(recipe)
    return recipe


def append(recipe, images):
    """Add images of new patients to the first source, and build on."""
    source = recipe.sources[0]
    for number in range(900, 900 + images):
        noise = np.random.default_rng(number).integers(0, 256, (48, 60), np.uint8)
        Image.fromarray(noise).save(source.path / f"{number}.jpg")
        with (source.path / "manifest.csv").open("a") as file:
            csv.writer(file).writerow([f"{number}.jpg", ("normal", "pneumonia")[number % 2], "", f"new{number}"])
    return build(recipe)


def test_a_fold_that_the_start_was_trained_on_is_refused(run_of, corpus_recipe, tmp_path):
    first = run_of("first", data=fold(0))
    second, third = (run_of(f"then-{n}", first, data=fold(n)) for n in (0, 1))
    before = facts_of(first.model)["trained_on"]
    assert facts_of(third.model)["trained_on"]["before"] == before and "before" not in before
    results = evaluate(second.path, corpus=corpus_recipe.path, recipe=EvaluateRecipe(**QUICK))
    assert {r["fold"] for r in results.results} == {0} and not results.failed
    assert {r["in_domain"] for r in results.results} == {True} and {
        r["leaks_by"]["group"] for r in results.results
    } == {0}
    for data in (None, Part(**fold(0)), Part(**fold(1)), Part()):
        with pytest.raises(RequestError, match=r"test images of .* are images that .* was trained on, which kept fold"):
            evaluate(third.path, corpus=corpus_recipe.path, recipe=EvaluateRecipe(**QUICK, data=data))


def test_a_source_that_only_the_start_was_trained_on_is_in_domain(run_of, corpus_recipe):
    first = run_of("first", data=fold(0))
    second = run_of("second", first, data=fold(0), leave_out=["heads"])
    alone = run_of("alone", data=fold(0), leave_out=["heads"])
    found = {}
    for run in (second, alone):
        results = evaluate(run.path, corpus=corpus_recipe.path, recipe=EvaluateRecipe(**QUICK))
        found[run.path.name] = {r["source"]: r["in_domain"] for r in results.results}
    assert found == {"second": {"lungs": True, "heads": True}, "alone": {"lungs": True, "heads": False}}


def test_a_start_that_says_nothing_of_its_training_leaves_it_unknown(run_of, corpus_recipe):
    first = run_of("first", data=fold(0))
    (first.model / FACTS).unlink()
    second = run_of("second", first, data=fold(0), leave_out=["heads"])
    assert facts_of(second.model)["trained_on"]["before"] is None
    results = evaluate(second.path, corpus=corpus_recipe.path, recipe=EvaluateRecipe(**QUICK))
    assert {r["source"]: r["in_domain"] for r in results.results} == {"lungs": True, "heads": None}


@pytest.mark.parametrize("images", [1, 40])
def test_images_that_are_appended_open_no_fold_that_was_trained_on(run_of, grown, images):
    run = run_of("run", data=fold(1), corpus=str(grown.path))
    before, after = open_corpus(grown.path), append(grown, images)
    assert after.hash != before.hash and len(after) == len(before) + images
    results = evaluate(run.path, corpus=after, recipe=EvaluateRecipe(**QUICK))
    assert {r["fold"] for r in results.results} == {1} and not results.failed
    assert {r["in_domain"] for r in results.results} == {True} and {
        r["leaks_by"]["group"] for r in results.results
    } == {0}
    for data in (Part(**fold(0)), Part()):
        with pytest.raises(RequestError, match=r"was trained on, which kept fold 1 of folds.*data\.fold=1$"):
            evaluate(run.path, corpus=after, recipe=EvaluateRecipe(**QUICK, data=data))

    (training,) = trainings_of(facts_of(run.model), after).trainings
    assert training.samples == len(before) and not training.mask[len(before) :].any()
    (at_first,) = trainings_of(facts_of(run.model), before).trainings
    assert np.array_equal(training.mask[: len(before)], at_first.mask) and at_first.mask.any()


def test_a_corpus_that_has_grown_is_still_known_where_another_is_tested(run_of, grown, corpus_recipe):
    run = run_of("run", data=fold(1), corpus=str(grown.path))
    append(grown, 3)
    other, numbers = under_another_hash(open_corpus(corpus_recipe.path)), np.arange(120)
    known = trainings_of(facts_of(run.model), other)
    (training,) = known.trainings
    assert known.whole and training.corpus is not other and training.samples == 120
    met = Met(known, other, numbers)
    assert met.counts(numbers)["bytes"] >= run.counts["training_samples"] and met.includes(numbers)


def under_another_hash(corpus):
    """The same images as a corpus that nobody has trained on."""
    corpus.hash, corpus.shards = "f" * 64, corpus.shards[:1]
    return corpus


def test_a_corpus_built_anew_at_the_same_place_is_another(run_of, grown):
    run = run_of("run", data=fold(1), corpus=str(grown.path))
    shutil.rmtree(grown.path)
    anew = build(grown.model_copy(update={"seed": 1}))
    known = trainings_of(facts_of(run.model), anew)
    assert known.trainings == [] and not known.whole


@pytest.fixture
def cli(monkeypatch, capsys):
    """A function of the words of a command, that must end well, to what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["medweave", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert end.value.code == 0, shown.err
        return shown.out + shown.err

    return run


def test_the_report_shows_the_corpora_that_were_tested(run_of, grown, corpus_recipe, tmp_path, cli):
    run, tested = run_of("run", corpus=str(grown.path)), open_corpus(corpus_recipe.path)
    trained = append(grown, 1).hash
    page = run.path / "evaluations" / "report.html"
    quick = ["evaluate", run.path, "evaluate.draws=100", "--benchmark", "corpus-zero-shot"]
    cli(*quick)
    assert trained in page.read_text() and "The corpus" in page.read_text()
    cli(*quick, f"evaluate.corpus={corpus_recipe.path}")
    assert tested.hash in page.read_text() and trained not in page.read_text()

    own = {"name": "own", "task": "zero_shot", "data": {"corpus": str(corpus_recipe.path), "source": "lungs"}}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    cli(*quick, "--benchmark", tmp_path / "own.yaml")
    text = page.read_text()
    assert "The corpus" not in text and "test parts of several corpora" in text and "<img" not in text

    shutil.rmtree(grown.path)
    assert f"report: {page}" in cli(*quick[:-1], tmp_path / "own.yaml")
    assert tested.hash in page.read_text() and trained not in page.read_text()
