"""Linear probe: logistic regression on frozen features, learnt from the training images of the case.

Features are standardised by the training images, rotated into their own span (an L2-regularised fit does not change
by it, and has n rather than w columns), and fitted with classes weighted alike. The strength of the regularisation is
chosen on grouped inner folds of them (training and validation split together, unless told otherwise). Few-shot: k
images of each class (of several labels: k that show each, and k that do not), one a group as far as groups go, drawn
several times; too few to choose on, so their strength is fixed.

n images, C classes, w width of features.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medweave import seeds
from medweave.errors import UserError
from medweave.evaluation.answer import Answer, Setting
from medweave.evaluation.cases import Case, Items
from medweave.evaluation.recipe import TaskRecipe
from medweave.evaluation.statistics import strata_of
from medweave.files import hash_of

Array = NDArray[np.float64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: larger is less regularised
FEW_SHOT_STRENGTH = 1e-2
INNER_FOLDS = 5
FLOOR = -30.0  # log-odds of a class that the training part lacks


class Recipe(TaskRecipe):
    """Options of the linear probe."""

    title: ClassVar[str] = "linear probe"
    kind: Literal["probe"] = Field("probe", description="logistic regression on frozen features")
    shots: list[int] = Field([1, 4, 16], description="few-shot sizes, images a class")
    repeats: int = Field(5, ge=2, description="draws of each few-shot size")
    features: Literal["tower", "joint"] = Field("tower", description="tower: before the projection; joint: embeddings")
    validation: bool = Field(True, description="fit on the validation part too; false: on the training part alone")


def run(case: Case, setting: Setting) -> Answer:
    """Scores of the test images by probes on the training part. Raises UserError when that has under two classes."""
    recipe = setting.benchmark.task
    assert isinstance(recipe, Recipe)
    train = _fitted_on(case, recipe)
    if ((train.truth == 1).any(0)).sum() < 2:
        raise UserError("the training part has fewer than two of the classes", where=case.name)
    embed = setting.embedder.features if recipe.features == "tower" else setting.embedder.images
    inside, outside = standardised(embed(train.numbers), embed(case.test.numbers))
    strength, losses = choose_strength(inside, train, case.multi, setting.seed)
    scores = {"all": fit(inside, train.truth, case.multi, strength)(outside)}
    choices = {"features": recipe.features, "strength": strength, "inner_loss": losses, "few_shot": FEW_SHOT_STRENGTH}
    variants: dict[str, list[str]] = {}
    for shots in recipe.shots:
        for repeat in range(recipe.repeats):
            few = draw(train, shots, case.multi, setting.seed, case.name, repeat)
            name = f"{shots} a class, draw {repeat}"
            scores[name] = fit(inside[few], train.truth[few], case.multi, FEW_SHOT_STRENGTH)(outside)
            variants.setdefault(f"{shots} a class", []).append(name)
    return Answer(scores, choices, variants=variants)


def inputs(case: Case, setting: Setting) -> dict[str, str]:
    """Hashes of what goes in besides the test images: those that are fitted on, with their labels."""
    assert isinstance(setting.benchmark.task, Recipe)
    train = _fitted_on(case, setting.benchmark.task)
    return {"train": hash_of(sorted(zip(train.ids.tolist(), train.sha256.tolist(), train.truth.tolist(), strict=True)))}


def standardised(train: NDArray, test: NDArray) -> tuple[Array, Array]:
    """Both parts [., w] in the training part's own units and span: [., min(n, w)]."""
    mean, deviation = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    deviation[deviation < 1e-6 * deviation.max()] = np.inf
    inside, outside = (train - mean) / deviation, (test - mean) / deviation
    if inside.shape[0] >= inside.shape[1]:
        return inside, outside
    _, _, span = np.linalg.svd(inside, full_matrices=False)
    return inside @ span.T, outside @ span.T


def choose_strength(features: Array, train: Items, multi: bool, seed: int) -> tuple[float, dict[str, float]]:
    """The strength with the least inner loss, and the loss of each: mean log loss of held-out groups, classes alike."""
    losses = dict.fromkeys(STRENGTHS, 0.0)
    folds = list(inner_folds(train, seed))
    if not folds:
        return FEW_SHOT_STRENGTH, {}
    for inside, outside in folds:
        for strength in STRENGTHS:
            logits = fit(features[inside], train.truth[inside], multi, strength)(features[outside])
            losses[strength] += log_loss(logits, train.truth[outside], multi) / len(folds)
    return min(losses, key=lambda strength: losses[strength]), {f"{s:g}": loss for s, loss in losses.items()}


