"""Validation figures in training agree with the whole evaluation."""

import numpy as np
import pytest

from medweave.corpus.captions.bank import Bank
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.parts import numbers_of
from medweave.evaluation.quick import QuickZeroShot, quick_zero_shot, score_rows
from medweave.evaluation.recipe import EvaluateRecipe, Part


def test_figures_are_those_of_an_evaluation_of_the_same_images(world, make_model, tmp_path):
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=60, noise=2.0)
    world.fill("knee", ["gammitis", "deltopathy"], each=60, noise=2.0)
    model = make_model()
    numbers = numbers_of(world, Part(), "validation")
    found = quick_zero_shot(model, world, numbers, Bank.load())
    part = Part(test="validation", validation="test")
    results = evaluate(model, ["corpus-zero-shot"], world, tmp_path, EvaluateRecipe(draws=100, data=part)).results
    for result in results:
        for name, value in found["sources"][result["source"]].items():
            assert value == pytest.approx(result["metrics"][name]["value"], abs=1e-6)
    assert found["macro_auroc"] == pytest.approx(np.mean([r["metrics"]["macro_auroc"]["value"] for r in results]))


def test_rows_that_are_already_there_are_all_it_needs(world, model):
    world.fill("chest", ["alphoma", "betosis"], each=20)
    world.add("alone", {"gammitis": "present"})
    quick = QuickZeroShot(world, np.arange(len(world)), Bank.load())
    assert quick.numbers.tolist() == list(range(40))
    images = model.embed_images([world.read(n) for n in quick.numbers])
    assert quick.figures(images, model.embed_texts(quick.texts), 10.0)["balanced_accuracy"] > 0.8


def test_nothing_labelled_gives_none(world, model):
    world.add("captions", {})
    assert quick_zero_shot(model, world, np.array([0]), Bank.load())["macro_auroc"] is None


def test_multi_label_rows_have_no_accuracy():
    rows = np.eye(3, dtype=np.float32)
    truth = np.array([[1, 1], [0, 1], [0, 0]], np.int8)
    assert set(score_rows(rows, rows[:2], truth, True, 1.0)) == {"macro_auroc"}
