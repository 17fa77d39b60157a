"""Tables of several models."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medweave.errors import RequestError
from medweave.evaluation import predictions, scoring
from medweave.evaluation.compare import compare, distinguishing
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.recipe import EvaluateRecipe, Part
from medweave.evaluation.results import Results, load
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


def stored(folder, skill, sets):
    """Results of a model, named as its folder, on sets of 60 images in two classes: skill 0 guesses."""
    results = Results(folder, {"name": folder.name})
    truth = np.eye(2, dtype=np.int8)[np.arange(60) % 2]
    for number in range(sets):
        names = np.array([f"{number}/{n:02d}" for n in range(60)])
        logits = skill * truth + np.random.default_rng(number).standard_normal((60, 2))
        told = predictions.Predictions(["a", "b"], False, names, names, np.zeros(60, int), truth, {"all": logits})
        facts = {"benchmark": f"b/{number}", "family": "b", "source": f"set {number}", "title": "prompted"}
        facts |= {"modality": "ct", "confounded": False, "fold": None}
        predictions.write(told, folder / facts["benchmark"] / "predictions.parquet")
        results.results.append(facts | scoring.numbers(told, 100, 0))
    results.write(100, 0)
    return folder


def test_of_many_sets_and_models_those_that_differ_are_starred(tmp_path):
    folders = [stored(tmp_path / name, skill, 14) for name, skill in (("weak", 0), ("good", 2.5), ("same", 0))]
    table = compare(folders)
    assert (table.tests, table.draws) == (28, 1000) and table.too_few_draws is None
    for row in table.sets:
        better, equal = row["metrics"]["macro_auroc"]["differences"]
        assert better["p_holm"] < 0.05 and equal["p_holm"] == 1.0
    assert table.text().count("*") >= 14
    few = compare(folders[:2])
    assert few.draws_of_p == few.draws == 1000
    for row, other in zip(table.sets + table.macros, few.sets + few.macros, strict=True):
        for metric, found in row["metrics"].items():
            alone = other["metrics"][metric]
            assert found["values"][:2] == alone["values"]
            ends = [[one["differences"][0][end] for end in ("value", "low", "high")] for one in (found, alone)]
            assert ends[0] == ends[1]


def test_more_draws_of_p_are_those_of_a_table_of_as_many(tmp_path):
    folders = [stored(tmp_path / name, skill, 14) for name, skill in (("weak", 0), ("fair", 0.5), ("good", 1.0))]
    table = compare(folders)
    asked = compare(folders, draws=table.draws_of_p)
    assert asked.draws_of_p == table.draws_of_p == 2 * 40 * 28
    for rows in ("sets", "macros"):
        for row, other in zip(getattr(table, rows), getattr(asked, rows), strict=True):
            for metric, found in row["metrics"].items():
                pairs = zip(found["differences"], other["metrics"][metric]["differences"], strict=True)
                assert all(mine["p"] == theirs["p"] for mine, theirs in pairs)


def test_a_table_where_no_star_is_possible_says_so(tmp_path):
    table = compare([stored(tmp_path / name, 1, 2) for name in "abc"], draws=100)
    assert table.draws_of_p == 2 * 40 * 4 and "--draws" not in table.text()
    wide = replace(table, draws_of_p=20_000, tests=501)
    assert "501 tests need 20040 draws, not 20000; give --draws 20040" in wide.text()


def test_a_folder_where_everything_failed_is_refused_with_the_first_reason(tmp_path):
    sound = stored(tmp_path / "sound", 1, 2)
    for name, more, said in (
        ("a", {"failed": [{"benchmark": "x", "reason": "no such corpus"}]}, "x failed, no such corpus"),
        ("b", {"skipped": [{"benchmark": "y", "reason": "no labelled image"}]}, "y was skipped, no labelled image"),
        ("c", {}, "nothing was evaluated"),
    ):
        Results(tmp_path / name, {"name": name}, **more).write(100, 0)
        for references in ([tmp_path / name], [sound, tmp_path / name], [f"{tmp_path / name}@x"]):
            with pytest.raises(RequestError, match=f"{said}.*{tmp_path / name}") as error:
                compare(references)
            assert "\n" not in str(error.value)


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for arm in ("local-images", "local-plain"):
        stored(tmp_path / arm / "0", 1, 2).rename(tmp_path / arm / "evaluations")
    other = stored(tmp_path / "other", 1, 2)
    folders = [tmp_path / arm / "evaluations" for arm in ("local-images", "local-plain")]
    assert compare([*folders, other], draws=100).columns == ["local-images: 0", "local-plain: 0", "other"]
    table = compare([f"{folder}@b" for folder in folders], draws=100)
    assert table.columns == ["local-images: 0, prompted", "local-plain: 0, prompted"]
    assert all(column in table.text() for column in table.columns)
    assert compare([folders[0], folders[0]], draws=100).columns == ["0", "0"], "one folder is one model"


def test_the_part_that_tells_folders_apart_is_as_long_as_it_must_be():
    def told(*folders):
        return list(distinguishing([Path(folder) for folder in folders]).values())

    assert told("/runs/a/0", "/runs/b/0") == ["a", "b"]
    assert told("/runs/a/0", "/runs/a/1") == ["0", "1"]
    assert told("/a/x/0", "/b/x/0", "/a/y/0") == ["a/x", "b/x", "a/y"]
    assert told("/0", "/runs/0") == ["/", "runs"]


def test_a_long_name_is_shown_whole(tmp_path):
    folders = [stored(tmp_path / ("a model with a name of many words, the " + end), 1, 1) for end in ("1st", "2nd")]
    lines = compare(folders, draws=100).text().splitlines()
    assert all(folder.name in lines[1] for folder in folders)
    assert lines[2].index("+0.000") < lines[1].index(folders[1].name) + 30


def test_folds_of_one_model_are_said_to_be_pooled_first(world, make_model, tmp_path):
    world.fill("chest", ["alphoma", "betosis"], each=30)
    folders = []
    for name, part in (("first", None), ("second", Part(validation="test", test="validation"))):
        evaluate(
            make_model(name), ["corpus-zero-shot"], world, tmp_path / name, QUICK.model_copy(update={"data": part})
        )
        folders.append(tmp_path / name)
    (left,) = compare(folders, draws=100).left_out
    assert "other images" in left["reason"] and "medweave pool" not in left["reason"]
    change(folders[1], lambda result: result | {"fold": 1})
    (left,) = compare(folders, draws=100).left_out
    assert "`medweave pool` first" in left["reason"]


def change(folder, new):
    """Write each result of a folder anew."""
    data = json.loads((folder / "results.json").read_text())
    data["results"] = [new(result) for result in data["results"]]
    (folder / "results.json").write_text(json.dumps(data))


@pytest.mark.parametrize("wrong", [[], {}, "x", {"model": {"name": "x"}, "rows": []}, None])
def test_what_is_no_results_file_is_refused(tmp_path, wrong):
    (tmp_path / "results.json").write_text(json.dumps(wrong))
    with pytest.raises(RequestError, match=r"not the results of an evaluation .*results\.json"):
        compare([tmp_path])


@pytest.mark.parametrize("wrong", [{"results": None}, {"results": ["x"]}, {"model": "x"}])
def test_results_of_a_wrong_form_are_refused(tmp_path, wrong):
    data = json.loads((stored(tmp_path, 1, 1) / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(data | wrong))
    with pytest.raises(RequestError, match="not the results of an evaluation"):
        compare([tmp_path])


@pytest.mark.parametrize("key", ["title", "family", "source", "fold", "multi_label"])
def test_results_of_an_older_version_are_to_be_made_again(tmp_path, key):
    stored(tmp_path, 1, 2)
    change(tmp_path, lambda result: {name: value for name, value in result.items() if name != key})
    with pytest.raises(RequestError, match=rf"older version, without '{key}' .*: evaluate again$"):
        compare([tmp_path])


def test_the_mean_of_sets_with_several_labels_is_their_average_precision(world, model, tmp_path):
    random = np.random.default_rng(0)
    for n in range(200):
        states = {name: ("absent", "present")[int(random.random() < 0.4)] for name in ("alphoma", "betosis")}
        world.add("eyes", states, split=("train", "test")[n % 2])
    results = evaluate(model, ["corpus-zero-shot"], world, tmp_path / "out", QUICK)
    (mean,) = [line for line in results.text().splitlines() if "mean of all" in line]
    precision = load(tmp_path / "out").summary["corpus-zero-shot"]["all"]["macro_ap"]["value"]
    assert f"{precision:.3f} [" in mean and " - " not in mean
