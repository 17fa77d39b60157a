"""The harness: what is written, resumed, counted and survived."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from medweave.errors import RequestError
from medweave.evaluation import predictions, scoring
from medweave.evaluation.benchmark import Benchmark, listing
from medweave.evaluation.evaluate import evaluate, evaluated, recipe_of
from medweave.evaluation.recipe import EvaluateRecipe, Part
from medweave.evaluation.results import load
from medweave.evaluation.tasks import zero_shot

KEYS = {
    "benchmark",
    "task",
    "model",
    "n",
    "groups",
    "metrics",
    "per_class",
    "chance",
    "majority",
    "leaks",
    "inputs",
    "published",
}
QUICK = EvaluateRecipe(draws=100)
PROMPT = "A picture of alphoma, X-ray of the chest."


@pytest.fixture
def filled(world):
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=60)
    world.fill("knee", ["gammitis", "deltopathy"], each=50)
    return world


def test_results_hold_what_the_design_lists(filled, model, tmp_path):
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert not results.failed and len(results.results) == 2
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    one = stored["results"][0]
    assert set(one) >= KEYS
    assert one["benchmark"] == "corpus-zero-shot/chest" and one["n"] == 36
    for name in ("macro_auroc", "balanced_accuracy"):
        value = one["metrics"][name]
        assert value["low"] <= value["value"] <= value["high"]
        assert value["value"] > 0.8
    assert one["chance"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert one["majority"]["accuracy"] == pytest.approx(1 / 3)
    assert set(one["spread"]["prompt sets"]["macro_auroc"]["values"]) == {"plain", "report", "signs"}
    assert one["leaks"] is None and one["openings"] == 1
    assert one["per_class"]["alphoma"]["n"] == 12
    assert 0 < one["calibration"]["temperature"] < 10
    assert one["metrics"]["ece_calibrated"]["value"] is not None
    assert stored["summary"]["corpus-zero-shot"]["all"]["macro_auroc"]["sets"] == 2
    assert load(tmp_path / "out").as_data() == results.as_data()
    assert "chest" in results.text() and "mean of all" in results.text()


def test_predictions_give_the_same_numbers_again(filled, model, tmp_path):
    results = evaluate(model, ["corpus-zero-shot", "corpus-probe"], filled, tmp_path / "out", QUICK)
    assert len(results.results) == 4 and not results.failed
    for result in results.results:
        again = scoring.numbers(results.predictions(result), 100, 0)
        assert {name: result[name] for name in again} == json.loads(json.dumps(again))


def test_a_task_never_holds_test_labels(filled, model, tmp_path, monkeypatch):
    """The truth is handed out after the task has answered, and not through anything that the task was given."""
    order = []
    run = zero_shot.run

    def watched(case, setting):
        assert not hasattr(case.test, "truth")
        answer = run(case, setting)
        order.append("answered")
        return answer

    opened = scoring.numbers
    monkeypatch.setattr(zero_shot, "run", watched)
    monkeypatch.setattr(scoring, "numbers", lambda *a: order.append("scored") or opened(*a))
    evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert order == ["answered", "scored"] * 2


def test_a_second_evaluation_embeds_nothing_and_opens_nothing(filled, model, make_model, tmp_path):
    both = ["corpus-zero-shot", "corpus-probe"]
    first = evaluate(model, both, filled, tmp_path / "out", QUICK)
    fresh = make_model()
    second = evaluate(fresh, both, filled, tmp_path / "out", QUICK)
    assert fresh.seen == {"images": 0, "features": 0, "texts": 0}
    assert second.as_data() == first.as_data()
    elsewhere = evaluate(make_model(), both, filled, tmp_path / "other", QUICK)
    assert [r["openings"] for r in elsewhere.results] == [r["openings"] + 2 for r in first.results]
    assert [r["metrics"] for r in elsewhere.results] == [r["metrics"] for r in first.results]


def test_a_result_without_its_predictions_is_made_anew(filled, model, tmp_path):
    first = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    (tmp_path / "out" / "corpus-zero-shot" / "chest" / "predictions.parquet").unlink()
    second = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert second.summary == first.summary
    chest, knee = second.results
    assert (chest["openings"], knee["openings"]) == (2, 1)
    assert second.predictions(chest).ids.tolist() == first.predictions(chest).ids.tolist()


def test_one_broken_case_is_recorded_and_the_others_go_on(filled, model, tmp_path, monkeypatch):
    run = zero_shot.run

    def broken(case, setting):
        if case.source == "chest":
            raise ValueError("planted")
        return run(case, setting)

    monkeypatch.setattr(zero_shot, "run", broken)
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert results.failed == [{"benchmark": "corpus-zero-shot/chest", "reason": "ValueError: planted"}]
    assert [r["source"] for r in results.results] == ["knee"]
    monkeypatch.undo()
    again = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert not again.failed and len(again.results) == 2


def test_other_data_than_the_benchmark_names_is_a_failure(filled, model, tmp_path):
    wrong = Benchmark(name="knee", task="zero_shot", data={"source": "knee"}, expected={"images": 21})
    results = evaluate(model, [wrong], filled, tmp_path / "out", QUICK)
    assert "expected 21 test images, found 20" in results.failed[0]["reason"]


def test_positive_class_gives_sensitivity_and_specificity(filled, model, tmp_path):
    knee = Benchmark(name="knee", task="zero_shot", data={"source": "knee"}, positive="gammitis")
    (one,) = evaluate(model, [knee], filled, tmp_path / "out", QUICK).results
    assert one["metrics"]["sensitivity"] == one["per_class"]["gammitis"]["recall"]
    assert one["metrics"]["specificity"] == one["per_class"]["deltopathy"]["recall"]


def test_small_sets_have_no_interval_and_say_why(world, model, tmp_path):
    world.fill("tiny", ["alphoma", "betosis"], each=20)
    (one,) = evaluate(model, ["corpus-zero-shot"], world, tmp_path / "out", QUICK).results
    assert one["metrics"]["macro_auroc"]["value"] is not None and one["metrics"]["macro_auroc"]["low"] is None
    assert "8 images, needs 20" in one["no_interval"]


def test_multi_label_sets_are_ranked_not_guessed(world, make_model, tmp_path):
    names = ["alphoma", "betosis", "gammitis"]
    random = np.random.default_rng(0)
    for n in range(200):
        states = {name: ("absent", "present")[int(random.random() < 0.4)] for name in names}
        world.add("eyes", states, split=("train", "train", "validation", "test")[n % 4])
    for kind in ("softmax", "sigmoid"):
        results = evaluate(make_model(kind, kind=kind), None, world, tmp_path / kind, QUICK)
        assert not results.failed
        for one in results.results:
            assert set(one["metrics"]) & {"accuracy", "balanced_accuracy", "macro_f1"} == set()
            assert one["metrics"]["macro_auroc"]["value"] > 0.7
        assert ("ece" in results.results[0]["metrics"]) == (kind == "sigmoid")


def test_leaks_are_counted_when_the_training_part_is_known(filled, model, tmp_path):
    chest = [n for n, row in enumerate(filled.rows) if row["source"] == "chest" and row["split"] == "test"]
    train = next(n for n, row in enumerate(filled.rows) if row["split"] == "train")
    filled.rows[chest[0]]["group"] = filled.rows[train]["group"]
    filled.rows[chest[1]]["phash"] = filled.rows[train]["phash"] ^ 0b101
    model.facts = {"trained_on": {"corpus": filled.hash, "part": {}}}
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert [r["leaks"] for r in results.results] == [2, 0]
    assert [r["in_domain"] for r in results.results] == [True, True]
    assert results.results[0]["leaks_by"] == {"all": 2, "group": 1, "bytes": 0, "near": 1}


def test_prompts_that_were_captions_in_training_are_counted(filled, model, tmp_path, monkeypatch):
    results = evaluate(model, None, filled, tmp_path / "unknown", QUICK)
    assert [r["choices"].get("prompts_met") for r in results.results] == [None] * 4
    bank = tmp_path / "bank.yaml"
    bank.write_text(f"- {{modality: xray, anatomy: chest, finding: alphoma, captions: [{PROMPT!r}, A chest.]}}\n")
    monkeypatch.setattr(filled, "banks", lambda: [bank], raising=False)
    model.facts = {"trained_on": {"corpus": filled.hash, "part": {}}}
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert {r["source"]: r["choices"]["prompts_met"] for r in results.results} == {"chest": 1, "knee": 0}


def test_a_source_that_was_left_out_of_training_is_not_in_domain(filled, model, tmp_path):
    model.facts = {"trained_on": {"corpus": filled.hash, "part": {}, "leave_out": ["knee"]}}
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert {r["source"]: r["in_domain"] for r in results.results} == {"chest": True, "knee": False}
    assert [r["leaks"] for r in results.results] == [0, 0]


def test_wrong_requests_are_refused(filled, model, tmp_path):
    with pytest.raises(RequestError, match="no folder"):
        evaluate(model, ["corpus-zero-shot"], filled)
    with pytest.raises(RequestError, match="corpus-zero-shot"):
        evaluate(model, ["corpus-zeroshot"], filled, tmp_path)
    results = evaluate(model, ["corpus-zero-shot"], None, tmp_path, QUICK)
    assert "needs a corpus" in results.failed[0]["reason"]


def test_predictions_survive_their_file(filled, model, tmp_path):
    results = evaluate(model, ["corpus-probe"], filled, tmp_path / "out", QUICK)
    one = results.predictions(results.results[0])
    predictions.write(one, tmp_path / "copy.parquet")
    other = predictions.read(tmp_path / "copy.parquet")
    assert other.classes == one.classes and list(other.scores) == list(one.scores) and other.variants == one.variants
    np.testing.assert_array_equal(other.truth, one.truth)
    np.testing.assert_array_equal(other.scores["all"], one.scores["all"])


FOLDS = {"overlay": "folds", "fold": 2}


@pytest.fixture
def folded(filled):
    ids = pa.array([row["id"] for row in filled.rows])
    fold = np.arange(len(filled)) // 6 % 4
    filled.overlays["folds"] = pa.table({"id": ids, "fold": fold, "inner": np.arange(len(filled)) % 7})
    return filled


def test_a_model_of_one_fold_is_tested_on_that_fold(folded, model, tmp_path):
    model.facts = {"trained_on": {"corpus": folded.hash, "part": FOLDS}}
    (one, _) = evaluate(model, ["corpus-zero-shot"], folded, tmp_path / "out", QUICK).results
    fold = dict(
        zip(folded.overlays["folds"]["id"].to_pylist(), folded.overlays["folds"]["fold"].to_pylist(), strict=True)
    )
    tested = predictions.read(tmp_path / "out" / one["benchmark"] / "predictions.parquet")
    assert {fold[name] for name in tested.ids} == {2} == set(tested.folds)
    assert one["leaks_by"]["group"] == 0 and one["in_domain"]


def test_a_fold_that_was_trained_on_is_refused_and_the_right_one_named(folded, model, tmp_path):
    model.facts = {"trained_on": {"corpus": folded.hash, "part": FOLDS}}
    asked = EvaluateRecipe(draws=100, data=Part(overlay="folds", fold=1))
    with pytest.raises(RequestError, match=r"fold 1 of folds are images.*give evaluate\.data\.fold=2$") as error:
        evaluate(model, None, folded, tmp_path / "out", asked)
    assert "\n" not in str(error.value) and error.value.status == 2
    model.facts["trained_on"]["part"] = {}
    with pytest.raises(RequestError, match=r"split test for its test.*give evaluate\.data=null$"):
        evaluate(model, None, folded, tmp_path / "out", asked)


def test_the_model_s_own_fold_a_set_left_out_and_another_corpus_may_be_asked_for(folded, model, tmp_path):
    left_out = {"corpus": folded.hash, "part": FOLDS, "leave_out": ["knee"]}
    model.facts = {"trained_on": left_out}
    knee = Benchmark(name="knee", task="zero_shot", data={"source": "knee"})
    for fold, benchmarks in ((2, None), (1, [knee])):
        asked = EvaluateRecipe(draws=100, data=Part(overlay="folds", fold=fold))
        assert not evaluate(model, benchmarks, folded, tmp_path / str(fold), asked).failed
    model.facts = {"trained_on": {"corpus": "another", "part": FOLDS}}
    assert not evaluate(model, None, folded, tmp_path / "other", asked).failed


def told(corpus, part=FOLDS, **more):
    return {"corpus": corpus.hash, "part": part, **more}


def test_what_the_start_was_trained_on_is_refused_too(folded, model, tmp_path):
    other = {"overlay": "folds", "fold": 1}
    model.facts = {"trained_on": told(folded, other, before=told(folded))}
    why = r"fold 1 of folds are images that the model that this one goes on from was trained on, which kept fold 2"
    for data in (None, Part(**other)):
        with pytest.raises(RequestError, match=rf"{why}.*train it from a model that kept fold 1 of folds too$"):
            evaluate(model, None, folded, tmp_path / "out", EvaluateRecipe(draws=100, data=data))
    model.facts = {"trained_on": told(folded, before=told(folded, before=told(folded)))}
    results = evaluate(model, ["corpus-zero-shot"], folded, tmp_path / "out", QUICK)
    assert not results.failed and {r["fold"] for r in results.results} == {2}
    with pytest.raises(RequestError, match=r"images that the model was trained on.*give evaluate\.data\.fold=2$"):
        evaluate(model, None, folded, tmp_path / "out", EvaluateRecipe(draws=100, data=Part(**other)))


def test_a_model_that_went_on_elsewhere_is_tested_on_the_fold_of_its_first_training(folded, model, tmp_path):
    model.facts = {"trained_on": {"corpus": "another", "part": {}, "before": told(folded)}}
    results = evaluate(model, ["corpus-zero-shot"], folded, tmp_path / "out", QUICK)
    assert {r["fold"] for r in results.results} == {2} and not results.failed


def test_sources_and_twins_of_every_training_count(filled, model, tmp_path):
    knee = next(n for n, row in enumerate(filled.rows) if (row["source"], row["split"]) == ("knee", "test"))
    train = next(n for n, row in enumerate(filled.rows) if (row["source"], row["split"]) == ("chest", "train"))
    filled.rows[knee]["phash"] = filled.rows[train]["phash"] ^ 0b101
    before = told(filled, {}, leave_out=["knee"])
    model.facts = {"trained_on": told(filled, {}, leave_out=["chest", "knee"], before=before)}
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert {r["source"]: (r["in_domain"], r["leaks"]) for r in results.results} == {
        "chest": (True, 0),
        "knee": (False, 1),
    }


@pytest.mark.parametrize("before", [None, {"corpus": "gone", "path": "/nowhere", "part": {}}])
def test_what_no_known_training_has_met_a_start_of_unknown_data_may_have(filled, model, tmp_path, before):
    knee = next(n for n, row in enumerate(filled.rows) if (row["source"], row["split"]) == ("knee", "test"))
    train = next(n for n, row in enumerate(filled.rows) if (row["source"], row["split"]) == ("chest", "train"))
    model.facts = {"trained_on": told(filled, {}, leave_out=["knee"], before=before)}
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert {r["source"]: r["in_domain"] for r in results.results} == {"chest": True, "knee": None}
    assert {r["leaks"] for r in results.results} == {None} == {r["leaks_by"] for r in results.results}
    filled.rows[knee]["group"] = filled.rows[train]["group"]
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "again", QUICK)
    assert {r["source"]: r["leaks"] for r in results.results} == {"chest": None, "knee": 1}


def test_a_corpus_that_has_moved_is_no_reason_to_open_the_test_again(filled, make_model, tmp_path):
    for path in ("here", "there"):
        model = make_model()
        model.facts = {"trained_on": told(filled, {}, path=path, before=told(filled, {}, path=path))}
        results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", QUICK)
    assert {result["openings"] for result in results.results} == {1} and model.seen["images"] == 0


@pytest.fixture
def run(tmp_path, monkeypatch, make_model):
    """A function of a head's kind to a run folder, whose model loads as the planted one with the folder's facts."""
    from medweave.models.folder import facts_of

    home = tmp_path / "run"
    (home / "model").mkdir(parents=True)
    (home / "model" / "open_clip_config.json").write_text("{}")
    (home / "recipe.yaml").write_text("name: x\nevaluate: {draws: 100, benchmarks: [corpus-zero-shot]}\n")

    def load(reference, kind="softmax"):
        model = make_model(kind, kind=kind)
        model.facts = facts_of(home / "model")
        return model

    def make(kind):
        monkeypatch.setattr("medweave.models.load.load", lambda reference: load(reference, kind))
        return home

    return make


def test_a_run_is_evaluated_by_its_own_recipe_into_its_own_folder(filled, run):
    home = run("softmax")
    results = evaluate(str(home), corpus=filled)
    assert results.folder == home / "evaluations" and (results.folder / "results.json").exists()
    assert {result["family"] for result in results.results} == {"corpus-zero-shot"}
    assert evaluate(home, ["corpus-probe"], filled, home / "other", QUICK).folder == home / "other"


def calibration_in(home):
    return json.loads((home / "model" / "medweave.json").read_text())["facts"]["calibration"]


def test_fitted_temperatures_are_kept_in_the_model_s_folder(filled, run):
    home = run("softmax")
    results = evaluate(home, corpus=filled)
    stored = calibration_in(home)
    assert stored["weights"] == results.model["weights"]
    chest, knee = stored["cases"]
    assert (chest["source"], chest["modality"], chest["anatomy"]) == ("chest", "xray", "chest")
    assert chest["temperature"] == results.results[0]["calibration"]["temperature"]
    assert (chest["images"], chest["corpus"], knee["source"]) == (36, filled.hash, "knee")
    again = evaluate(home, corpus=filled)
    assert calibration_in(home) == stored and again.as_data() == results.as_data()
    filled.hash = "d" * 64
    evaluate(home, corpus=filled, out=home / "other")
    assert [case["corpus"][0] for case in calibration_in(home)["cases"]] == ["c", "c", "d", "d"]
    home = run("sigmoid")
    evaluate(home, corpus=filled)
    assert len(calibration_in(home)["cases"]) == 2, "temperatures of other weights do not stay"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_model_that_cannot_be_written_to_is_evaluated(filled, run, tmp_path, monkeypatch, capsys, number):
    def refuse(folder, facts):
        raise OSError(number, os.strerror(number), str(folder))

    home = run("softmax")
    monkeypatch.setattr("medweave.models.folder.add_facts", refuse)
    assert evaluate(home, corpus=filled, out=tmp_path / "out").results
    said = f"cannot be written to ({os.strerror(number)}): its temperatures are not kept"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("asked", [None, Part()])
def test_no_temperature_is_fitted_on_images_that_were_trained_on(filled, model, tmp_path, asked):
    model.facts = {"trained_on": {"corpus": filled.hash, "part": {"held_out": False}}}
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path, EvaluateRecipe(draws=100, data=asked))
    one = results.results[0]
    told = one["calibration"]
    assert told["temperature"] is None and "ece_calibrated" not in one["metrics"] and one["n"] == 36
    assert asked is None or told["reason"] == "36 validation images are images that the model was trained on"


def test_a_sigmoid_head_is_served_with_a_temperature_of_its_own_probabilities(filled, run):
    home = run("sigmoid")
    one = evaluate(home, corpus=filled).results[0]
    served = one["calibration"]["served"]
    assert served == calibration_in(home)["cases"][0]["temperature"] != one["calibration"]["temperature"]


def test_the_run_s_recipe_says_how_it_is_evaluated(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\nevaluate: {draws: 123, confounded: [knee]}\n")
    assert recipe_of(tmp_path) == EvaluateRecipe(draws=123, confounded=["knee"])
    assert recipe_of(tmp_path / "nowhere") == EvaluateRecipe()
    assert "corpus-probe" in listing()
    assert recipe_of(tmp_path, ["evaluate.draws=200"]).draws == 200
    with pytest.raises(RequestError, match=r"evaluate\.draws: .*got -3"):
        recipe_of(tmp_path, ["evaluate.draws=-3"])
    for run in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RequestError, match=r"write evaluate\.a\.b=c$"):
            recipe_of(run, ["draws=200"])
    (tmp_path / "recipe.yaml").write_text("evaluate: {draw: 123}\n")
    with pytest.raises(RequestError, match="draws"):
        recipe_of(tmp_path)


def test_a_model_without_a_recipe_is_evaluated_as_asked(filled, model, tmp_path):
    foreign = Path("open_clip:RN50/openai")
    asked = ["evaluate.draws=200", "evaluate.data={train: test, test: train}", "evaluate.labels=corrected"]
    swapped = Part(train="test", test="train")
    assert recipe_of(foreign, asked) == EvaluateRecipe(draws=200, data=swapped, labels="corrected")
    with pytest.raises(RequestError, match=r"a mistake in open_clip:RN50/openai\n  evaluate\.draw: .*draws"):
        recipe_of(foreign, ["evaluate.draw=200"])
    results = evaluate(model, ["corpus-zero-shot"], filled, tmp_path / "out", recipe_of(foreign, asked[:2]))
    assert {r["source"]: r["n"] for r in results.results} == {"chest": 108, "knee": 60}


def test_the_corpus_that_all_results_rest_on_is_handed_on(filled, model, tmp_path, monkeypatch, make_world):
    other = make_world("other", "e" * 64)
    other.fill("chest", ["alphoma", "betosis"], each=30)
    corpora = {"one": filled, "two": other}
    monkeypatch.setattr("medweave.corpus.store.open_corpus", lambda place: corpora[str(place)])
    own = Benchmark(name="own", task="zero_shot", data={"corpus": "two", "source": "chest"})
    nothing = Benchmark(name="nothing", task="zero_shot", data={"corpus": "two", "source": "elbow"})
    asked = EvaluateRecipe(draws=100, corpus="one")
    for benchmarks, tested in (
        (["corpus-zero-shot", "corpus-probe"], filled),
        ([own], other),
        (["corpus-zero-shot", nothing], filled),
        (["corpus-zero-shot", own], None),
        ([nothing], None),
    ):
        results, found = evaluated(model, benchmarks, None, tmp_path / "out", asked)
        assert found is tested and len(results.failed) == (nothing in benchmarks)
