"""Folds of several models as one result."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from medweave.errors import RequestError, UserError
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.pool import pool
from medweave.evaluation.recipe import EvaluateRecipe, Part


@pytest.fixture
def folds(world, make_model, tmp_path):
    """Results of three folds, each with a model and a scale of its own."""
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=30)
    world.fill("knee", ["gammitis", "deltopathy"], each=20)
    ids = pa.array([row["id"] for row in world.rows])
    fold = np.arange(len(world)) // 6 % 3
    world.overlays["folds"] = pa.table({"id": ids, "fold": fold, "inner": np.arange(len(world)) % 7})
    folders = []
    for f in range(3):
        model = make_model(f"fold {f}", skill=0.8)
        model.head.scale = (1.0, 10.0, 100.0)[f]
        recipe = EvaluateRecipe(draws=100, data=Part(overlay="folds", fold=f))
        evaluate(model, None, world, tmp_path / str(f), recipe)
        folders.append(tmp_path / str(f))
    return folders


def test_every_image_is_tested_once_and_ranked_within_its_fold(folds, tmp_path):
    results = pool(folds, tmp_path / "pooled", "three folds", draws=100)
    one = next(r for r in results.results if r["benchmark"] == "corpus-zero-shot/chest")
    assert one["n"] == 90 and one["fold"] == [0, 1, 2]
    told = results.predictions(one)
    assert sorted(told.ids) == sorted(set(told.ids))
    scores = np.exp(told.scores["all"]) / np.exp(told.scores["all"]).sum(1, keepdims=True)
    guess, truth = scores.argmax(1), told.truth.argmax(1)
    assert one["metrics"]["balanced_accuracy"]["value"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    areas = []
    for c in range(3):
        pairs, area = [], []
        for f in range(3):
            mine = told.folds == f
            area.append(sk.roc_auc_score(truth[mine] == c, scores[mine, c]))
            pairs.append((truth[mine] == c).sum() * (truth[mine] != c).sum())
        areas.append(np.average(area, weights=pairs))
    assert one["metrics"]["macro_auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert one["metrics"]["macro_auroc"]["low"] < np.mean(areas) < one["metrics"]["macro_auroc"]["high"]
    assert set(one["spread"]["prompt sets"]["macro_auroc"]["values"]) == {"plain", "report", "signs"}
    assert results.summary["corpus-probe"]["all"]["macro_auroc"]["images"] == 130


def test_an_image_tested_twice_is_refused(folds, tmp_path):
    with pytest.raises(UserError, match="two folds"):
        pool([folds[0], folds[1], folds[0]], tmp_path / "pooled", "twice")
    with pytest.raises(RequestError, match="two folds or more"):
        pool(folds[:1], tmp_path / "pooled", "one")