def inner_folds(train: Items, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Grouped, class-balanced folds of the training part: (rows to fit, rows to judge); none when too few."""
    from sklearn.model_selection import StratifiedGroupKFold

    strata = strata_of(train.truth, train.groups)
    groups_of = [len(np.unique(train.groups[strata == value])) for value in np.unique(strata)]
    folds = min(INNER_FOLDS, max(2, min(groups_of)))
    if len(np.unique(train.groups)) < 2 * folds or np.bincount(strata).max() < folds:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer groups than folds
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seeds.seed_of("inner folds", seed) % 2**32)
        for inside, outside in splitter.split(strata, strata, train.groups):
            if len(outside) and ((train.truth[inside] == 1).any(0)).sum() >= 2:
                yield inside, outside


class Fit:
    """A fitted probe: features [n, w] -> logits [n, C]."""

    def __init__(self, weight: Array, bias: Array) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, features: Array) -> Array:
        """Logits [n, C]."""
        return features @ self.weight.T + self.bias


def fit(features: Array, truth: NDArray[np.int8], multi: bool, strength: float) -> Fit:
    """Logistic regression of truth [n, C] on features [n, w]: one softmax, or one sigmoid a label where it is known."""
    return _fit_labels(features, truth, strength) if multi else _fit_classes(features, truth, strength)


def _fit_classes(features: Array, truth: NDArray[np.int8], strength: float) -> Fit:
    labels = truth.argmax(1)
    present = np.unique(labels)
    weight, bias = np.zeros((truth.shape[1], features.shape[1])), np.full(truth.shape[1], FLOOR)
    if len(present) == 1:
        bias[present] = 0.0
        return Fit(weight, bias)
    slope, offset = _logistic(features, labels, strength)
    if len(present) == 2:
        slope, offset = np.concatenate([-slope, slope]) / 2, np.concatenate([-offset, offset]) / 2
    weight[present], bias[present] = slope, offset
    return Fit(weight, bias)


def _fit_labels(features: Array, truth: NDArray[np.int8], strength: float) -> Fit:
    weight, bias = np.zeros((truth.shape[1], features.shape[1])), np.zeros(truth.shape[1])
    for label in range(truth.shape[1]):
        known = truth[:, label] >= 0
        if len(np.unique(truth[known, label])) == 2:
            weight[label : label + 1], bias[label : label + 1] = _logistic(
                features[known], truth[known, label], strength
            )
    return Fit(weight, bias)


def _logistic(features: Array, labels: NDArray, strength: float) -> tuple[Array, Array]:
    """Slopes and offsets of the classes in `labels`, ascending; one row when there are two (the second's)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=500, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    return model.coef_, model.intercept_


def log_loss(logits: Array, truth: NDArray[np.int8], multi: bool) -> float:
    """Mean log loss, each class (and each side of a label) weighing the same: >= 0, lower is better."""
    from scipy.special import log_expit, log_softmax

    if not multi:
        own = log_softmax(logits, 1)[truth == 1]
        labels = truth.argmax(1)
        return -float(np.mean([own[labels == label].mean() for label in np.unique(labels)]))
    sides = [(log_expit(logits), truth == 1), (log_expit(-logits), truth == 0)]
    return -float(np.mean([loss[:, c][of[:, c]].mean() for loss, of in sides for c in np.flatnonzero(of.any(0))]))


def draw(train: Items, shots: int, multi: bool, *seed: seeds.Key) -> NDArray[np.int64]:
    """Rows of `shots` images of each class (fewer if there are fewer), from as many groups as possible.

    multi: for each label as many that show it and that do not; one image may serve several labels.
    """
    random = seeds.generator("shots", shots, *seed)
    taken: list[int] = []
    for label in range(train.truth.shape[1]):
        for side in (1, 0) if multi else (1,):
            rows = random.permutation(np.flatnonzero(train.truth[:, label] == side))
            turn = _turns(train.groups[rows])
            taken.extend(rows[np.argsort(turn, kind="stable")][:shots].tolist())
    return np.unique(np.array(taken, np.int64))


def _turns(groups: NDArray[np.str_]) -> NDArray[np.int64]:
    """For each image, how many of its group come before it: all firsts can be taken before any second."""
    seen: dict[str, int] = {}
    turns = []
    for group in groups.tolist():
        turns.append(seen.get(group, 0))
        seen[group] = turns[-1] + 1
    return np.array(turns, np.int64)


def _fitted_on(case: Case, recipe: Recipe) -> Items:
    if not recipe.validation:
        return case.train
    return Items(
        *(
            np.concatenate([getattr(case.train, name), getattr(case.validation, name)])
            for name in ("numbers", "ids", "groups", "sha256", "truth")
        )
    )
