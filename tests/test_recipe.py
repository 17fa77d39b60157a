"""Recipes: bases, overrides, and every mistake at once with dotted paths and nearest names."""

import errno
from pathlib import Path

import pytest

from medweave.errors import RequestError
from medweave.recipe import as_data, read_yaml, recipe_hash
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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps", "write it as a.b.c=value"),
        ("corpus.sources.7.patients=1", "nothing at corpus.sources.7"),
        ("name.more=1", "leads nowhere"),
        ("train.steps=[1", "is no YAML"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, override, words):
    with pytest.raises(RequestError, match=words) as error:
        read(written(tmp_path, GOOD), [override])
    assert "a mistake in" in str(error.value)


def test_an_override_may_begin_a_section_that_is_null(tmp_path):
    recipe = read(written(tmp_path, GOOD + "evaluate: null\n"), ["evaluate.draws=200"])
    assert recipe.evaluate is not None and recipe.evaluate.draws == 200


def test_bad_overrides_hide_no_other_mistake(tmp_path):
    with pytest.raises(RequestError) as error:
        read(written(tmp_path, GOOD.replace("steps", "stepps")), ["name.more=1", "train.batchh=4", "seed=-1"])
    message = str(error.value)
    assert "4 mistakes in" in message and "leads nowhere" in message
    assert all(path in message for path in ("train.stepps", "train.batchh", "seed: "))


@pytest.mark.parametrize("source", ["{patients: 4}", "phantoms"])
def test_a_source_without_kind_is_told_the_kinds(tmp_path, source):
    with pytest.raises(RequestError, match=r"corpus.sources.0: needs `kind:` \(one of folder, .*phantoms"):
        read(written(tmp_path, GOOD.replace("{kind: phantoms, patients: 4}", source)))


def test_a_base_is_one_path(tmp_path):
    with pytest.raises(RequestError, match=r"no path of a recipe .*recipe.yaml.*name one file"):
        read(written(tmp_path, "extends: [a.yaml]"))


def test_what_cannot_be_read_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="cannot be read: Is a directory"):
        read(tmp_path)
    path = written(tmp_path, GOOD)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: open_for_nobody())
    with pytest.raises(RequestError, match=r"cannot be read: Permission denied \(.*recipe.yaml\)$"):
        read(path)


def open_for_nobody():
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    with pytest.raises(RequestError, match="extends itself"):
        read(written(tmp_path, "extends: recipe.yaml"))


def test_missing_and_broken_files(tmp_path):
    written(tmp_path, GOOD)
    with pytest.raises(RequestError, match=r"recipe\.yaml"):
        read(tmp_path / "recipes.yaml")
    with pytest.raises(RequestError, match="not a YAML file"):
        read(written(tmp_path, "a: [1", "broken.yaml"))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"'train' stands twice.*line 3"):
        read(written(tmp_path, "train: {steps: 3}\nname: a\ntrain: {steps: 4}\n"))
    base = "a: &base {steps: 1}\nb: {<<: *base, steps: 2}\n"
    assert read_yaml(written(tmp_path, base, "merged.yaml"))["b"] == {"steps": 2}


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
