"""Predictions -> the numbers of one result: metrics with intervals, per class, spread over variants, baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medweave.evaluation import statistics
from medweave.evaluation.metrics import measure
from medweave.evaluation.predictions import Predictions

Array = NDArray[np.float64]

CALIBRATED = "calibrated"
HEADLINES = {False: ("macro_auroc", "balanced_accuracy"), True: ("macro_auroc", "macro_ap")}  # by multi


def numbers(predictions: Predictions, draws: int, seed: int) -> dict[str, Any]:
    """Everything that predictions and their truth say: the metric part of one result, ready for JSON."""
    values, drawn, reason = point_and_draws(predictions, _everything(predictions), draws, seed)
    counted = statistics.counted_classes(predictions.truth, predictions.groups)
    smallest = statistics.smallest_class(predictions.truth, predictions.groups, counted)
    whole = [name for name in values if ":" not in name and "|" not in name]
    return {
        "n": len(predictions.ids),
        "groups": len(np.unique(predictions.groups)),
        "multi_label": predictions.multi,
        "metrics": {name: estimate(float(values[name][0]), drawn.get(name), smallest) for name in whole},
        "no_interval": reason,
        "per_class": _per_class(predictions, values, drawn),
        "not_counted": _not_counted(predictions),
        "spread": _spread(predictions, values, drawn, smallest),
        "chance": _chance(predictions),
        "majority": None if predictions.multi else _majority(predictions),
    }


def estimate(value: float, draws: Array | None, groups: int) -> dict[str, float | None]:
    """A metric with its interval, ready for JSON: None for what is undefined. groups: that it rests on."""
    low, high = statistics.limits(draws, groups) if draws is not None else (None, None)
    return {"value": None if np.isnan(value) else float(value), "low": low, "high": high}


def with_positive(numbers: dict[str, Any], positive: str | None) -> dict[str, Any]:
    """The same numbers with sensitivity and specificity, where one of two classes is what is looked for."""
    per_class = numbers["per_class"]
    if numbers["multi_label"] or len(per_class) != 2 or positive not in per_class:
        return numbers
    (other,) = set(per_class) - {positive}
    rates = {"sensitivity": per_class[positive]["recall"], "specificity": per_class[other]["recall"]}
    return numbers | {"metrics": numbers["metrics"] | rates}


def headline(predictions: Predictions) -> Callable[[Array], dict[str, Array]]:
    """The statistic of the few metrics that tables and comparisons show: weights [D, n] -> name -> [D]."""
    scored = predictions.scored(predictions.answer)
    wanted = HEADLINES[predictions.multi]

    def statistic(weights: Array) -> dict[str, Array]:
        found = measure(scored, weights)
        return {name: found[name] for name in wanted}

    return statistic


def point_and_draws(
    predictions: Predictions, statistic: Callable[[Array], dict[str, Array]], draws: int, seed: int
) -> tuple[dict[str, Array], dict[str, Array], str | None]:
    """The statistic on the images as they are [1], in each draw [D], and why there is no draw (then that is empty)."""
    truth, groups = predictions.truth, predictions.groups
    values = statistic(np.ones((1, len(truth))))
    reason = statistics.why_no_interval(truth, groups, statistics.counted_classes(truth, groups))
    if reason:
        return values, {}, reason
    strata = statistics.strata_of(truth, groups)
    return values, statistics.bootstrap(statistic, groups, strata, draws, seed), None


def _everything(predictions: Predictions) -> Callable[[Array], dict[str, Array]]:
    """All metrics of the answer, calibrated ECE, and the headlines of each variant as `title|name|metric`."""
    answer = predictions.scored(predictions.answer)
    calibrated = predictions.scored(CALIBRATED) if CALIBRATED in predictions.scores else None
    variants = {
        (title, name): predictions.scored(name) for title, names in predictions.variants.items() for name in names
    }

    def statistic(weights: Array) -> dict[str, Array]:
        found = measure(answer, weights)
        if calibrated is not None:
            found["ece_calibrated"] = measure(calibrated, weights)["ece"]
        for (title, name), scored in variants.items():
            one = measure(scored, weights)
            found |= {f"{title}|{name}|{metric}": one[metric] for metric in HEADLINES[predictions.multi]}
        return found

    return statistic


def _per_class(predictions: Predictions, values: dict[str, Array], drawn: dict[str, Array]) -> dict[str, Any]:
    """Counts and metrics of each class; an interval only where those that it rests on are enough."""
    found: dict[str, Any] = {}
    for place, label in enumerate(predictions.classes):
        truth = predictions.truth[:, place]
        shown, lacked = (statistics.size(truth == state, predictions.groups) for state in (1, 0))
        found[label] = {"n": shown[0], "groups": shown[1]}
        for metric in ("auroc", "recall", "ap"):
            name = f"{metric}:{label}"
            if name in values:
                images, groups = shown if metric == "recall" else map(min, shown, lacked)
                draws = drawn.get(name) if statistics.enough(images, groups) else None
                found[label][metric] = estimate(float(values[name][0]), draws, groups)
    return found


def _not_counted(predictions: Predictions) -> list[str]:
    """Classes that rest on fewer than three groups: in no macro average."""
    counted = set(statistics.counted_classes(predictions.truth, predictions.groups).tolist())
    return [label for place, label in enumerate(predictions.classes) if place not in counted]


def _spread(
    predictions: Predictions, values: dict[str, Array], drawn: dict[str, Array], smallest: int
) -> dict[str, Any]:
    """Mean and standard deviation of each headline over the variants of a title, and each variant's own value."""
    found: dict[str, Any] = {}
    for title, names in predictions.variants.items():
        found[title] = {}
        for metric in HEADLINES[predictions.multi]:
            keys = [f"{title}|{name}|{metric}" for name in names]
            each = [float(values[key][0]) for key in keys]
            draws = np.mean([drawn[key] for key in keys], axis=0) if drawn else None
            mean = estimate(float(np.mean(each)), draws, smallest)
            single = {name: None if np.isnan(v) else v for name, v in zip(names, each, strict=True)}
            deviation = None if mean["value"] is None else float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
            found[title][metric] = mean | {"sd": deviation, "values": single}
    return found


def _chance(predictions: Predictions) -> dict[str, float]:
    """What guessing gives."""
    if not predictions.multi:
        share = 1 / len(predictions.classes)
        return {"macro_auroc": 0.5, "balanced_accuracy": share, "accuracy": share}
    counted = statistics.counted_classes(predictions.truth, predictions.groups)
    truth = predictions.truth[:, counted]
    known = np.maximum((truth >= 0).sum(0), 1)
    return {"macro_auroc": 0.5, "macro_ap": float(np.mean((truth == 1).sum(0) / known)) if len(counted) else 0.0}


def _majority(predictions: Predictions) -> dict[str, float | str | None]:
    """What always naming the most frequent class of the test part gives."""
    most = int((predictions.truth == 1).sum(0).argmax())
    always = np.zeros(predictions.truth.shape)
    always[:, most] = 1.0
    found = measure(replace(predictions.scored(predictions.answer), ranking=always), np.ones((1, len(always))))
    values = {name: float(found[name][0]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    return {"class": predictions.classes[most]} | {k: None if np.isnan(v) else v for k, v in values.items()}
