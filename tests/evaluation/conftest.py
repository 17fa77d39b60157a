"""A small world with planted truth: images are vectors near the prototypes of their findings, texts likewise."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import threadpoolctl

from medweave import seeds
from medweave.corpus.recipe import LimitsRecipe
from medweave.corpus.store import Stratum
from medweave.files import hash_of

WIDTH = 12


class World:
    """A corpus, as the store gives it, without files: rows are added, then read."""

    def __init__(self, path: Path, hash: str = "c" * 64) -> None:
        self.path, self.hash = path, hash
        self.rows: list[dict] = []
        self.pixels: list[bytes] = []
        self.overlays: dict[str, pa.Table] = {}
        self.gone: set[int] = set()
        self.shards: list[dict] = []
        self.limits = LimitsRecipe()

    def add(self, source, states, split="train", group=None, modality="xray", anatomy="chest", noise=0.6):
        """One image; states: finding -> state."""
        number = len(self.rows)
        random = seeds.generator("image", number)
        parts = [prototype(name) for name, state in states.items() if state == "present"]
        row = np.sum(parts, axis=0) + noise * random.standard_normal(WIDTH) if parts else random.standard_normal(WIDTH)
        self.pixels.append(row.astype(np.float32).tobytes())
        self.rows.append(
            {
                "id": f"{source}/{number}",
                "source": source,
                "split": split,
                "modality": modality,
                "anatomy": anatomy,
                "group": group or f"g{number}",
                "findings": [{"name": name, "state": state} for name, state in states.items()],
                "sha256": hashlib.sha256(self.pixels[-1]).hexdigest(),
                "phash": seeds.seed_of("phash", number),
            }
        )

    def fill(self, source, findings, each=30, **more):
        """`each` images of every finding, all others absent; 60 % train, 20 % validation, 20 % test."""
        for n in range(each):
            split = ("train", "train", "train", "validation", "test")[n % 5]
            for finding in findings:
                states = {name: "present" if name == finding else "absent" for name in findings}
                self.add(source, states, split=split, **more)

    def __len__(self):
        return len(self.rows)

    def index(self, columns=None):
        state = pa.list_(pa.struct([("name", pa.string()), ("state", pa.string())]))
        kinds = {"findings": state, "phash": pa.uint64()}
        names = columns or list(self.rows[0])
        return pa.table({c: pa.array([r[c] for r in self.rows], kinds.get(c, pa.string())) for c in names})

    @property
    def strata(self):
        """Every sample alone, as if each had been added to the corpus by a build of its own."""
        return [Stratum(r["source"], r["split"], r["modality"], n, n + 1) for n, r in enumerate(self.rows)]

    def batches(self, columns, size=None):
        return iter(self.index(columns).to_batches(size))

    def take(self, numbers, columns):
        return self.index(columns).take(pa.array(numbers))

    def read(self, number):
        return self.pixels[number]

    def overlay(self, name):
        return self.overlays[name]

    def overlay_pieces(self, name, columns):
        place = {row["id"]: number for number, row in enumerate(self.rows)}
        table = self.overlays[name].combine_chunks()
        numbers = np.array([place[name] for name in table["id"].to_pylist()])
        yield numbers, table.select(columns).to_batches()[0]

    def overlay_hashes(self, *names):
        return {f"overlay {name}": hash_of(self.overlays[name].to_pylist()) for name in names if name is not None}

    def withdrawn(self):
        return self.gone

    def banks(self):
        return []


class Model:
    """An encoder of that world: knows the prototypes; `skill` < 1 adds noise of its own."""

    def __init__(self, name="planted", skill=1.0, kind="softmax"):
        self.name, self.weights_hash, self.skill = name, hashlib.sha256(name.encode()).hexdigest(), skill
        self.facts: dict = {}
        self.preprocess = SimpleNamespace(hash="p" * 64)
        self.head = SimpleNamespace(scale=10.0, bias=0.0, kind=kind)
        self.separable = False
        self.seen = {"images": 0, "features": 0, "texts": 0}

    def _rows(self, images):
        rows = np.stack([np.frombuffer(data, np.float32) for data in images])
        noise = np.stack([seeds.generator(self.name, data.hex()).standard_normal(WIDTH) for data in images])
        return (rows + 4 * (1 - self.skill) * noise).astype(np.float32)

    def embed_images(self, images, batch=64):
        images = list(images)
        self.seen["images"] += len(images)
        return unit(self._rows(images))

    def image_features(self, images, batch=64):
        images = list(images)
        self.seen["features"] += len(images)
        return np.concatenate([3 + 2 * self._rows(images), np.ones((len(images), 1), np.float32)], 1)

    def project(self, features):
        return unit((features[:, :-1] - 3) / 2)

    def embed_texts(self, texts):
        self.seen["texts"] += len(texts)
        return unit(np.stack([self._text(text) for text in texts]))

    def _text(self, text):
        known = [name for name in NAMES if name in text.lower()]
        noise = 0.1 * seeds.generator("text", text).standard_normal(WIDTH)
        return (prototype(max(known, key=len)) if known else 0) + noise


NAMES = ("alphoma", "betosis", "gammitis", "deltopathy", "epsilemia")


def prototype(name):
    return seeds.generator("prototype", name).standard_normal(WIDTH)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small matrices on a busy machine are slower with many threads."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "corpus")


@pytest.fixture
def make_world(tmp_path):
    """A function of a name and a hash to another corpus."""
    return lambda name, hash: World(tmp_path / name, hash)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def make_model():
    return Model
