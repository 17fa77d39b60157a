"""Recipes: bases, overrides, and every mistake at once with dotted paths and nearest names."""

from pathlib import Path

import pytest

from medweave.errors import RequestError
from medweave.recipe import as_data, recipe_hash
from medweave.training.recipe import read

SHIPPED = sorted(Path(__file__).parents[1].glob("recipes/*.yaml"))

GOOD = """
name: trial
corpus:
  path: out
  sources: [{kind: phantoms, patients: 4}]
train: {run: run, steps: 5}
"""


def written(folder, text, name="recipe.yaml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_fits_the_code(path):
    assert read(path).corpus is not None


def test_three_mistakes_are_all_listed(tmp_path):
    text = GOOD.replace("patients", "patiens").replace("steps: 5", "steps: none, batchh: 3").replace("path: out", "")
    with pytest.raises(RequestError) as caught:
        read(written(tmp_path, text))
    message = str(caught.value)
    assert "corpus.path: must be given" in message
    assert "corpus.sources.0.patiens" in message and "did you mean patients" in message
    assert "train.batchh" in message and "did you mean batch" in message
    assert "train.steps" in message
    assert caught.value.status == 2


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(RequestError, match="did you mean phantoms"):
        read(written(tmp_path, GOOD.replace("kind: phantoms", "kind: phantom")))


def test_extends_merges_and_overrides_win(tmp_path):
    written(tmp_path, GOOD, "base.yaml")
    above = written(tmp_path, "extends: base.yaml\ntrain: {batch: 32}\n")
    recipe = read(above, ["train.steps=7", "corpus.sources.0.patients=9"])
    assert (recipe.train.batch, recipe.train.steps, recipe.corpus.sources[0].patients) == (32, 7, 9)
    assert recipe.name == "trial"


@pytest.mark.parametrize("override", ["train.steps", "corpus.sources.7.patients=1", "name.more=1"])
def test_bad_overrides_are_refused(tmp_path, override):
    with pytest.raises(RequestError):
        read(written(tmp_path, GOOD), [override])


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    with pytest.raises(RequestError, match="extends itself"):
        read(written(tmp_path, "extends: recipe.yaml"))


def test_missing_and_broken_files(tmp_path):
    written(tmp_path, GOOD)
    with pytest.raises(RequestError, match=r"recipe\.yaml"):
        read(tmp_path / "recipes.yaml")
    with pytest.raises(RequestError, match="not a YAML file"):
        read(written(tmp_path, "a: [1", "broken.yaml"))


def test_the_hash_sees_every_value(tmp_path):
    path = written(tmp_path, GOOD)
    assert recipe_hash(read(path)) == recipe_hash(read(path))
    assert recipe_hash(read(path)) != recipe_hash(read(path, ["corpus.sources.0.patients=5"]))
    assert as_data(read(path))["corpus"]["sources"][0]["kind"] == "phantoms"


def test_recipes_are_read_without_torch(tmp_path):
    import subprocess
    import sys

    path = written(tmp_path, GOOD.replace("train: {run: run, steps: 5}", ""))
    code = (
        "import sys; from pathlib import Path; from medweave.training.recipe import read; import medweave.cli;"
        f"read(Path({str(path)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
