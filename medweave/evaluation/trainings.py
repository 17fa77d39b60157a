"""What a model was trained on: its own training, and those of the models that it goes on from, one after another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medweave.corpus.order import Ranges
from medweave.corpus.verify import content_of
from medweave.corpus.views import strata_of
from medweave.errors import RequestError
from medweave.evaluation.parts import ranges_of
from medweave.evaluation.recipe import Part

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

Flags = NDArray[np.bool_]
ROWS = 65_536  # training images held at a time


@dataclass(frozen=True)
class Training:
    """One training of a model, on a corpus that is at hand. samples: how many that had; later ones were appended since.

    part, leave_out: which part of it, but for these sources.
    """

    corpus: Corpus
    samples: int
    part: Part
    leave_out: Collection[str]

    @cached_property
    def mask(self) -> Flags:
        """Which samples of the corpus it was trained on: [samples]."""
        view = ranges_of(self.corpus, self.part, "train").within(0, self.samples)
        return strata_of(self.corpus, view, "all", self.leave_out).get("all", Ranges.of([])).mask(len(self.corpus))

    @property
    def sources(self) -> set[str]:
        """The sources of its images."""
        return {stratum.source for stratum in self.corpus.strata if self.mask[stratum.start : stratum.stop].any()}

    def rows(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of its images, piece by piece."""
        first = 0
        for batch in self.corpus.batches(columns, ROWS):
            yield batch.filter(pa.array(self.mask[first : first + len(batch)]))
            first += len(batch)

    def seen(self, asked: Part, source: str | None) -> int:
        """How many test images of `asked` it was trained on, of one source or of all; none of those that it kept."""
        if asked == self.part:
            return 0
        both = self.mask & ranges_of(self.corpus, asked, "test").mask(len(self.corpus))
        return sum(int(both[s.start : s.stop].sum()) for s in self.corpus.strata if source in (None, s.source))


@dataclass(frozen=True)
class Trained:
    """All that a model was trained on, as far as it is known. trainings: those on corpora at hand, newest first.

    whole: whether these are all of them.
    """

    trainings: list[Training]
    whole: bool

    def on(self, corpus: Corpus) -> list[Training]:
        """The trainings on this very corpus, newest first."""
        return [training for training in self.trainings if training.corpus is corpus]


def trainings_of(facts: dict[str, Any], corpus: Corpus) -> Trained:
    """All that a model was trained on, before it is tested on a corpus.

    facts: `trained_on: {corpus: hash, path, part, leave_out, before}`; `before` says the same of the model that it
    went on from, null where nothing is known of that, and is left out where there is none.
    """
    told = list(_told(facts.get("trained_on")))
    trainings = [training_of(one, corpus) for one in told]
    known = [training for training in trainings if training is not None]
    return Trained(known, whole=len(known) == len(told))


def training_of(told: dict[str, Any] | None, corpus: Corpus) -> Training | None:
    """One training, on the given corpus or the one at its path; None when it is not known or its corpus not at hand."""
    if not told:
        return None
    for found in _at_hand(told, corpus):
        samples = _samples_at(found, told["corpus"])
        if samples is not None:
            part = Part.model_validate(told.get("part") or {})
            return Training(found, samples, part, told.get("leave_out") or [])
    return None


def without_places(trained_on: dict[str, Any] | None) -> dict[str, Any] | None:
    """What facts say that a model was trained on, without where that lies."""
    if not trained_on:
        return trained_on
    known = {name: value for name, value in trained_on.items() if name != "path"}
    return known | ({"before": without_places(known["before"])} if "before" in known else {})


def check_unseen(asked: Part, trainings: Sequence[Training], source: str | None, where: str) -> None:
    """Raise RequestError when test images of `asked` are among those that a model was trained on.

    trainings: all of the model on the tested corpus, newest first. source: the one that is tested; None: all.
    """
    for training in trainings:
        seen = training.seen(asked, source)
        if seen:
            model = "the model" if training is trainings[0] else "the model that this one goes on from"
            raise RequestError(
                f"{seen} test images of {_named(asked)} are images that {model} was trained on, which kept "
                f"{_named(training.part)} for its test",
                where=where,
                todo=_unseen(trainings, source),
            )


def _unseen(trainings: Sequence[Training], source: str | None) -> str:
    """What to ask for in place of a part that was trained on: the model's own, unless an earlier training met that."""
    own = trainings[0].part
    if any(training.seen(own, source) for training in trainings):
        return f"test it on another corpus, or train it from a model that kept {_named(own)} too"
    return f"give evaluate.{'data=null' if own.overlay is None else f'data.fold={own.fold}'}"


def _named(part: Part) -> str:
    return f"split {part.test}" if part.overlay is None else f"fold {part.fold} of {part.overlay}"


def _told(trained_on: dict[str, Any] | None) -> Iterator[dict[str, Any] | None]:
    """What is said of each training of a model, newest first; None where nothing is."""
    yield trained_on
    if trained_on and "before" in trained_on:
        yield from _told(trained_on["before"])


def _at_hand(told: dict[str, Any], corpus: Corpus) -> Iterator[Corpus]:
    """The corpora that a training may have been on."""
    from medweave.corpus.store import corpus_at

    yield corpus
    other = corpus_at(told.get("path"))
    if other is not None:
        yield other


def _samples_at(corpus: Corpus, hash: str) -> int | None:
    """How many samples a corpus had when this was its hash; None where it never was.

    A build on a corpus only appends shards, so an earlier hash is that of its first ones. What was appended later has
    the splits and folds of the whole corpus, but was not trained on.
    """
    if corpus.hash == hash:
        return len(corpus)
    for count in range(len(corpus.shards) - 1, 0, -1):
        shards = corpus.shards[:count]
        samples = sum(shard["samples"] for shard in shards)
        if content_of(corpus.facts["format"], shards, _first(corpus.facts["strata"], samples)) == hash:
            return samples
    return None


def _first(strata: Sequence[dict[str, Any]], samples: int) -> list[dict[str, Any]]:
    """The strata of the first samples of a corpus, as corpus.json lists them."""
    found = []
    for stratum in strata:
        if samples <= 0:
            break
        found.append(stratum | {"samples": min(stratum["samples"], samples)})
        samples -= stratum["samples"]
    return found
