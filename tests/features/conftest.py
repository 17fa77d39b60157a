"""A corpus of small images in two sources, and tiny teachers: of both towers, of one tower, spoiled ones."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import nn
from torch.nn import functional

from medweave.corpus.build import build
from medweave.corpus.recipe import CorpusRecipe
from medweave.models.encoder import Encoder
from medweave.models.preprocess import Preprocess
from medweave.models.tokens import Tokens

torch.set_num_threads(1)
DIM, CONTEXT, SHARD = 16, 12, 8
FINDINGS = {"lungs": ("normal", "pneumonia"), "heads": ("normal", "hemorrhage")}
MODALITIES = {"lungs": ("xray", "chest"), "heads": ("ct", "head")}


def picture(finding: int, seed: int) -> np.ndarray:
    """Fine or coarse stripes with noise: uint8 [48, 60]."""
    draw = np.random.default_rng(seed)
    rows = np.sin(np.arange(48) / (1.2 if finding else 5.0) + draw.uniform(0, 6))[:, None]
    return (128 + 80 * rows + draw.normal(0, 20, (48, 60))).clip(0, 255).astype(np.uint8)


def write_source(folder: Path, name: str, count: int, seed: int = 0) -> Path:
    """Images with labels, every third with a caption of its own, some longer than the context."""
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "caption", "impression", "patient"])
        for number in range(count):
            finding = number % 2
            Image.fromarray(picture(finding, seed + number)).save(folder / f"{number:03}.jpg", quality=90)
            caption = f"Scan {number} of {name} {'with stripes and ' * (number % 4)}more." if number % 3 else ""
            impression = f"Impression: {FINDINGS[name][finding]}." if number % 5 == 0 else ""
            rows.writerow([f"{number:03}.jpg", FINDINGS[name][finding], caption, impression, f"p{number}"])
    return folder


def source(folder: Path, name: str) -> dict:
    modality, anatomy = MODALITIES[name]
    columns = {"labels": "label", "caption": "caption", "impression": "impression", "patient": "patient"}
    return {
        "kind": "folder",
        "name": name,
        "path": str(folder),
        "manifest": "manifest.csv",
        "columns": {"path": "path", **columns},
        "modality": modality,
        "anatomy": anatomy,
        "licence": "CC BY 4.0",
        "exhaustive": True,
    }


def recipe(path: Path, sources: dict[str, Path]) -> CorpusRecipe:
    tree = {"path": str(path), "shard": SHARD, "workers": 1, "groups": {"near": {"search": False}}}
    tree |= {"split": {"train": 0.6, "validation": 0.2, "test": 0.2}}
    return CorpusRecipe.model_validate(tree | {"sources": [source(at, name) for name, at in sources.items()]})


class Tiny(nn.Module):
    """What an Encoder asks of a model. sides: images, texts or both. spoiled: a text or a mean grey that gives NaN."""

    kind = "softmax"
    logit_bias = None
    separable = False
    context = CONTEXT

    def __init__(self, seed=0, sides=("images", "texts"), dim=DIM, size=24, spoiled=None, **facts):
        super().__init__()
        torch.manual_seed(seed)
        self.sides, self.dim, self.facts, self.spoiled = sides, dim, facts, spoiled
        self.image, self.text = nn.Linear(3 * 36, dim), nn.EmbeddingBag(49408, dim, mode="mean")
        self.logit_scale = nn.Parameter(torch.tensor(2.0)) if len(sides) == 2 else torch.zeros(())
        self.tokenize = Tokens(SimpleTokenizer(context_length=CONTEXT), CONTEXT)
        if "images" in sides:
            self.preprocess = Preprocess(size=size, policy="crop")

    def encode_image(self, pixels):
        small = functional.adaptive_avg_pool2d(pixels, 6).flatten(1)
        return functional.normalize(self.image(small), dim=-1)

    def encode_text(self, tokens):
        rows = functional.normalize(self.text(tokens), dim=-1)
        bad = self.spoiled is not None and (tokens == self.tokenize([self.spoiled])).all(1)
        return torch.where(torch.as_tensor(bad)[..., None], torch.nan, rows) if self.spoiled is not None else rows


@pytest.fixture(scope="session")
def tiny():
    """A function of the options of `Tiny` to an Encoder."""
    return lambda name="tiny", **options: Encoder(Tiny(**options).requires_grad_(False).eval(), name)


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("features")
    return {name: write_source(folder / name, name, count) for name, count in (("lungs", 30), ("heads", 14))}


@pytest.fixture(scope="session")
def recipe_of():
    return recipe


@pytest.fixture(scope="session")
def more_images():
    return write_source


@pytest.fixture
def corpus(tmp_path, sources):
    """44 images in two sources, several shards of 8. May be changed."""
    return build(recipe(tmp_path / "corpus", sources))
