"""One number for many test sets: the mean over sets, each set the same weight, with its bootstrap interval.

Draws are taken inside each set and then averaged. With the same seed two models see the same draws, so that their
difference is paired. D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medweave.evaluation import statistics
from medweave.evaluation.predictions import Predictions
from medweave.evaluation.scoring import HEADLINES, estimate, headline

Array = NDArray[np.float64]
METRICS = tuple(dict.fromkeys(HEADLINES[False] + HEADLINES[True]))


class Drawn:
    """The headline metrics of one model on one set: values, and draws [D] that pair with another model's.

    draws_of_p: those that p values rest on, where they are others than those of the intervals.
    """

    def __init__(
        self, predictions: Predictions, draws: int, seed: int, draws_of_p: dict[str, Array] | None = None
    ) -> None:
        truth, groups = predictions.truth, predictions.groups
        statistic = headline(predictions)
        strata = statistics.strata_of(truth, groups)
        counted = statistics.counted_classes(truth, groups)
        self.reason = statistics.why_no_interval(truth, groups, counted)
        self.smallest = statistics.smallest_class(truth, groups, counted)
        self.images = len(truth)
        self.values = {name: float(v[0]) for name, v in statistic(np.ones((1, len(truth)))).items()}
        self.draws = statistics.bootstrap(statistic, groups, strata, draws, seed)
        self.draws_of_p = draws_of_p or self.draws


def paired_draws(models: Sequence[Predictions], draws: int, seed: int) -> list[dict[str, Array]]:
    """The draws [D] of each model's headline metrics on the same images, as `Drawn` has them, at less cost."""
    each = [headline(one) for one in models]

    def together(weights: Array) -> dict[str, Array]:
        return {f"{name}|{place}": v for place, one in enumerate(each) for name, v in one(weights).items()}

    first = models[0]
    strata = statistics.strata_of(first.truth, first.groups)
    drawn = statistics.bootstrap(together, first.groups, strata, draws, seed)
    names = HEADLINES[first.multi]
    return [{name: drawn[f"{name}|{place}"] for name in names} for place in range(len(models))]


def macro(sets: Sequence[Drawn], metric: str) -> dict[str, Any] | None:
    """Mean of a metric over the sets that define it, its interval if one of them has one; None when no set does."""
    defined = [one for one in sets if not np.isnan(one.values.get(metric, np.nan))]
    if not defined:
        return None
    value = float(np.mean([one.values[metric] for one in defined]))
    draws = mean_draws([one.draws[metric] for one in defined]) if any_interval(defined) else None
    found: dict[str, Any] = estimate(value, draws, sum(one.smallest for one in defined))
    return found | {"sets": len(defined), "images": sum(one.images for one in defined)}


def any_interval(sets: Sequence[Drawn]) -> bool:
    """Whether a mean over some sets has an interval: not where each of them is too small for one."""
    return any(one.reason is None for one in sets)


def mean_draws(draws: Sequence[Array]) -> Array:
    """Mean over sets of their draws, [D]; a draw that a set does not define is left to the others."""
    stacked = np.stack(draws)
    known = ~np.isnan(stacked)
    return np.divide(
        np.where(known, stacked, 0).sum(0), known.sum(0), where=known.any(0), out=np.full(stacked.shape[1], np.nan)
    )


def summary(sets: dict[str, Drawn], facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Macro averages of one model: over all sets, without the confounded ones, and of each modality.

    sets, facts: by name of the result; facts have `confounded` and `modality`.
    """
    sound = [name for name in sets if not facts[name]["confounded"]]
    chosen = {"all": list(sets), "without confounded": sound}
    for modality in sorted({facts[name]["modality"] for name in sets}):
        chosen[modality] = [name for name in sets if facts[name]["modality"] == modality]
    return {title: _metrics([sets[name] for name in names]) for title, names in chosen.items()}


def _metrics(sets: list[Drawn]) -> dict[str, Any]:
    found = {metric: macro(sets, metric) for metric in METRICS}
    return {metric: value for metric, value in found.items() if value is not None}
