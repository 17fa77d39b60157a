"""Which samples are trained on, and how much of each batch each stratum (source or modality) fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medweave.corpus.order import Order, Ranges, power_weights
from medweave.corpus.store import Corpus
from medweave.errors import RequestError, unknown_name
from medweave.evaluation.parts import numbers_of
from medweave.training.recipe import MixRecipe, TrainRecipe


@dataclass(frozen=True)
class Mix:
    """The strata of the training data. names, ranges, weights: one each a stratum. sources: that are trained on.

    block: neighbours that are visited together.
    """

    names: list[str]
    ranges: list[Ranges]
    weights: list[float]
    sources: list[str]
    block: int

    @property
    def samples(self) -> int:
        """Training samples."""
        return sum(len(ranges) for ranges in self.ranges)

    def order(self, batch: int, seed: int) -> Order:
        """The order of samples. Raises RequestError when a batch asks for more than there is."""
        if self.samples < batch:
            raise RequestError(
                f"{self.samples} training samples are fewer than a batch of {batch}",
                where="train.batch",
                todo="take a smaller batch, or more data",
            )
        return Order(self.ranges, self.weights, batch, seed, self.block)


def mix_of(corpus: Corpus, recipe: TrainRecipe) -> Mix:
    """The training part of a corpus by strata. Raises RequestError for unknown names and when nothing is left."""
    sources = {stratum.source for stratum in corpus.strata}
    for name in recipe.leave_out:
        if name not in sources:
            raise unknown_name("source", name, sources, where="train.leave_out")
    found = _by_name(corpus, recipe)
    if not found:
        raise RequestError("no sample is in the training part", where="train.data", todo="check its split or fold")
    weights = _weights(found, recipe.mix)
    names = [name for name in found if weights[name] > 0]
    if not names:
        raise RequestError("every stratum has weight 0", where="train.mix.weights")
    ranges = [found[name] for name in names]
    block = recipe.mix.block or corpus.block
    return Mix(names, ranges, [weights[name] for name in names], _sources(corpus, ranges), block)


def _by_name(corpus: Corpus, recipe: TrainRecipe) -> dict[str, Ranges]:
    """The training samples of every source or modality, in order of the corpus."""
    numbers = numbers_of(corpus, recipe.data, "train")
    parts: dict[str, list[np.ndarray]] = {}
    for stratum in corpus.strata:
        if stratum.source in recipe.leave_out:
            continue
        first, last = np.searchsorted(numbers, [stratum.start, stratum.stop])
        if last > first:
            parts.setdefault(getattr(stratum, recipe.mix.by), []).append(numbers[first:last])
    return {name: Ranges.of(np.concatenate(part)) for name, part in parts.items()}


def _sources(corpus: Corpus, ranges: Sequence[Ranges]) -> list[str]:
    """The sources with a sample in any of the ranges, sorted."""
    numbers = np.sort(np.concatenate([part.numbers() for part in ranges]))
    ends = [np.searchsorted(numbers, [stratum.start, stratum.stop]) for stratum in corpus.strata]
    return sorted({s.source for s, (first, last) in zip(corpus.strata, ends, strict=True) if last > first})


def _weights(found: dict[str, Ranges], recipe: MixRecipe) -> dict[str, float]:
    if recipe.weights is None:
        return dict(zip(found, power_weights(list(found.values()), recipe.alpha), strict=True))
    for name in recipe.weights:
        if name not in found:
            raise unknown_name(f"training {recipe.by}", name, found, where="train.mix.weights")
    missing = [name for name in found if name not in recipe.weights]
    if missing:
        raise RequestError(
            f"no weight for {', '.join(missing)}",
            where="train.mix.weights",
            todo="give every one a weight; 0: left out",
        )
    return recipe.weights
