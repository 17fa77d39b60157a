"""Medweave: medical images, their text and the knowledge of many models, woven into one image-text model.

The front door has the same words as the command line: build, open_corpus, train, load, evaluate, compare. Each is
imported when it is first used, so that `import medweave` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medweave.corpus.build import build as build
    from medweave.corpus.store import open_corpus as open_corpus
    from medweave.evaluation.compare import compare as compare
    from medweave.evaluation.evaluate import evaluate as evaluate
    from medweave.models.load import load as load
    from medweave.training.loop import train as train
    from medweave.training.recipe import read as read_recipe

__version__ = "0.1.0"

# Threads that wait for each other by spinning starve the loader and every other process on a machine with few cores:
# four times slower on two busy ones. Read by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "build": ("medweave.corpus.build", "build"),
    "open_corpus": ("medweave.corpus.store", "open_corpus"),
    "train": ("medweave.training.loop", "train"),
    "load": ("medweave.models.load", "load"),
    "evaluate": ("medweave.evaluation.evaluate", "evaluate"),
    "compare": ("medweave.evaluation.compare", "compare"),
    "read_recipe": ("medweave.training.recipe", "read"),
}

__all__ = ["build", "compare", "evaluate", "load", "open_corpus", "read_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medweave' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
