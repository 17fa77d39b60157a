"""How sure a number is: bootstrap over groups, paired differences of models, correction for many tests.

A draw takes whole groups (patients, tiles, near-duplicates) with replacement, as many of each class as there are. It is
kept as weights, how often each image counts, so that every metric sees all draws at once and two models the same draws.

n images, G groups, S strata, D draws. p values lie in (0, 1]; small = the difference is no accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medweave import seeds

Array = NDArray[np.float64]
Statistic = Callable[[Array], dict[str, Array]]

LEVEL = 0.95
SIGNIFICANT = 0.05  # corrected p below it
LEAST = {"images": 20, "groups": 10, "images of each class": 5}
LEAST_GROUPS = 3  # of a class, to count in macro averages
CELLS = 4_000_000  # weights held at a time, 32 MB
AT_ONCE = 1000  # draws at most: more are slower, for they leave the processor's cache


def bootstrap(statistic: Statistic, groups: NDArray, strata: NDArray, draws: int, *seed: seeds.Key) -> dict[str, Array]:
    """Each metric of `statistic` in each draw, name -> [D]. groups, strata: [n] as of `weights`.

    The draws of a metric are moved so that their mean is its value on the images as they are: a draw repeats images,
    which alone lifts average precision and calibration error.
    """
    parts = [statistic(part) for part in weights(groups, strata, draws, *seed)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values = statistic(np.ones((1, len(groups))))
    return {name: _moved(values[name][0], drawn[name]) for name in drawn}


def _moved(value: float, draws: Array) -> Array:
    known = draws[~np.isnan(draws)]
    return draws + (value - known.mean()) if len(known) and not np.isnan(value) else draws


def weights(groups: NDArray, strata: NDArray, draws: int, *seed: seeds.Key) -> Iterator[Array]:
    """Draws of groups within strata as weights, [d, n] at a time, `draws` rows in all.

    groups: [n] any labels. strata: [n], the same for all images of a group (see `strata_of`).
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    stratum = _without_singles(np.unique(np.asarray(strata)[first], return_inverse=True)[1])
    random = seeds.generator("bootstrap", *seed)
    step = min(AT_ONCE, max(1, CELLS // len(member)))
    for start in range(0, draws, step):
        counts = _draw(random, stratum, min(step, draws - start))
        yield counts[:, member]


def _draw(random: np.random.Generator, stratum: NDArray[np.int64], draws: int) -> Array:
    """How often each group is taken: [d, G]; each stratum's counts sum to its number of groups."""
    counts = np.zeros((draws, len(stratum)))
    for value in range(stratum.max() + 1):
        places = np.flatnonzero(stratum == value)
        if len(places):
            counts[:, places] = random.multinomial(len(places), np.full(len(places), 1 / len(places)), size=draws)
    return counts


def _without_singles(stratum: NDArray[np.int64]) -> NDArray[np.int64]:
    """Strata of one group would never vary: they join the largest stratum."""
    sizes = np.bincount(stratum)
    return np.where(sizes[stratum] < 2, sizes.argmax(), stratum)


def strata_of(truth: NDArray[np.int8], groups: NDArray) -> NDArray[np.int64]:
    """The stratum of each image, [n]: the rarest class that its group holds, C when it holds none. truth: [n, C]."""
    _, member = np.unique(groups, return_inverse=True)
    held = np.zeros((member.max() + 1, truth.shape[1]), bool)
    np.logical_or.at(held, member, truth == 1)
    rarest_first = np.argsort(held.sum(0), kind="stable")
    ranked = held[:, rarest_first]
    stratum = np.where(ranked.any(1), rarest_first[ranked.argmax(1)], truth.shape[1])
    return stratum[member]


def size(part: NDArray[np.bool_], groups: NDArray) -> tuple[int, int]:
    """How many images and groups are in a part of the images. part, groups: [n]."""
    return int(part.sum()), len(np.unique(groups[part]))


def class_sizes(truth: NDArray[np.int8], groups: NDArray) -> NDArray[np.int64]:
    """Images and groups that the figures of each class rest on, [C, 2]. truth: [n, C].

    Those that show the class; where images show several or some is not known, those that lack it if they are fewer.
    Where every image shows one class, those that lack it are the other classes, which have their own sizes.
    """
    shown = [size(column == 1, groups) for column in truth.T]
    if ((truth == 1).sum(1) == 1).all() and (truth >= 0).all():
        return np.array(shown, np.int64)
    return np.minimum(shown, [size(column == 0, groups) for column in truth.T])


def enough(images: int, groups: int) -> bool:
    """Whether a figure of one class that rests on so many images and groups may have an interval."""
    return images >= LEAST["images of each class"] and groups >= LEAST_GROUPS


def why_no_interval(truth: NDArray[np.int8], groups: NDArray, counted: NDArray[np.int64]) -> str | None:
    """The reason why an interval would lie, or None. truth: [n, C]; counted: the classes of the macro average."""
    smallest = int(class_sizes(truth, groups)[counted, 0].min()) if len(counted) else 0
    have = {"images": len(truth), "groups": len(np.unique(groups)), "images of each class": smallest}
    short = [f"{have[what]} {what}, needs {least}" for what, least in LEAST.items() if have[what] < least]
    return "; ".join(short) or None


def counted_classes(truth: NDArray[np.int8], groups: NDArray) -> NDArray[np.int64]:
    """The classes that rest on at least three groups: the others leave macro averages. truth: [n, C]."""
    return np.flatnonzero(class_sizes(truth, groups)[:, 1] >= LEAST_GROUPS)


def interval(values: Array, level: float = LEVEL) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval of draws [D], those that are undefined left out; (None, None) when most are undefined."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or len(known) == 0:
        return None, None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def limits(values: Array, groups: int) -> tuple[float, float] | tuple[None, None]:
    """The interval of a metric in [0, 1] from its draws [D]. groups: that it rests on (see `class_sizes`).

    A metric that is 1 (or 0) in every draw tells nothing of its spread: it gets the exact limit of a proportion, that
    many groups and no miss (or no hit) among them.
    """
    low, high = interval(np.clip(values, 0.0, 1.0))
    exact = ((1 - LEVEL) / 2) ** (1 / max(groups, 1))
    if low == high == 1.0:
        return exact, 1.0
    if low == high == 0.0:
        return 0.0, 1 - exact
    return low, high  # type: ignore[return-value]


def smallest_class(truth: NDArray[np.int8], groups: NDArray, counted: NDArray[np.int64]) -> int:
    """Groups that the smallest counted class rests on. truth: [n, C]."""
    return int(class_sizes(truth, groups)[counted, 1].min()) if len(counted) else 0


def p_value(differences: Array) -> float:
    """Two-sided p of "no difference" from paired draws [D]: in (0, 1]."""
    known = differences[~np.isnan(differences)]
    fewer = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(known) + 1)))


def least_draws(tests: int) -> int:
    """The draws from which the least p that they can give is significant after Holm's correction for so many tests."""
    return math.ceil(2 * tests / SIGNIFICANT)


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given: in (0, 1]."""
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return corrected.tolist()
