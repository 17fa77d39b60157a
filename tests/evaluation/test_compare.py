"""Tables of several models."""

import json

import pytest

from medweave.errors import RequestError
from medweave.evaluation.compare import compare
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.recipe import EvaluateRecipe
from medweave.evaluation.statistics import holm

QUICK = EvaluateRecipe(draws=100, confounded=["knee"])


@pytest.fixture
def folders(world, make_model, tmp_path):
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=100)
    world.fill("knee", ["gammitis", "deltopathy"], each=100)
    found = []
    for name, skill in (("weak", 0.1), ("strong", 1.0), ("same", 0.1)):
        model = make_model("weak" if name == "same" else name, skill)
        model.name, model.weights_hash = name, name * 8
        if name == "same":
            model.weights_hash = "weak" * 8
        evaluate(model, None, world, tmp_path / name, QUICK)
        found.append(tmp_path / name)
    return found


def test_a_better_model_is_found_better_and_an_equal_one_is_not(folders):
    table = compare([f"{folder}@corpus-zero-shot" for folder in folders], draws=500)
    assert [row["set"] for row in table.sets] == ["chest", "knee"]
    for row in table.sets + table.macros:
        better, equal = row["metrics"]["macro_auroc"]["differences"]
        assert better["value"] > 0
        assert equal["value"] == 0 and equal["p_holm"] == 1.0
    for row in table.macros:
        better = row["metrics"]["macro_auroc"]["differences"][0]
        assert better["low"] > 0 and better["p_holm"] < 0.05
    assert [row["sets"] for row in table.macros] == [["chest", "knee"], ["chest"]]
    assert "*" in table.text() and "without confounded" in table.text()
    json.dumps(table.as_data(), allow_nan=False)


def test_p_values_are_corrected_over_the_whole_table(folders):
    table = compare([f"{folder}@corpus-zero-shot" for folder in folders], draws=200)
    tests = [d for row in table.sets for d in row["metrics"]["balanced_accuracy"]["differences"]]
    assert [t["p_holm"] for t in tests] == pytest.approx(holm([t["p"] for t in tests]))


def test_prompts_are_compared_with_a_probe_of_another_model(folders):
    table = compare([f"{folders[0]}@corpus-probe", f"{folders[1]}@corpus-zero-shot"], draws=100)
    assert table.columns == ["weak, linear probe", "strong, prompted"]
    assert len(table.sets) == 2 and not table.left_out


def test_sets_with_other_images_are_left_out_and_named(folders, world, make_model, tmp_path):
    world.gone = {4 * 3}  # a test image of the chest set
    evaluate(make_model("late"), None, world, tmp_path / "late", QUICK)
    table = compare([f"{folders[0]}@corpus-probe", f"{tmp_path / 'late'}@corpus-probe"], draws=100)
    assert [row["set"] for row in table.sets] == ["knee"]
    assert table.left_out[0]["set"] == "chest" and "other images" in table.left_out[0]["reason"]


def test_unknown_folders_and_families_are_refused(folders, tmp_path):
    with pytest.raises(RequestError, match=r"results\.json"):
        compare([tmp_path])
    with pytest.raises(RequestError, match="corpus-probe"):
        compare([f"{folders[0]}@corpus-prob"])


def test_a_mean_over_sets_too_small_for_intervals_has_none(world, make_model, tmp_path):
    world.fill("chest", ["alphoma", "betosis"], each=15)
    for name, skill in (("weak", 0.1), ("strong", 1.0)):
        results = evaluate(make_model(name, skill), ["corpus-zero-shot"], world, tmp_path / name, QUICK)
        mean = results.summary["corpus-zero-shot"]["all"]["macro_auroc"]
        assert results.results[0]["no_interval"] and mean["value"] is not None and mean["low"] is None
    table = compare([f"{tmp_path / name}@corpus-zero-shot" for name in ("weak", "strong")], draws=100)
    (difference,) = table.macros[0]["metrics"]["macro_auroc"]["differences"]
    assert difference["value"] is not None and difference["low"] is None and difference["p"] is None
    assert "*" not in table.text()
