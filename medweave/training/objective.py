"""What every objective is given and gives back.

An objective sees the whole global batch on every process, so its value is the same everywhere; lower is better.
B samples of the global batch, D width of the joint space.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from medweave.training.positives import LabelSet
from medweave.training.recipe import OBJECTIVES, ObjectiveRecipe

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Embeddings:
    """The student's view of a batch: image, text [B, D] float32 unit rows; scale and bias, scalars of its head.

    menu: [K, c, D] unit rows, c captions of each finding; None when no objective needs them.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor
    menu: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What is known of the samples of a batch. numbers: [B] int64. labels: [B], None where nothing is known.

    truth: [B, K] int8, which findings of the menu they show; None when no objective needs it.
    """

    numbers: Tensor
    labels: Sequence[LabelSet | None]
    truth: Tensor | None = None

    def of(self, kept: Tensor) -> Batch:
        """The batch of some samples. kept: their places, int64 on the CPU."""
        truth = None if self.truth is None else self.truth[kept]
        return Batch(self.numbers[kept], [self.labels[at] for at in kept.tolist()], truth)


class Objective(nn.Module, ABC):
    """One loss. Its own parameters, if it has any, are trained with the model."""

    menu_captions = 0  # how many captions of every finding it wants at each step

    @abstractmethod
    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """Named scalars, already weighted; their sum is trained."""


class Objectives(nn.Module):
    """All losses of a recipe, as one."""

    def __init__(self, recipes: Sequence[ObjectiveRecipe]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(build(recipe) for recipe in recipes)

    @property
    def menu_captions(self) -> int:
        """How many captions of every finding are wanted at each step; 0: none."""
        return max(int(getattr(part, "menu_captions", 0)) for part in self.parts)

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """The losses of all objectives by name."""
        return {name: loss for part in self.parts for name, loss in part(student, batch).items()}


def build(recipe: ObjectiveRecipe) -> Objective:
    """The objective that a recipe names: class `Affinity` of `objectives/affinity.py`."""
    module = importlib.import_module(f"{OBJECTIVES}.{recipe.kind}")
    objective: Objective = getattr(module, recipe.kind.title())(recipe)
    return objective


__all__ = ["Batch", "Embeddings", "Losses", "Objective", "ObjectiveRecipe", "Objectives", "build"]
