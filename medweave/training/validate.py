"""Prompted classification of the validation part while a run goes on: is it learning, and which weights are best?

The prompts are the banks' test prompts, all sets together; each source with two findings or more is scored alone, and
the means over sources are what `best` is chosen by. n images, P prompts, D width, s side of an image.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medweave.corpus.captions.bank import Bank
from medweave.corpus.known import Known
from medweave.corpus.limits import BadImage, pillow_allows
from medweave.corpus.store import Corpus
from medweave.corpus.views import strata_of
from medweave.errors import DamagedError
from medweave.evaluation.parts import ranges_of
from medweave.evaluation.quick import QuickZeroShot
from medweave.models.preprocess import Preprocess
from medweave.models.two_towers import DualModel
from medweave.seeds import generator
from medweave.training.distributed import Ranks
from medweave.training.embed import Towers
from medweave.training.loader import Micro, in_buckets
from medweave.training.recipe import METRICS, TrainRecipe
from medweave.training.texts import Pooled, computed

CHUNK = 64  # images or prompts embedded at a time


class Validation:
    """The validation images of a run, decoded once and kept as bytes; each process holds and embeds its part."""

    def __init__(self, corpus: Corpus, exam: QuickZeroShot, model: DualModel, ranks: Ranks) -> None:
        self.exam, self.ranks = exam, ranks
        own = self.exam.numbers[ranks.rank :: ranks.world].tolist()
        self._pixels = _decoded(corpus, own, model.preprocess)
        fixed = model.frozen_text and self.exam.texts
        self._pooled = Pooled(self.exam.texts, computed(model, self.exam.texts)) if fixed else None

    def __bool__(self) -> bool:
        return len(self.exam.numbers) > 0

    def __call__(self, towers: Towers) -> dict[str, Any]:
        """macro_auroc and balanced_accuracy in [0, 1], means over sources, and those of each under `sources`."""
        with torch.no_grad(), torch.autocast(towers.device.type, torch.bfloat16, enabled=towers.bf16):
            images, texts = self._image_rows(towers), self._text_rows(towers)
        figures = self.exam.figures(images, texts, towers.model.logit_scale.exp().item())
        return {metric: figures[metric] for metric in METRICS} | {"sources": _without_nan(figures["sources"])}

    def _image_rows(self, towers: Towers) -> NDArray[np.float32]:
        """The rows of all images, [n, D]: each process embeds every R-th."""
        parts = [towers.image(part.to(towers.device)).float() for part in self._pixels.split(CHUNK) if len(part)]
        own = _numpy(torch.cat(parts)) if parts else np.empty((0, towers.model.dim), np.float32)
        rows = np.empty((len(self.exam.numbers), towers.model.dim), np.float32)
        for rank, part in enumerate(self.ranks.gather_objects(own)):
            rows[rank :: self.ranks.world] = part
        return rows

    def _text_rows(self, towers: Towers) -> NDArray[np.float32]:
        """The rows of all prompts, [P, D]."""
        parts = []
        for start in range(0, len(self.exam.texts), CHUNK):
            texts = self.exam.texts[start : start + CHUNK]
            buckets = [] if self._pooled else in_buckets(texts, towers.model.tokenize)
            micro = Micro(0, torch.empty(0), texts, buckets).to(towers.device)
            parts.append(towers.text(micro, self._pooled).float())
        return _numpy(torch.cat(parts))


def exam_of(corpus: Corpus, recipe: TrainRecipe, bank: Bank, known: Known, seed: int) -> QuickZeroShot:
    """The exam on the validation samples, thinned evenly over sources where they are too many.

    Sources left out of training stay out. known: what is known of the corpus's samples.
    """
    view = ranges_of(corpus, recipe.data, "validation")
    sources = strata_of(corpus, view, "source", recipe.leave_out, recipe.modalities)
    most = max(1, recipe.validation.images // max(1, len(sources)))
    drawn = [
        generator(seed, "validation", source).permutation(ranges.numbers())[:most] for source, ranges in sources.items()
    ]
    numbers = np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
    return QuickZeroShot(corpus, numbers, bank, known=known)


def _decoded(corpus: Corpus, numbers: list[int], preprocess: Preprocess) -> Tensor:
    """uint8 [k, s, s, 3]."""
    pixels = torch.empty(len(numbers), preprocess.size, preprocess.size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(numbers), CHUNK):
            arrays = threads.map(partial(_picture, corpus, preprocess), numbers[start : start + CHUNK])
            pixels[start : start + CHUNK] = torch.from_numpy(np.stack(list(arrays)))
    return pixels


def _picture(corpus: Corpus, preprocess: Preprocess, number: int) -> NDArray[np.uint8]:
    """uint8 [s, s, 3]. Raises DamagedError for an image that cannot be read, with its id."""
    try:
        with pillow_allows(corpus.limits.pixels):
            return preprocess.array(corpus.read(number))
    except (DamagedError, BadImage) as error:
        todo = "build again to restore its shard, or withdraw the image"
        raise DamagedError(f"a validation image: {error}", where=corpus.fields(number)["id"], todo=todo) from None


def _without_nan(sources: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {m: v for m, v in figures.items() if not math.isnan(v)} for name, figures in sources.items()}


def _numpy(rows: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = rows.cpu().numpy()
    return array
