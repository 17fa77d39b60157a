import pytest
import yaml

from medweave.errors import RequestError
from medweave.files import write_json
from medweave.training.recipe import Recipe
from medweave.training.run import Run

INPUTS = {"corpus": "a", "captions": "b"}


def recipe(**train) -> Recipe:
    return Recipe.model_validate({"train": {"run": "r", "steps": 3, **train}})


def test_the_recipe_is_written_with_its_defaults(tmp_path):
    run = Run(tmp_path)
    run.begin(recipe(), INPUTS)
    assert Recipe.model_validate(yaml.safe_load((tmp_path / "recipe.yaml").read_text())) == recipe()
    assert not run.finished
    run.finish({"steps": 3})
    assert run.finished and run.facts["steps"] == 3


def test_the_same_recipe_may_go_on_and_what_changes_no_weight_may_change(tmp_path):
    Run(tmp_path).begin(recipe(), INPUTS)
    Run(tmp_path).begin(recipe(workers=0, log=1, checkpoint=2), INPUTS)


@pytest.mark.parametrize(
    ("train", "inputs", "named"),
    [
        ({"batch": 8}, INPUTS, "another train.batch "),
        ({"batch": 8, "mix": {"alpha": 0}}, INPUTS, "another train.batch, train.mix.alpha "),
        ({"mix": {"weights": {"a": 1}}}, INPUTS, "another train.mix.weights"),
        ({}, {**INPUTS, "corpus": "c"}, "another corpus "),
    ],
)
def test_another_recipe_is_refused_and_what_differs_is_named(tmp_path, train, inputs, named):
    Run(tmp_path).begin(recipe(), INPUTS)
    with pytest.raises(RequestError, match=f"this folder holds a run with {named}"):
        Run(tmp_path).begin(recipe(**train), inputs)


def test_an_option_that_an_older_version_did_not_know_counts_as_its_default(tmp_path):
    Run(tmp_path).begin(recipe(), INPUTS)
    facts, written = Run(tmp_path).facts, yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    del facts["asked"]["recipe"]["train.mix.alpha"], written["train"]["mix"]["alpha"]
    write_json(tmp_path / "run.json", facts)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    Run(tmp_path).begin(recipe(), INPUTS)
    with pytest.raises(RequestError, match=r"another train\.mix\.alpha "):
        Run(tmp_path).begin(recipe(mix={"alpha": 0}), INPUTS)


def test_the_log_is_read_by_kind(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "validation", "step": 1}\n')
    assert [line["kind"] for line in Run(tmp_path).log()] == ["train", "validation"]
    assert [line["kind"] for line in Run(tmp_path).log("validation")] == ["validation"]
