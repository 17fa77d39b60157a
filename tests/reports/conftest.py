"""Results made by the real evaluation in the small world of tests/evaluation, and a corpus that shows pictures."""

import importlib.util
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from medweave.corpus.recipe import LimitsRecipe
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.recipe import EvaluateRecipe

VOID = {"meta", "img", "br", "link", "hr", "input"}


def _small_world():
    path = Path(__file__).parents[1] / "evaluation" / "conftest.py"
    spec = importlib.util.spec_from_file_location("small_world", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = _small_world()
one_thread = SMALL.one_thread


class Album:
    """The world as a corpus whose images are pictures. refused: as in corpus.json; skips: reasons; gone: withdrawn."""

    def __init__(self, world, refused=(), skips=(), gone=()):
        self.world, self.path, self.hash = world, world.path, world.hash
        counts: dict = {}
        for row in world.rows:
            splits = counts.setdefault(row["source"], {}).setdefault(row["modality"], {})
            splits[row["split"]] = splits.get(row["split"], 0) + 1
        licences = [{"source": name, "licence": None} for name in counts]
        self.facts = {"hash": self.hash, "counts": counts, "licences": licences, "refused": list(refused)}
        self.skips, self.gone, self.limits = list(skips), set(gone), LimitsRecipe()

    def __len__(self):
        return len(self.world)

    def numbers_of(self, ids):
        number = {row["id"]: place for place, row in enumerate(self.world.rows)}
        return np.array([number.get(name, -1) for name in ids])

    def skipped(self):
        return pa.table({"item": [str(n) for n in range(len(self.skips))], "reason": pa.array(self.skips, pa.string())})

    def withdrawn(self):
        return self.gone

    def read(self, number):
        row = np.frombuffer(self.world.read(number), np.float32).reshape(3, 4)
        pixels = np.kron(row * 30 + 120, np.ones((16, 16))).clip(0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()


class Page(HTMLParser):
    """What a test asks of a page. Fails on tags that do not close, inside SVG charts as well."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.images, self.fetched, self.scripts = [], [], 0, [], 0
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.scripts += tag == "script"
        self.images += tag == "img"
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("data:", "#")):
                self.fetched.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="session")
def parse():
    return lambda path: Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def new_world(tmp_path_factory):
    """A function that makes a corpus of four sources: three single-label, one of them too small for intervals."""

    def make():
        world = SMALL.World(tmp_path_factory.mktemp("world") / "corpus")
        world.path.mkdir()
        world.fill("chest", ["alphoma", "betosis", "gammitis"], each=60, noise=1.5)
        world.fill("knee", ["gammitis", "deltopathy"], each=60, noise=1.5, modality="mri")
        world.fill("tiny", ["alphoma", "betosis"], each=5)
        for number in range(60):  # several findings at once
            states = {name: "present" if number % (3 + n) == 0 else "absent" for n, name in enumerate(SMALL.NAMES[:3])}
            world.add("retina", states, "test" if number % 2 else "train", modality="fundus")
        return world

    return make


@pytest.fixture(scope="session")
def world(new_world):
    return new_world()


@pytest.fixture(scope="session")
def new_album(world):
    """A function that makes a corpus of the world: what the build refused, skipped and withdrew is up to the test."""
    return lambda **left_out: Album(world, **left_out)


@pytest.fixture(scope="session")
def album(new_album):
    return new_album()


@pytest.fixture(scope="session")
def results_of(world, tmp_path_factory):
    """The results of a model of some skill, by both shipped benchmarks or the given ones, in a folder of its name."""

    def results(name, skill, benchmarks=None, corpus=world):
        recipe = EvaluateRecipe(draws=100, confounded=["knee"])
        return evaluate(SMALL.Model(name, skill), benchmarks, corpus, tmp_path_factory.mktemp(name), recipe)

    return results
