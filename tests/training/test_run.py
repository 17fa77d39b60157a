import pytest
import yaml

from medweave.errors import RequestError
from medweave.files import write_json
from medweave.training.recipe import Recipe
from medweave.training.run import Run

INPUTS = {"corpus": "a", "captions": "b"}


def recipe(**train) -> Recipe:
    return Recipe.model_validate({"train": {"run": "r", "steps": 3, **train}})


def begun(folder) -> Run:
    """A run that has made a step."""
    run = Run(folder)
    run.begin(recipe(), INPUTS)
    (folder / "log.jsonl").write_text('{"kind": "train", "step": 1}\n')
    return run


def test_the_recipe_is_written_with_its_defaults(tmp_path):
    run = Run(tmp_path)
    run.begin(recipe(), INPUTS)
    assert Recipe.model_validate(yaml.safe_load((tmp_path / "recipe.yaml").read_text())) == recipe()
    assert not run.finished
    run.finish({"steps": 3})
    assert run.finished and run.facts["steps"] == 3


def test_the_same_recipe_may_go_on_and_what_changes_no_weight_may_change(tmp_path):
    begun(tmp_path)
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
    begun(tmp_path)
    with pytest.raises(RequestError, match=f"this folder holds a run with {named}"):
        Run(tmp_path).begin(recipe(**train), inputs)


@pytest.mark.parametrize("made", ["checkpoints/step-000000001.pt", "checkpoints/best.safetensors"])
def test_a_state_to_go_on_from_counts_as_a_step(tmp_path, made):
    Run(tmp_path).begin(recipe(), INPUTS)
    (tmp_path / made).parent.mkdir()
    (tmp_path / made).write_bytes(b"weights")
    with pytest.raises(RequestError, match=r"another train\.batch "):
        Run(tmp_path).begin(recipe(batch=8), INPUTS)


def test_a_run_without_a_step_gives_way_with_what_was_made_for_it(tmp_path):
    run = Run(tmp_path)
    run.begin(recipe(), INPUTS)
    (tmp_path / "teachers").mkdir()
    derived = [tmp_path / "texts.safetensors", tmp_path / "teachers" / "t.parquet"]
    for path in derived:
        path.write_bytes(b"rows")
    run.begin(recipe(), INPUTS)
    assert all(path.exists() for path in derived)
    run.begin(recipe(batch=8), INPUTS)
    assert not any(path.exists() for path in derived)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["train"]["batch"] == 8
    assert run.facts["asked"]["recipe"]["train.batch"] == 8


def test_a_kill_while_it_begins_costs_nothing(tmp_path):
    run = Run(tmp_path)
    run.begin(recipe(), INPUTS)
    (tmp_path / "recipe.yaml").unlink()
    run.check_folder()
    run.begin(recipe(), INPUTS)
    assert (tmp_path / "recipe.yaml").exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    Run(tmp_path / "missing").check_folder()
    (tmp_path / ".lock").touch()
    Run(tmp_path).check_folder()
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(RequestError, match="the folder holds other files"):
        Run(tmp_path).check_folder()
    with pytest.raises(RequestError, match=r"train\.run is a file"):
        Run(tmp_path / "recipe.yaml").check_folder()


def test_an_option_that_an_older_version_did_not_know_counts_as_its_default(tmp_path):
    begun(tmp_path)
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
