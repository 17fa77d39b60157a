"""The command line as a stranger meets it: help, mistakes, exit statuses."""

import errno
import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

import medweave
from medweave.cli import main
from medweave.errors import RequestError

VERBS = ["quickstart", "build", "info", "preview", "teachers", "features", "train", "evaluate"]
VERBS += ["pool", "compare", "classify", "embed", "export", "doctor"]


def shell(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "medweave", *words], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_names_every_verb():
    shown = shell("--help")
    assert shown.returncode == 0
    assert all(verb in shown.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "nowhere.yaml"), "no such file"),
        (("info", "nowhere"), "nowhere"),
        (("evaluate", "runs/nothing"), "no model 'runs/nothing'"),
        (("buld", "x"), "build"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, words, said):
    shown = shell(*words, cwd=tmp_path)
    assert shown.returncode == 2
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr


def test_the_version_is_printed(cli):
    assert cli("--version").strip() == medweave.__version__


@pytest.mark.parametrize("count", [-4, 0])
def test_a_sheet_shows_an_image_at_least(cli, count):
    assert "--count" in cli("preview", "corpus", f"--count={count}", status=2, errors=True)


def refusing(error):
    """A function that raises an error."""

    def refuse():
        raise error

    return refuse


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "medweave: Read-only file system: a/b\n"),
        (PermissionError(errno.EACCES, "Permission denied", "rows"), "medweave: Permission denied: rows\n"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", ".x.part", None, "x"), "medweave: Is a directory: x\n"),
        (ConnectionError("no route to bucket"), "medweave: no route to bucket\n"),
    ],
)
def test_what_the_operating_system_refuses_is_one_line(cli, monkeypatch, error, said):
    monkeypatch.setattr("medweave.doctor.checks", refusing(error))
    assert cli("doctor", status=1, errors=True) == said


