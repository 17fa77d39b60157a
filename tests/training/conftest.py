"""A small corpus of stripes and rings in two sources, and tiny towers."""

import csv
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medweave.corpus.build import build
from medweave.corpus.recipe import CorpusRecipe
from medweave.training.recipe import Recipe

torch.set_num_threads(1)
WORDS = ["a", "chest", "head", "x", "ray", "ct", "scan", "of", "with", "no", "normal", "pneumonia", "lung", "shows"]
SOURCES = {"lungs": ("xray", "chest", ("normal", "pneumonia")), "heads": ("ct", "head", ("normal", "hemorrhage"))}


def picture(finding: int, seed: int) -> np.ndarray:
    """Fine or coarse stripes with noise: uint8 [48, 60]."""
    draw = np.random.default_rng(seed)
    rows = np.sin(np.arange(48) / (1.2 if finding else 5.0) + draw.uniform(0, 6))[:, None]
    return (128 + 80 * rows + draw.normal(0, 20, (48, 60))).clip(0, 255).astype(np.uint8)


def write_source(folder: Path, name: str, count: int) -> None:
    modality, anatomy, findings = SOURCES[name]
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "caption", "patient"])
        for number in range(count):
            finding = number % 2
            Image.fromarray(picture(finding, number)).save(folder / f"{number:03}.jpg", quality=90)
            caption = f"A {modality} of the {anatomy}, number {number}." if number % 3 == 0 else ""
            rows.writerow([f"{number:03}.jpg", findings[finding], caption, f"p{number // 2}"])


def source(folder: Path, name: str) -> dict:
    modality, anatomy, _ = SOURCES[name]
    columns = {"path": "path", "labels": "label", "caption": "caption", "patient": "patient"}
    return {
        "kind": "folder",
        "name": name,
        "path": str(folder),
        "manifest": "manifest.csv",
        "columns": columns,
        "modality": modality,
        "anatomy": anatomy,
        "licence": "CC BY 4.0",
        "exhaustive": True,
        "captions": {"own": 0.25, "bank": 0.75},
    }


@pytest.fixture(scope="session")
def corpus_recipe(tmp_path_factory) -> CorpusRecipe:
    """80 images of lungs, 40 of heads, built."""
    folder = tmp_path_factory.mktemp("training")
    for name, count in (("lungs", 80), ("heads", 40)):
        write_source(folder / name, name, count)
    recipe = CorpusRecipe.model_validate(
        {
            "path": str(folder / "corpus"),
            "shard": 16,
            "workers": 1,
            "groups": {"near": {"search": False}},
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "folds": {"count": 3},
            "sources": [source(folder / name, name) for name in SOURCES],
        }
    )
    build(recipe)
    return recipe


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "-", ".", ",", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=80,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_of(corpus_recipe, tiny_bert, tmp_path):
    """A function of changes to sections (train={…}, image={…}, text={…}) to a recipe of a short run."""

    def make(train=None, image=None, text=None, **others) -> Recipe:
        tree = {
            "name": "tiny",
            "corpus": corpus_recipe.model_dump(mode="json", serialize_as_any=True),
            "model": {
                "image": {"tower": "timm:test_resnet", "size": 32, "resize": "squash", **(image or {})},
                "text": {"tower": f"transformers:{tiny_bert}", "context": 64, **(text or {})},
                "embed": 12,
            },
            "train": {"run": str(tmp_path / "run"), "steps": 6, "batch": 16, "workers": 0, **(train or {})},
        }
        return Recipe.model_validate({**tree, **others})

    return make


@pytest.fixture
def prepared():
    """A function of a recipe to its prepared run that has made no step."""
    from medweave.training.distributed import start
    from medweave.training.run import Run
    from medweave.training.work import data_of, prepare

    def make(recipe):
        ranks = start()
        return prepare(recipe, Run(recipe.train.run), data_of(recipe, ranks), ranks)

    return make


@pytest.fixture
def work_of(recipe_of, prepared):
    """A function of changes to sections to a prepared run."""
    return lambda **changes: prepared(recipe_of(**changes))


@pytest.fixture
def free_port():
    """A function to a port that nobody listens at."""

    def port() -> int:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            return taken.getsockname()[1]

    return port


@pytest.fixture
def together(free_port):
    """A function of a number of processes and of what each of them does, as torchrun would have it done."""

    def run(world: int, work) -> None:
        port, fork = free_port(), multiprocessing.get_context("fork")

        def one(rank: int) -> None:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            torch.set_num_threads(1)
            work()

        processes = [fork.Process(target=one, args=(rank,)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * world

    return run
