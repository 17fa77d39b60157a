"""Folds of several models as one result."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

import medweave
from medweave.errors import RequestError, UserError
from medweave.evaluation.compare import compare
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
    with pytest.raises(RequestError, match="replace those of a fold"):
        pool(folds, tmp_path / "1" / ".." / "1", "over")


def test_pooled_folds_are_compared_and_folds_are_not(folds, tmp_path):
    results = medweave.pool([str(folder) for folder in folds], str(tmp_path / "both"), draws=100)
    assert results.model["name"] == "both"
    assert [fold["name"] for fold in results.model["folds"]] == ["fold 0", "fold 1", "fold 2"]
    single = compare([f"{folder}@corpus-zero-shot" for folder in folds[:2]], draws=100)
    assert not single.sets and all("`medweave pool` first" in one["reason"] for one in single.left_out)
    pooled = compare([f"{tmp_path / 'both'}@corpus-zero-shot", f"{tmp_path / 'both'}@corpus-probe"], draws=100)
    assert [row["n"] for row in pooled.sets] == [90, 40] and not pooled.left_out


def test_folds_of_an_older_version_are_to_be_evaluated_again(folds, tmp_path):
    path = folds[1] / "results.json"
    data = json.loads(path.read_text())
    del data["results"][0]["openings"]
    path.write_text(json.dumps(data))
    with pytest.raises(RequestError, match=r"without 'openings' .*: evaluate again$"):
        pool(folds, tmp_path / "pooled", "old")