RECIPE = """
name: tiny
corpus:
  path: corpus
  workers: 1
  sources: [{{kind: phantoms, modalities: [ultrasound], patients: 20, images: 2, size: 64}}]
  groups: {{near: {{search: false}}}}
  split: {{train: 0.5, validation: 0.25, test: 0.25}}
model:
  image: {{tower: "timm:test_resnet", size: 32, resize: squash}}
  text: {{tower: "transformers:{bert}", context: 32}}
  embed: 12
train: {{run: runs/tiny, steps: 6, batch: 16, workers: 0}}
evaluate: {{draws: 100, benchmarks: [corpus-zero-shot]}}
"""
WRONG = "{name: wrong, task: zero_shot, expected: {images: 1}}"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working folder with the recipe of a run of seconds and a text tower of random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "breast", "ultrasound", "with", "cyst", "mass"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    tower = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=40, pad_token_id=0, **tower)
    BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(bert=tmp_path / "bert"))
    (tmp_path / "wrong.yaml").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(monkeypatch, capsys):
    """A function of the words of a command to what it printed; it must end with the status that is expected."""

    def run(*words, status=0, errors=False):
        monkeypatch.setattr(sys, "argv", ["medweave", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert end.value.code == status, shown.err
        return shown.err if errors else shown.out

    return run


def test_a_file_where_a_folder_is_to_be_is_one_line(tmp_path, cli):
    (tmp_path / "taken").touch()
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(bert="none"))
    shown = cli("build", tmp_path / "tiny.yaml", f"corpus.path={tmp_path / 'taken'}", status=1, errors=True)
    assert shown == f"medweave: File exists: {tmp_path / 'taken'}\n"


@pytest.mark.slow
def test_every_verb_from_a_recipe_to_answers(lab, cli):
    assert "phantom_ultrasound" in cli("build", "tiny.yaml", "--dry-run") and not (lab / "corpus").exists()
    assert "phantom_ultrasound" in cli("build", "tiny.yaml")
    assert json.loads(cli("info", "corpus", "--json"))["samples"] == 120
    assert cli("preview", "corpus", "--count", 4).strip() == "corpus/preview.html"
    assert cli("train", "tiny.yaml").strip() == "runs/tiny"

    (lab / "elsewhere").mkdir()
    os.chdir(lab / "elsewhere")  # a run knows its corpus from any folder
    assert "not calibrated" in cli("classify", lab / "runs" / "tiny", lab / "corpus" / "preview.html", status=1)
    assert "corpus-zero-shot/phantom_ultrasound" in cli("evaluate", lab / "runs" / "tiny")
    os.chdir(lab)
    (one,) = json.loads(cli("evaluate", "runs/tiny", "evaluate.draws=120", "--json"))["results"]
    assert one["n"] == 30 and (lab / "runs" / "tiny" / "evaluations" / "report.html").exists()
    wrong = cli("evaluate", "runs/tiny", "--benchmark", "wrong.yaml", "--out", "again", status=1)
    assert "expected 1 test images, found 30" in wrong
    assert "give evaluate.data=null" in cli(
        "evaluate", "runs/tiny", "evaluate.data={train: test, test: train}", status=2, errors=True
    )
    cli("evaluate", "runs/tiny", "--out", "again")
    assert json.loads(cli("compare", "runs/tiny/evaluations", "again", "--json", "--out", "page.html"))
    assert (lab / "page.html").exists()
    told = json.loads(cli("compare", "runs/tiny/evaluations", "again", "--json", "--draws", 150))
    assert told["columns"] == ["evaluations: tiny", "again: tiny"] and told["draws"] == 150
    assert "--draws" in cli("compare", "again", "--draws", 0, status=2, errors=True)
    cli("export", "runs/tiny", "--out", "exported", "--as", "medweave/tiny")
    assert "medweave/tiny" in (lab / "exported" / "open_clip_config.json").read_text()
    assert str(lab) not in (lab / "exported" / "medweave.json").read_text()
    assert "OWNER/NAME" in cli("export", "runs/tiny", "--out", "x", "--as", "tiny", status=2, errors=True)
    cli("evaluate", "runs/tiny", "evaluate.data={validation: test, test: validation}", "--out", "other")
    (pooled,) = json.loads(cli("pool", "again", "other", "--out", "both", "--corpus", "corpus", "--json"))["results"]
    assert pooled["n"] == 60 and "weights of a fold" in (lab / "both" / "report.html").read_text()
    assert "both" in cli("pool", "again", "other", "--out", "named", "--name", "both")
    assert not (lab / "named" / "report.html").exists()
    assert "two folds" in cli("pool", "again", "runs/tiny/evaluations", "--out", "twice", status=1, errors=True)
    assert "x failed" in cli("compare", empty(lab / "failed"), "--out", "none.html", status=2, errors=True)


def empty(folder):
    """A folder of results where the only benchmark failed."""
    folder.mkdir()
    data = {"model": {"name": "x"}, "results": [], "failed": [{"benchmark": "x", "reason": "y"}], "skipped": []}
    (folder / "results.json").write_text(json.dumps(data | {"summary": {}}))
    return folder


@pytest.mark.slow
def test_a_run_answers_for_its_own_images(lab, cli):
    cli("build", "tiny.yaml")
    cli("train", "tiny.yaml")
    cli("evaluate", "runs/tiny")
    corpus, facts = medweave.open_corpus("corpus"), medweave.load("runs/tiny").facts
    assert facts["reading"] == {name: corpus.facts["recipe"][name] for name in ("limits", "image")}
    (lab / "images" / "deep").mkdir(parents=True)
    for number, place in enumerate(("a.jpg", "deep/b.JPG")):
        (lab / "images" / place).write_bytes(corpus.read(number))
    (lab / "images" / "bad.png").write_bytes(b"no image")

    told = json.loads(cli("classify", "runs/tiny", "images", "--json", status=1))
    assert [one["image"] for one in told["images"]] == ["images/a.jpg", "images/deep/b.JPG"]
    assert all(set(one["findings"]) == {"normal", "cyst", "malignant mass"} for one in told["images"])
    assert [one["image"] for one in told["unreadable"]] == ["images/bad.png"]
    assert (told["modality"], told["anatomy"], told["kind"]) == ("ultrasound", "breast", "softmax")
    assert told["calibration"]["sources"] == ["phantom_ultrasound"] and told["calibration"]["images"] == 30
    text = cli("classify", "runs/tiny", "images/a.jpg", "--finding", "cyst", "--finding", "normal")
    assert "calibrated on 30 validation images of phantom_ultrasound" in text and "mass" not in text
    assert "not calibrated" in cli(
        "classify", "runs/tiny", "images/a.jpg", "--prompt", "x=a cyst", "--prompt", "y=a mass"
    )
    for words, name in ((("--finding", "cist"), "cyst"), (("--modality", "ultrasond"), "ultrasound")):
        assert name in cli("classify", "runs/tiny", "images/a.jpg", *words, status=2, errors=True)

    said = cli("embed", "runs/tiny", "images", "--out", "rows.parquet", status=1, errors=True)
    assert "images/bad.png: not a readable image" in said and (lab / "rows.skipped.parquet").exists()
    assert pq.read_table("rows.parquet")["path"].to_pylist() == ["images/a.jpg", "images/deep/b.JPG"]
    assert cli("embed", "runs/tiny", "a cyst", "--text").startswith("1 rows of width 12")


def test_python_takes_the_recipes_that_the_verbs_take(lab):
    recipe = medweave.read_recipe("tiny.yaml")
    built = [medweave.build(asked).hash for asked in ("tiny.yaml", lab / "tiny.yaml", recipe, recipe.corpus)]
    assert len(set(built)) == 1
    (lab / "none.yaml").write_text("name: x\n")
    with pytest.raises(RequestError, match="no section `corpus:`"):
        medweave.build("none.yaml")
    assert medweave.train("tiny.yaml").finished and medweave.train(recipe).path.name == "tiny"
