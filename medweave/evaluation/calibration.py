"""Temperature scaling (arXiv 1706.04599): one number, fitted on validation images, that makes confidences honest.

Probabilities are softmax(logits / T), or sigmoid(logits / T) of each label. T > 1 softens, T < 1 sharpens; the order of
the classes never changes. A few images that all happen to be right would ask for T near 0, certainty without end: so
T = 1, the model's own word, is held likelier before any image is seen, log T being normal about 0. v validation images,
C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from medweave.evaluation.statistics import LEAST

Array = NDArray[np.float64]
WIDEST = 1000.0  # T lies between 1/1000 and 1000
SPREAD = 0.5  # standard deviation of log T before any image is seen: most models are within a factor of 3


def fit_temperature(logits: Array, truth: NDArray[np.int8], groups: NDArray, multi: bool) -> dict[str, Any]:
    """The likeliest temperature, every group weighing the same; None with the reason when it would lie.

    logits, truth: [v, C]; groups: [v]. Returns {"temperature", "images", "groups", "reason"}.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    facts: dict[str, Any] = {"temperature": None, "images": len(truth), "groups": len(sizes), "reason": None}
    if len(truth) < LEAST["images"] or len(sizes) < LEAST["groups"]:
        return facts | {"reason": f"{len(truth)} validation images in {len(sizes)} groups are too few"}
    weights = 1 / sizes[member]
    bound = np.log(WIDEST)

    def unlikely(t: float) -> float:
        return _loss(logits / np.exp(t), truth, weights, multi) + 0.5 * (t / SPREAD) ** 2

    best = minimize_scalar(unlikely, bounds=(-bound, bound), method="bounded")
    return facts | {"temperature": float(np.exp(best.x))}


def _loss(logits: Array, truth: NDArray[np.int8], weights: Array, multi: bool) -> float:
    if not multi:
        return -float((log_softmax(logits, 1) * (truth == 1)).sum(1) @ weights)
    return -float((log_expit(logits) * (truth == 1) + log_expit(-logits) * (truth == 0)).sum(1) @ weights)
