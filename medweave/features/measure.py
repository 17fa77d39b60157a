"""How well a teacher does where the answer is known: on labels of a source, and on texts of single samples.

Scores are 0 for chance and 1 for perfect. n samples, d width, C classes, P texts of a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medweave.corpus.captions.bank import Bank
from medweave.corpus.order import Numbers, Ranges
from medweave.corpus.sample import State
from medweave.corpus.store import Corpus
from medweave.features.rows import Rows
from medweave.features.store import Features
from medweave.seeds import generator

Place = tuple[str, str]  # source and modality
CANDIDATES = 8000  # training samples of a source that are looked at
MOST = 2000  # labelled images that it is measured on
LEAST_OF_CLASS = 3  # images of a finding; fewer tell nothing
FOLDS, RIDGE = 5, 0.1
SURE = 1.645  # standard errors above chance: one guesser in twenty passes
SAME, FEWEST = 0.9999, 8  # cosine of texts that are one text; other texts that a rank needs


@dataclass(frozen=True)
class Measured:
    """How a teacher does on one source, or several. error: standard error of the score. images: that told."""

    by: Literal["prompted", "probe"]
    score: float
    error: float
    images: int

    @classmethod
    def together(cls, some: Sequence[Measured]) -> Measured:
        """The mean over sources."""
        error = float(np.linalg.norm([one.error for one in some])) / len(some)
        return cls(some[0].by, float(np.mean([one.score for one in some])), error, sum(one.images for one in some))

    def passes(self, least: float) -> bool:
        """Whether the score is high enough, and surely above chance."""
        return self.score >= least and self.score > SURE * self.error


@dataclass(frozen=True)
class Labelled:
    """A sample that shows one finding. group: whom it is from."""

    number: int
    anatomy: str | None
    finding: str
    group: str


@dataclass(frozen=True)
class Known:
    """labels: of each source and modality, in random order. texts: modality -> samples whose first texts all differ."""

    labels: dict[Place, list[Labelled]]
    texts: dict[str, Numbers]


def known_of(corpus: Corpus, training: Ranges, pool: int, seed: int) -> Known:
    """A seeded draw of labelled samples of each source and of texts of each modality; its work does not grow with n."""
    labels: dict[Place, list[Labelled]] = {}
    texts: dict[str, dict[str, int]] = {}
    for (source, modality), ranges in _places(corpus, training).items():
        random = generator(seed, "measured samples", source, modality)
        labelled: list[Labelled] = []
        own: dict[str, int] = {}
        for number in _drawn(ranges, random):
            fields = corpus.fields(number)
            present = [finding for finding, state in fields["findings"].items() if state == State.PRESENT]
            if len(present) == 1:
                labelled.append(Labelled(number, fields["anatomy"], present[0], fields["group"]))
            if fields["texts"] and len(own) < pool:
                own.setdefault(fields["texts"][0]["text"], number)
        labels[source, modality] = labelled[:MOST]
        texts[modality] = texts.get(modality, {}) | own
    return Known(labels, {modality: _some(own, pool, seed) for modality, own in texts.items() if own})


def measure(features: Features, modality: str, known: Sequence[Labelled], bank: Bank) -> Measured | None:
    """A teacher on the labelled images of one source.

    None where fewer than two findings have enough of them, and for a probe where all are of one fold.
    """
    if "images" not in features.sides:
        return None
    numbers = np.array([one.number for one in known], np.int64)
    there = ~np.isin(numbers, features.unread) & ~absent(features, numbers)
    known = [one for one, has_row in zip(known, there, strict=True) if has_row]
    sizes = Counter(one.finding for one in known)
    classes = sorted(finding for finding, size in sizes.items() if size >= LEAST_OF_CLASS)
    used = [one for one in known if one.finding in classes]
    if len(classes) < 2:
        return None
    rows = features.image(np.array([one.number for one in used]))
    truth = np.array([classes.index(one.finding) for one in used])
    towards = _class_rows(features, modality, used, classes, bank)
    if towards is not None:
        return _scored("prompted", truth, (rows @ towards.T).argmax(1), len(classes))
    folds = np.array([generator("fold of a probe", one.group).integers(FOLDS) for one in used])
    if len(np.unique(folds)) < 2:
        return None
    return _scored("probe", truth, _probe(rows, truth, folds, len(classes)), len(classes))


def absent(features: Features, numbers: Numbers) -> NDArray[np.bool_]:
    """Which samples lack the row of their image or of one of their texts, [n]: rows that others published have gaps."""
    if not features.stamp.gaps:
        return np.zeros(len(numbers), bool)
    owners, which = features.every_text(numbers)
    lacking = owners[~features.text(owners, which).any(1)]
    return ~features.image(numbers).any(1) | np.isin(numbers, lacking)


def pair_ranks(images: Rows, texts: Rows, pool: Rows) -> Rows:
    """For pairs of an image and its own text, two [n, d]: 1 where no text of a pool [P, d] is nearer, -1 where all are.

    Texts of the pool that say the same as the own one do not count; NaN where too few others are left.
    """
    own = (images * texts).sum(1, keepdims=True)
    others = images @ pool.T
    counted = texts @ pool.T < SAME
    below = ((others < own) + 0.5 * (others == own)) * counted
    left = counted.sum(1)
    ranks: Rows = 2 * below.sum(1) / np.maximum(left, 1) - 1
    return np.where(left >= FEWEST, ranks, np.nan).astype(np.float32)


def _places(corpus: Corpus, training: Ranges) -> dict[Place, Ranges]:
    """The training samples of each source and modality."""
    parts: dict[Place, list[Ranges]] = {}
    for stratum in corpus.strata:
        parts.setdefault((stratum.source, stratum.modality), []).append(training.within(stratum.start, stratum.stop))
    return {place: Ranges.joined(some) for place, some in parts.items()}


def _drawn(ranges: Ranges, random: np.random.Generator) -> list[int]:
    """At most CANDIDATES samples of some ranges, in random order."""
    ends = np.cumsum(ranges.stops - ranges.starts)
    places = random.choice(len(ranges), min(len(ranges), CANDIDATES), replace=False)
    numbers: Numbers = places + (ranges.stops - ends)[np.searchsorted(ends, places, side="right")]
    return numbers.tolist()


def _some(own: Mapping[str, int], pool: int, seed: int) -> Numbers:
    """At most `pool` of the samples of some texts, ascending."""
    numbers = np.array(list(own.values()), np.int64)
    return np.sort(generator(seed, "pool of texts").permutation(numbers)[:pool])


def _class_rows(
    features: Features, modality: str, used: Sequence[Labelled], classes: Sequence[str], bank: Bank
) -> Rows | None:
    """The mean row of each class's captions, [C, d]; None where a class has none with a row."""
    rows = []
    for finding in classes:
        anatomies = {one.anatomy for one in used if one.finding == finding}
        captions = {text for anatomy in anatomies for text in bank.captions(modality, anatomy, finding)}
        having = sorted(captions & features.captions.keys())
        if not having:
            return None
        rows.append(features.bank(having).mean(0))
    return np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


