"""Which samples are trained on, and how much of each batch each stratum (source or modality) fills."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from medweave.corpus.order import Numbers, Order, Ranges, power_weights
from medweave.corpus.store import Corpus
from medweave.corpus.views import strata_of
from medweave.errors import RequestError, unknown_name
from medweave.evaluation.parts import ranges_of
from medweave.files import canonical_json
from medweave.training.recipe import MixRecipe, TrainRecipe

PIECE = 2**16  # numbers that are written as JSON at a time


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

    @property
    def hash(self) -> str:
        """sha256 of the JSON of [names, [[starts, stops] of each stratum]], which is never there as a whole."""
        digest = hashlib.sha256(b"[" + canonical_json(self.names) + b",[")
        for place, ranges in enumerate(self.ranges):
            digest.update(b"," if place else b"")
            for bytes_ in (b"[[", *_json(ranges.starts), b"],[", *_json(ranges.stops), b"]]"):
                digest.update(bytes_)
        digest.update(b"]]")
        return digest.hexdigest()

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
    modalities = {stratum.modality for stratum in corpus.strata}
    for name in recipe.modalities or ():
        if name not in modalities:
            raise unknown_name("modality of the corpus", name, modalities, where="train.modalities")
    view = ranges_of(corpus, recipe.data, "train")
    found = strata_of(corpus, view, recipe.mix.by, recipe.leave_out, recipe.modalities)
    if not found:
        raise RequestError("no sample is in the training part", where="train.data", todo="check its split or fold")
    weights = _weights(found, recipe.mix)
    names = [name for name in found if weights[name] > 0]
    if not names:
        raise RequestError("every stratum has weight 0", where="train.mix.weights")
    ranges, shares = [found[name] for name in names], [weights[name] for name in names]
    block = recipe.mix.block or corpus.block
    return Mix(names, ranges, shares, _sources(corpus, view, recipe, names), block)


def _sources(corpus: Corpus, view: Ranges, recipe: TrainRecipe, names: Collection[str]) -> list[str]:
    """The sources that have training samples in the strata of these names, sorted."""
    sources = strata_of(corpus, view, "source", recipe.leave_out, recipe.modalities)
    if recipe.mix.by == "source":
        return sorted(names)
    inside = [s for s in corpus.strata if s.source in sources and s.modality in names]
    return sorted({s.source for s in inside if len(view.within(s.start, s.stop))})


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


def _json(numbers: Numbers) -> Iterator[bytes]:
    """The numbers of a JSON list, piece by piece."""
    for start in range(0, len(numbers), PIECE):
        text = ",".join(map(str, numbers[start : start + PIECE].tolist()))
        yield (f",{text}" if start else text).encode()
