import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medweave.corpus.build import build
from medweave.corpus.recipe import CorpusRecipe

FINDINGS = ("normal", "pneumonia")
MODALITIES = {"xray": "chest", "ct": "chest"}


def write_raw(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of small images that differ, two of them unreadable, with a manifest."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels", "caption", "modality", "patient", "licence"])
        for number in range(count):
            name = f"{number:03}.{'png' if number % 5 == 0 else 'jpg'}"
            pixels = generator.integers(0, 255, (10, 12), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(folder / name, quality=90)
            modality = "ct" if number % 3 == 0 else "xray"
            caption = f"Image number {number}." if number % 2 else ""
            rows.writerow([name, FINDINGS[number % 2], caption, modality, f"p{number // 2}", "CC BY 4.0"])
    for number in (3, count - 2):
        broken = folder / f"{number:03}.jpg"
        broken.write_bytes(broken.read_bytes()[:300])
    return folder


def source(folder: Path, **changes):
    columns = {name: name for name in ("path", "labels", "caption", "modality", "patient", "licence")}
    return {
        "kind": "folder",
        "path": str(folder),
        "manifest": "manifest.csv",
        "columns": columns,
        "anatomy": "chest",
        **changes,
    }


@pytest.fixture(scope="session")
def recipe_of():
    """A function of (corpus folder, image folders, changes) to a recipe."""

    def make(path: Path, *raw: Path, **changes) -> CorpusRecipe:
        tree = {"path": str(path), "shard": 8, "workers": 1, "sources": [source(folder) for folder in raw]}
        near = {"groups": {"near": {"search": False}}}
        return CorpusRecipe.model_validate(tree | near | changes)

    return make


@pytest.fixture(scope="session")
def raw_images():
    """`write_raw`, for tests that change the images."""
    return write_raw


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """60 images, 58 of them readable. Not to be changed."""
    return write_raw(tmp_path_factory.mktemp("raw") / "hospital", 60)


@pytest.fixture(scope="session")
def built(tmp_path_factory, raw, recipe_of) -> Path:
    """A corpus of `raw` with three folds. Not to be changed."""
    path = tmp_path_factory.mktemp("built") / "corpus"
    build(recipe_of(path, raw, folds={"count": 3}))
    return path