def _probe(rows: Rows, truth: NDArray[np.int64], folds: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The class that ridge regression on the other folds gives each row, classes weighing alike: [n]."""
    guess = np.zeros(len(rows), np.int64)
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        weights = 1 / np.bincount(truth[inside], minlength=classes).clip(1)[truth[inside]]
        mean = np.average(rows[inside], axis=0, weights=weights)
        centred = (rows - mean).astype(np.float64)
        weighted = centred[inside] * weights[:, None]
        products = weighted.T @ centred[inside]
        products += np.eye(len(products)) * RIDGE * max(products.trace() / len(products), 1e-12)
        slopes = np.linalg.solve(products, weighted.T @ np.eye(classes)[truth[inside]])
        guess[outside] = (centred[outside] @ slopes).argmax(1)
    return guess


def _scored(
    by: Literal["prompted", "probe"], truth: NDArray[np.int64], guess: NDArray[np.int64], classes: int
) -> Measured:
    """Balanced accuracy, corrected for chance, and its standard error."""
    images = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[truth == guess], minlength=classes)
    likely = (right + 1) / (images + 2)
    error = np.sqrt((likely * (1 - likely) / images).sum()) / classes
    share = 1 - 1 / classes
    return Measured(by, float(((right / images).mean() - 1 / classes) / share), float(error / share), len(truth))
