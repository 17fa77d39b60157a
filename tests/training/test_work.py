import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from medweave.corpus.build import build
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.models import dual
from medweave.models.architecture import Architecture, arch_config, assemble
from medweave.models.weights import check_tag
from medweave.training.distributed import Ranks
from medweave.training.objective import Given, Objectives, Standard, Teacher
from medweave.training.recipe import TrainRecipe, read
from medweave.training.work import check_heads, check_teachers, in_bf16, loader_processes, say_facts

UNSCALED = ("pmc-clip",)  # its three files hold no scale
SHIPPED = [path for path in sorted(Path(__file__).parents[2].glob("recipes/*.yaml")) if read(path).model]


@pytest.fixture(scope="module")
def long_bert(tiny_bert, tmp_path_factory) -> Path:
    """The tiny BERT with as many positions as the public ones have."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("long-bert") / "bert"
    shutil.copytree(tiny_bert, folder)
    config = BertConfig.from_pretrained(tiny_bert)
    config.max_position_embeddings = 512
    BertModel(config).save_pretrained(folder)
    return folder


def shallow(arch):
    """open_clip's configuration of that name with one block a tower."""
    config = arch_config(arch)
    return {**config, **{part: {**config[part], "layers": 1} for part in ("vision_cfg", "text_cfg")}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_model_and_objectives_of_every_shipped_recipe_are_made(path, long_bert, monkeypatch, tmp_path):
    """Hub names become the tiny BERT, open_clip's towers have one block: all else is checked as it is written.

    A run that another starts from is one with fresh towers of the other's own recipe; teachers are of two widths.
    """

    def random_state(arch, tag):
        check_tag(arch, tag)
        return assemble(Architecture(shallow(arch))).state_dict()

    monkeypatch.setattr(dual, "arch_config", shallow)
    monkeypatch.setattr(dual, "tagged_state", random_state)
    recipe = read(path)
    if recipe.model.start:
        first = path.with_name(f"{Path(recipe.model.start).name}.yaml")
        dual.save(dual.build(read(first, [f"model.text.tower=transformers:{long_bert}"]).model), tmp_path)
        recipe = read(path, [f"model.start={tmp_path}"])
    elif recipe.model.text.tower.startswith("transformers:"):
        recipe = read(path, [f"model.text.tower=transformers:{long_bert}"])
    model = dual.build(recipe.model)
    check_heads(recipe, model)
    named = [one.name for one in recipe.train.teachers.rows] if recipe.train.teachers else []
    teachers = {name: teacher(8 + at, None if name in UNSCALED else 30.0) for at, name in enumerate(named)}
    check_teachers(recipe, Objectives(recipe.train.objectives, Given(model.dim, teachers)))
    size = model.preprocess.size
    with torch.no_grad():
        images, texts = model(torch.zeros(1, 3, size, size), model.tokenize(["x ray of the chest"]))
    assert images.shape == texts.shape == (1, model.dim)


def teacher(width, scale):
    """One with both towers."""
    side = Standard(torch.zeros(width), torch.eye(width), torch.eye(width))
    return Teacher(scale, side, side)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_recipe_that_says_how_it_augments_does_so(path):
    """Where views are replayed, nothing is augmented."""
    own = yaml.safe_load(path.read_text()).get("train", {})
    if own.get("augment") and own.get("teachers"):
        assert not read(path).train.teachers.replay


def with_head(recipe, head):
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"head": head})})


def test_objectives_and_model_must_have_one_head(recipe_of, prepared):
    for of_loss, of_model in (("sigmoid", "softmax"), ("softmax", "sigmoid")):
        recipe = recipe_of(train={"objectives": [{"kind": "contrastive", "head": of_loss}]})
        with pytest.raises(RequestError) as error:
            prepared(with_head(recipe, of_model))
        assert f"train.objectives.0.head is {of_loss}, but model.head is {of_model}" in str(error.value)


def test_the_head_of_a_start_counts(recipe_of, prepared, tmp_path):
    dual.save(dual.build(with_head(recipe_of(), "sigmoid").model), tmp_path / "start")
    recipe = recipe_of(train={"objectives": [{"kind": "menu"}, {"kind": "contrastive"}]})
    start = type(recipe.model)(start=str(tmp_path / "start"))
    with pytest.raises(RequestError, match=r"train.objectives.0.head is softmax, but the head of model.start is sigm"):
        prepared(recipe.model_copy(update={"model": start}))


def test_precision_is_bf16_only_on_gpus_that_have_it(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    settings = {name: TrainRecipe(run="r", steps=1, precision=name) for name in ("auto", "bf16", "fp32")}
    for able in (True, False):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, able=able: able)
        assert in_bf16(settings["auto"], gpu) == able
        assert in_bf16(settings["bf16"], gpu) and not in_bf16(settings["fp32"], gpu)
    assert not in_bf16(settings["auto"], cpu) and in_bf16(settings["bf16"], cpu)


def test_loaders_feed_a_gpu_with_the_cores_that_are_left(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    auto, four = (TrainRecipe(run="r", steps=1, workers=workers) for workers in (None, 4))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(6))
    assert [loader_processes(auto, device) for device in (cpu, gpu)] == [1, 5]
    assert [loader_processes(four, device) for device in (cpu, gpu)] == [4, 4]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert loader_processes(auto, gpu) == 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(200))
    assert loader_processes(auto, gpu) == 8


@pytest.mark.parametrize(("train", "world", "said"), [({}, 1, False), ({"accumulate": 2}, 1, True), ({}, 2, True)])
def test_masks_that_follow_the_cut_of_a_batch_are_said(work_of, capfd, train, world, said):
    work = work_of(train=train, text={"dropout": 0.1})
    capfd.readouterr()
    say_facts(dataclasses.replace(work, ranks=Ranks(0, world, torch.device("cpu"))))
    assert ("dropout is drawn anew for each micro-batch" in capfd.readouterr().err) == said


def test_without_dropout_the_cut_of_a_batch_changes_nothing(work_of, capfd):
    work_of(train={"accumulate": 2})
    assert "dropout" not in capfd.readouterr().err


@pytest.fixture
def without_labels(corpus_recipe, tmp_path):
    """The folder of a corpus of the same images, none of which has a label, and one in three a caption."""
    tree = corpus_recipe.model_dump(mode="json", serialize_as_any=True) | {"path": str(tmp_path / "bare")}
    for one in tree["sources"]:
        one["columns"]["labels"], one["exhaustive"] = None, False
    build(CorpusRecipe.model_validate(tree))
    return tree["path"]


def test_a_menu_needs_findings(recipe_of, prepared, without_labels):
    recipe = recipe_of(train={"corpus": without_labels, "objectives": [{"kind": "contrastive"}, {"kind": "menu"}]})
    with pytest.raises(RequestError, match=r"no training image has a finding .*leave out menu"):
        prepared(recipe)


def test_images_that_say_nothing_are_counted(work_of, without_labels, capfd):
    work = work_of(train={"corpus": without_labels})
    texts = open_corpus(without_labels).index(["texts"])["texts"].to_pylist()
    training = work.data.training.numbers()
    bare = sum(not texts[number] for number in training)
    assert 0 < bare < len(training)
    said = f"WARNING: {bare} of {len(training)} training images have neither text nor finding"
    assert said in capfd.readouterr().err


def test_labelled_images_are_not_warned_of(work_of, capfd):
    work_of()
    assert "WARNING" not in capfd.readouterr().err
