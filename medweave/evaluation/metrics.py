"""Metrics of classification, for one sample or a thousand bootstrap draws of it at once.

Every metric takes `weights`: how often each image counts in each draw; one row of ones gives the metric as all know it.
All lie in [0, 1]. Higher is better for auroc (0.5 = chance), average precision (prevalence = chance), accuracy, recall,
balanced accuracy and F1; lower is better for ece. A metric that a draw does not define (a class is missing) is NaN.

Images of different folds are scored by different models, so AUROC and average precision only rank images of one fold
against each other: AUROC is the chance that a random positive lies above a random negative of its own fold.

n images, C classes, D draws, G distinct values of a score. Truth: 1 present, 0 absent, -1 unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BINS = 15


@dataclass(frozen=True)
class Scored:
    """One model's scores beside the truth: all that metrics need.

    truth: [n, C] 1, 0, -1. ranking: [n, C], higher = more likely, any monotone scale. probability: [n, C] or None.
    folds: [n]. multi: more than one class may be present. counted: the classes that make up macro averages.
    """

    classes: Sequence[str]
    truth: NDArray[np.int8]
    ranking: Array
    probability: Array | None
    folds: NDArray[np.int64]
    multi: bool
    counted: NDArray[np.int64]


def measure(scored: Scored, weights: Array) -> dict[str, Array]:
    """Every metric, name -> [D]; a metric of one class is called `metric:class`. weights: [D, n]."""
    return _multi_label(scored, weights) if scored.multi else _single_label(scored, weights)


def _single_label(scored: Scored, weights: Array) -> dict[str, Array]:
    truth, guess = scored.truth.argmax(1), scored.ranking.argmax(1)
    recall = recalls(truth, guess, len(scored.classes), weights)
    area = _of_each(auroc, scored, weights)
    found = {
        "macro_auroc": _macro(area, scored.counted),
        "balanced_accuracy": _macro(recall, scored.counted),
        "accuracy": _share((truth == guess).astype(float), weights),
        "macro_f1": _macro(f1s(truth, guess, len(scored.classes), weights), scored.counted),
    }
    if scored.probability is not None:
        found["ece"] = ece(scored.probability.max(1), truth == guess, weights)
    return found | _by_class("auroc", area, scored) | _by_class("recall", recall, scored)


def _multi_label(scored: Scored, weights: Array) -> dict[str, Array]:
    area, precision = _of_each(auroc, scored, weights), _of_each(average_precision, scored, weights)
    found = {"macro_auroc": _macro(area, scored.counted), "macro_ap": _macro(precision, scored.counted)}
    if scored.probability is not None:
        errors = [_label_ece(scored, label, weights) for label in range(len(scored.classes))]
        found["ece"] = _macro(np.stack(errors, 1), scored.counted)
    return found | _by_class("auroc", area, scored) | _by_class("ap", precision, scored)


def auroc(score: Array, present: NDArray[np.bool_], weights: Array, folds: NDArray[np.int64]) -> Array:
    """Chance that a positive lies above a negative of its fold, ties counted half: [D] in [0, 1], 0.5 = chance.

    score, present, folds: [n]. weights: [D, n]. NaN where no fold holds both kinds.
    """
    positive, negative, fold = _counts_by_value(score, present, weights, folds)
    below = _running(negative, fold) - negative
    pairs = _by_fold(positive, fold) * _by_fold(negative, fold)
    return _divide((positive * (below + 0.5 * negative)).sum(1), pairs.sum(1))


def average_precision(score: Array, present: NDArray[np.bool_], weights: Array, folds: NDArray[np.int64]) -> Array:
    """Mean precision at the positives (no interpolation), ranked within their fold: [D] in [0, 1], prevalence = chance.

    score, present, folds: [n]. weights: [D, n]. NaN where there is no positive.
    """
    positive, negative, fold = _counts_by_value(-score, present, weights, folds)
    hits, taken = _running(positive, fold), _running(positive + negative, fold)
    return _divide(
        (positive * np.divide(hits, taken, where=taken > 0, out=np.zeros_like(hits))).sum(1), positive.sum(1)
    )


def recalls(truth: NDArray[np.int64], guess: NDArray[np.int64], classes: int, weights: Array) -> Array:
    """Share of each class's images that are called by its name: [D, C] in [0, 1]. truth, guess: [n] class numbers."""
    of_class = _one_hot(truth, classes)
    return _divide(weights @ (of_class * (truth == guess)[:, None]), weights @ of_class)


