"""Temperature scaling (arXiv 1706.04599): one number, fitted on validation images, that makes confidences honest.

Probabilities are softmax(logits / T), or sigmoid(logits / T) of each label. T > 1 softens, T < 1 sharpens; the order of
the classes never changes. v validation images, C classes.
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


def fit_temperature(logits: Array, truth: NDArray[np.int8], groups: NDArray, multi: bool) -> dict[str, Any]:
    """The temperature with the least log loss, every group weighing the same; None with the reason when it would lie.

    logits, truth: [v, C]; groups: [v]. Returns {"temperature", "images", "groups", "reason"}.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    facts: dict[str, Any] = {"temperature": None, "images": len(truth), "groups": len(sizes), "reason": None}
    if len(truth) < LEAST["images"] or len(sizes) < LEAST["groups"]:
        return facts | {"reason": f"{len(truth)} validation images in {len(sizes)} groups are too few"}
    weights = 1 / sizes[member]
    bound = np.log(WIDEST)
    best = minimize_scalar(
        lambda t: _loss(logits / np.exp(t), truth, weights, multi), bounds=(-bound, bound), method="bounded"
    )
    return facts | {"temperature": float(np.exp(best.x))}


def _loss(logits: Array, truth: NDArray[np.int8], weights: Array, multi: bool) -> float:
    if not multi:
        return -float((log_softmax(logits, 1) * (truth == 1)).sum(1) @ weights)
    return -float((log_expit(logits) * (truth == 1) + log_expit(-logits) * (truth == 0)).sum(1) @ weights)
