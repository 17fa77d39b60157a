"""Zero-shot: an image is scored against prompts of each class, no label of the case is used.

A class's vector is the mean of its prompts' unit vectors, made a unit vector again (CLIP, arXiv 2103.00020): once for
each prompt set, and once over all sets together, which is the answer. Single-label: softmax of the head's own logits.
Multi-label: each label is ranked by its logit; only a sigmoid head makes that a probability.

n images, C classes, P prompts, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medweave.errors import UserError
from medweave.evaluation.answer import Answer, BankLike, Prompts, Setting
from medweave.evaluation.benchmark import Benchmark, ClassRecipe
from medweave.evaluation.cache import Embedder, Rows
from medweave.evaluation.cases import Case
from medweave.evaluation.leaks import prompts_met
from medweave.evaluation.recipe import TaskRecipe
from medweave.files import hash_of

ALL = "all"


class Recipe(TaskRecipe):
    """Zero-shot has no options: prompts are the benchmark's."""

    title: ClassVar[str] = "prompted"
    kind: Literal["zero_shot"] = Field("zero_shot", description="prompted classification")


def run(case: Case, setting: Setting) -> Answer:
    """Scores of the test images against the prompts. Raises UserError when a class has no prompts."""
    prompts = prompts_of(setting.benchmark, case, setting.bank)
    choices = {"prompts": hash_of(prompts), "generic_prompts": _generic(setting.benchmark, case, setting.bank)}
    met = None if setting.trained is None else prompts_met(prompts, case, setting.trained)
    sets = {ALL: [list(chain(*of_class)) for of_class in zip(*prompts.values(), strict=True)], **prompts}
    vectors = {name: class_rows(setting.embedder, of_classes) for name, of_classes in sets.items()}
    test, validation = (setting.embedder.images(part.numbers) for part in (case.test, case.validation))
    head = setting.embedder.encoder.head
    return Answer(
        scores={name: logits(test, rows, head.scale, head.bias) for name, rows in vectors.items()},
        validation=logits(validation, vectors[ALL], head.scale, head.bias),
        choices=choices | {"prompts_met": met},
        variants={"prompt sets": list(prompts)},
        calibratable=not case.multi or head.kind == "sigmoid",
    )


def inputs(case: Case, setting: Setting) -> dict[str, str]:
    """Hashes of what goes in besides the test images: the prompts."""
    return {"prompts": hash_of(prompts_of(setting.benchmark, case, setting.bank))}


def prompts_of(benchmark: Benchmark, case: Case, bank: BankLike) -> Prompts:
    """The prompts of each class in each set: the benchmark's own, or the bank's. Raises UserError when one is empty."""
    own = {c.finding: c.prompts for c in benchmark.classes if isinstance(c, ClassRecipe) and c.prompts}
    found: Prompts = {}
    for name in benchmark.prompt_sets:
        found[name] = [
            own[finding].get(name, [])
            if finding in own
            else list(bank.prompts(case.modality, case.anatomy, finding, name))
            for finding in case.classes
        ]
        empty = [finding for finding, prompts in zip(case.classes, found[name], strict=True) if not prompts]
        if empty:
            raise UserError(
                f"no {name} prompts for {', '.join(empty)} ({case.modality}, {case.anatomy})", where=case.name
            )
    return found


def _generic(benchmark: Benchmark, case: Case, bank: BankLike) -> list[str]:
    """The classes that no bank knows: their prompts are made from their names alone."""
    own = {c.finding for c in benchmark.classes if isinstance(c, ClassRecipe) and c.prompts}
    asked = [(case.modality, case.anatomy, finding) for finding in case.classes if finding not in own]
    return [finding for _, _, finding in bank.missing(asked)]


def class_rows(embedder: Embedder, prompts: list[list[str]]) -> Rows:
    """The unit vector of each class, [C, d]: mean of its prompts' unit vectors, made a unit vector again."""
    rows = embedder.texts([prompt for of_class in prompts for prompt in of_class])
    ends = np.cumsum([len(of_class) for of_class in prompts])
    return mean_rows(np.split(rows, ends[:-1]))


def mean_rows(prompts: Sequence[Rows]) -> Rows:
    """The unit vector of each class, [C, d], from the unit rows of its prompts."""
    means = np.stack([rows.mean(0) for rows in prompts])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def logits(images: Rows, classes: Rows, scale: float, bias: float) -> NDArray[np.float64]:
    """Scaled similarity plus bias, [n, C]. images: [n, d] and classes: [C, d] unit rows."""
    return scale * (images.astype(np.float64) @ classes.T.astype(np.float64)) + bias
