"""Medweave: medical images, their text and the knowledge of many models, woven into one image-text model.

The front door has the same words as the command line: build, open_corpus, train, load, evaluate, pool, compare. Each
is imported when it is first used, so that `import medweave` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from medweave.corpus.recipe import CorpusRecipe
    from medweave.corpus.store import Corpus
    from medweave.corpus.store import open_corpus as open_corpus
    from medweave.evaluation.compare import compare as compare
    from medweave.evaluation.evaluate import evaluate as evaluate
    from medweave.evaluation.pool import pool as pool
    from medweave.models.load import load as load
    from medweave.training.recipe import Recipe
    from medweave.training.recipe import read as read_recipe
    from medweave.training.run import Run

__version__ = "0.1.0"

# Threads that wait for each other by spinning starve the loader and every other process on a machine with few cores:
# four times slower on two busy ones. Read by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "open_corpus": ("medweave.corpus.store", "open_corpus"),
    "load": ("medweave.models.load", "load"),
    "evaluate": ("medweave.evaluation.evaluate", "evaluate"),
    "pool": ("medweave.evaluation.pool", "pool"),
    "compare": ("medweave.evaluation.compare", "compare"),
    "read_recipe": ("medweave.training.recipe", "read"),
}

__all__ = ["build", "compare", "evaluate", "load", "open_corpus", "pool", "read_recipe", "train"]


def build(recipe: Recipe | CorpusRecipe | Path | str, engine: Literal["local", "ray"] | None = None) -> Corpus:
    """Build a corpus, go on with one, or add new images to one. recipe: a YAML file, a Recipe, or its `corpus:`.

    Raises RequestError for a recipe that cannot be built, UserError when the build fails.
    """
    asked = _read(recipe)
    if hasattr(asked, "corpus"):
        asked = _at("medweave.training.recipe", "section")(asked, "corpus")
    return _at("medweave.corpus.build", "build")(asked, engine)


def train(recipe: Recipe | Path | str) -> Run:
    """Train the model of a recipe, a YAML file or a Recipe, and leave a run; the same call again goes on with it.

    Raises RequestError for a recipe that does not fit its corpus or its folder, UserError when training fails.
    """
    return _at("medweave.training.loop", "train")(_read(recipe))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medweave' has no attribute {name!r}")
    return _at(*_HOMES[name])


def _read(recipe: Any) -> Any:
    """The recipe of a YAML file; any other as it is."""
    return _at("medweave.training.recipe", "read")(recipe) if isinstance(recipe, str | Path) else recipe


def _at(module: str, attribute: str) -> Any:
    return getattr(importlib.import_module(module), attribute)
