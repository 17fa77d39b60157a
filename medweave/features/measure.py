"""How well a teacher does where the answer is known: on labels of a source, and on texts of single samples.

Scores are 0 for chance and 1 for perfect. n samples, d width, C classes, P texts of a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
MOST = 2000  # labelled images that a source is measured on
LEAST, LEAST_OF_CLASS = 30, 5  # fewer tell nothing
FOLDS, RIDGE = 5, 0.1
SURE = 1.645  # standard errors above chance: one guesser in twenty passes
SAME, FEWEST = 0.9999, 8  # cosine of texts that are one text; other texts that a rank needs


@dataclass(frozen=True)
class Measured:
    """How a teacher does on one source. error: standard error of the score. images: that it was measured on."""

    by: Literal["prompted", "probe"]
    score: float
    error: float
    images: int

    def passes(self, least: float) -> bool:
        """Whether the score is high enough, and surely above chance."""
        return self.score >= least and self.score > SURE * self.error


@dataclass
class Draw:
    """At most `most` things out of a stream, each with the same chance. Each has a key; the smallest are kept."""

    most: int
    kept: list[tuple[float, Any]] = field(default_factory=list)

    def add(self, key: float, thing: Any) -> None:
        """Offer one thing."""
        self.kept.append((key, thing))
        if len(self.kept) >= 2 * self.most:
            self._trim()

    def things(self) -> list[Any]:
        """What was drawn, in the order of the stream."""
        self._trim()
        return sorted(thing for _, thing in self.kept)

    def _trim(self) -> None:
        self.kept = sorted(self.kept)[: self.most]


@dataclass(frozen=True)
class Known:
    """labels: source and modality -> (number, anatomy, finding, group) of samples that show one finding.

    texts: modality -> numbers of samples whose first texts all differ.
    """

    labels: dict[Place, list[tuple[int, str, str, str]]]
    texts: dict[str, Numbers]


def known_of(corpus: Corpus, training: Ranges, pool: int, seed: int) -> Known:
    """A seeded draw of labelled samples of each source, and of texts of each modality, in one pass over the index."""
    labels: dict[Place, Draw] = {}
    texts: dict[str, Draw] = {}
    random = generator(seed, "measured samples")
    for number, row in _rows_of(corpus, training):
        key = float(random.random())
        present = [one["name"] for one in row["findings"] or () if one["state"] == State.PRESENT]
        if len(present) == 1:
            draw = labels.setdefault((row["source"], row["modality"]), Draw(MOST))
            draw.add(key, (number, row["anatomy"] or "", present[0], row["group"]))
        if row["texts"]:
            texts.setdefault(row["modality"], Draw(2 * pool)).add(key, (number, row["texts"][0]["text"]))
    drawn = {modality: {text: number for number, text in draw.things()} for modality, draw in texts.items()}
    pools = {modality: np.array(sorted(one.values())[:pool], np.int64) for modality, one in drawn.items()}
    return Known({place: draw.things() for place, draw in labels.items()}, pools)


def measure(
    features: Features, place: Place, known: Sequence[tuple[int, str, str, str]], bank: Bank
) -> Measured | None:
    """A teacher on the labelled images of one source; None where they are too few, or of one finding only."""
    known = [one for one in known if one[0] not in features.unread]
    sizes = Counter(finding for _, _, finding, _ in known)
    classes = sorted(finding for finding, size in sizes.items() if size >= LEAST_OF_CLASS)
    used = [one for one in known if one[2] in classes]
    if len(classes) < 2 or len(used) < LEAST or "images" not in features.sides:
        return None
    rows = features.image(np.array([number for number, *_ in used]))
    truth = np.array([classes.index(finding) for _, _, finding, _ in used])
    towards = _class_rows(features, place[1], used, classes, bank)
    if towards is not None:
        return _scored("prompted", truth, (rows @ towards.T).argmax(1), len(classes))
    folds = np.array([generator("fold of a probe", group).integers(FOLDS) for *_, group in used])
    return _scored("probe", truth, _probe(rows, truth, folds, len(classes)), len(classes))


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


def _rows_of(corpus: Corpus, training: Ranges) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number and the fields of each sample of `training`."""
    first = 0
    for batch in corpus.batches(["source", "modality", "anatomy", "group", "findings", "texts"]):
        here = training.within(first, first + len(batch)).numbers()
        yield from zip(here.tolist(), batch.take(here - first).to_pylist(), strict=True)
        first += len(batch)


def _class_rows(
    features: Features, modality: str, used: Sequence[tuple[int, str, str, str]], classes: Sequence[str], bank: Bank
) -> Rows | None:
    """The mean row of each class's captions, [C, d]; None where a class has none with a row."""
    places: dict[str, set[str]] = {}
    for _, anatomy, finding, _ in used:
        places.setdefault(finding, set()).add(anatomy)
    rows = []
    for finding in classes:
        captions = {text for a in places[finding] for text in bank.captions(modality, a or None, finding)}
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
