import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medweave.errors import RequestError
from medweave.recipe import as_data
from medweave.training.recipe import Recipe, TrainRecipe, read, section


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_every_mistake_is_listed(tmp_path):
    path = written(
        tmp_path,
        """
        train: {run: r, steps: 3, bach: 4, objectives: [{kind: contrastiv}], mix: {by: sources}}
        """,
    )
    with pytest.raises(RequestError) as error:
        read(path)
    text = str(error.value)
    assert "3 mistakes" in text
    assert "train.bach: no such key; did you mean batch" in text
    assert "train.objectives.0: no kind 'contrastiv'; did you mean contrastive or interactive?" in text
    assert "train.mix.by" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": 10}, "one of the two"),
        ({"steps": None}, "one of the two"),
        ({"batch": 10, "accumulate": 3}, "does not divide"),
        ({"objectives": [{"kind": "contrastive"}] * 2}, "named twice"),
        ({"soup": {}}, "set keep to last"),
        ({"data": {"held_out": False}}, "nothing to choose the best weights by: set keep to last"),
        ({"soup": {"branches": 2}, "keep": "last"}, "do not divide 3 steps"),
        ({"optimiser": {"betas": [0.9, 1.5]}}, "betas.1"),
        ({"augment": {"area": [1.0, 0.5]}}, "least share first"),
        ({"augment": {"area": [0.0, 0.5]}}, "area.0"),
    ],
)
def test_what_contradicts_itself_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        TrainRecipe.model_validate({"run": "r", "steps": 3, **change})


def test_budget_in_images_is_rounded_up_to_whole_steps():
    assert TrainRecipe(run="r", images=1000, batch=64).total_steps == 16
    assert TrainRecipe(run="r", steps=7).total_steps == 7


def test_a_recipe_with_its_defaults_reads_back_as_itself(tmp_path):
    recipe = Recipe.model_validate({"train": {"run": "r", "steps": 3}})
    path = written(tmp_path, yaml.safe_dump(as_data(recipe)))
    assert read(path) == recipe


def test_a_missing_section_is_named():
    with pytest.raises(RequestError, match="no section `model:`"):
        section(Recipe(), "model")


def test_reading_a_recipe_without_training_imports_no_torch(tmp_path):
    path = written(tmp_path, "name: x\nevaluate: {draws: 200}\n")
    code = "import pathlib, sys, medweave as m; m.read_recipe(pathlib.Path(sys.argv[1])); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