def f1s(truth: NDArray[np.int64], guess: NDArray[np.int64], classes: int, weights: Array) -> Array:
    """Harmonic mean of precision and recall of each class: [D, C] in [0, 1]. truth, guess: [n] class numbers."""
    of_class, called = _one_hot(truth, classes), _one_hot(guess, classes)
    return _divide(2 * (weights @ (of_class * called)), weights @ (of_class + called))


def ece(confidence: Array, correct: NDArray[np.bool_], weights: Array, bins: int = BINS) -> Array:
    """Expected calibration error over equal-width bins: [D] in [0, 1], lower is better. confidence, correct: [n]."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = _one_hot(place, bins) * (confidence - correct)[:, None]
    return _divide(np.abs(weights @ gap).sum(1), weights.sum(1))


def _of_each(metric: object, scored: Scored, weights: Array) -> Array:
    """`metric` of each class over the images whose truth is known: [D, C]."""
    columns = []
    for label in range(len(scored.classes)):
        known = scored.truth[:, label] >= 0
        part = (scored.ranking[known, label], scored.truth[known, label] == 1, weights[:, known], scored.folds[known])
        columns.append(metric(*part))  # type: ignore[operator]
    return np.stack(columns, 1)


def _label_ece(scored: Scored, label: int, weights: Array) -> Array:
    assert scored.probability is not None
    known = scored.truth[:, label] >= 0
    return ece(scored.probability[known, label], scored.truth[known, label] == 1, weights[:, known])


def _counts_by_value(
    score: Array, present: NDArray[np.bool_], weights: Array, folds: NDArray[np.int64]
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Positives and negatives at each distinct (fold, score), ascending: two [D, G], and the fold of each value [G]."""
    order = np.lexsort((score, folds))
    score, folds = score[order], folds[order]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(score) != 0) | (np.diff(folds) != 0)
    starts = np.flatnonzero(new)
    ordered = weights[:, order]
    positive = ordered * present[order]
    negative = ordered - positive
    if len(starts) < len(order):
        positive, negative = np.add.reduceat(positive, starts, 1), np.add.reduceat(negative, starts, 1)
    return positive, negative, folds[starts]


def _running(counts: Array, fold: NDArray[np.int64]) -> Array:
    """Running sums of [D, G] that start again at each fold."""
    total = counts.cumsum(1)
    for start in np.flatnonzero(np.diff(fold)) + 1:
        total[:, start:] -= total[:, start - 1 : start]
    return total


def _by_fold(counts: Array, fold: NDArray[np.int64]) -> Array:
    """Sums of [D, G] over each fold: [D, folds]."""
    if counts.shape[1] == 0:
        return np.zeros((len(counts), 1))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(fold)) + 1])
    return np.add.reduceat(counts, starts, 1)


def _macro(by_class: Array, counted: NDArray[np.int64]) -> Array:
    """Mean over the counted classes that a draw defines: [D]. NaN when fewer than two classes are counted."""
    if len(counted) < 2:
        return np.full(len(by_class), np.nan)
    part = by_class[:, counted]
    known = ~np.isnan(part)
    return _divide(np.where(known, part, 0).sum(1), known.sum(1).astype(float))


def _by_class(name: str, columns: Array, scored: Scored) -> dict[str, Array]:
    return {f"{name}:{label}": columns[:, c] for c, label in enumerate(scored.classes)}


def _share(good: Array, weights: Array) -> Array:
    return _divide(weights @ good, weights.sum(1))


def _one_hot(numbers: NDArray[np.int64], count: int) -> Array:
    return np.eye(count)[numbers]


def _divide(above: Array, below: Array) -> Array:
    """NaN where `below` is zero, without a warning."""
    return np.divide(above, below, where=below > 0, out=np.full(np.shape(above), np.nan))
