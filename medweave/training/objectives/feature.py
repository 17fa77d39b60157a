"""Feature: through a head of its own for each teacher, the student's rows tell that teacher's rows.

Targets are standardised (PHI-S, arXiv 2410.01680), image and text each in its own way, so that no teacher weighs more
for the size of its vectors and no narrow cone hides what tells two samples apart. The distance is cosine and smooth-L1
in equal shares, divided by what the teacher's mean row would get, a running mean: 1 means nothing learnt, 0 all, and
no teacher weighs more because its rows lie further apart. A head, or a standardised target, is given rows of length √D,
not 1: their numbers and the target's are then of one size from the first step.
Lower is better; 0 when the student tells every row.
B samples of the global batch, D student width, E teacher width, K teachers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from medweave.errors import RequestError
from medweave.training.objective import (
    SIDES,
    Batch,
    Embeddings,
    FromTeachers,
    Given,
    Losses,
    ObjectiveRecipe,
    Standard,
    TeacherRows,
)

TINY = 1e-8
MEMORY, SOME = 0.95, 256  # of the running distance of the mean row: memory, and rows of a batch that it looks at


class FeatureRecipe(ObjectiveRecipe):
    """Settings of the feature objective."""

    kind: Literal["feature"] = "feature"
    hidden: int | None = Field(None, ge=1, description="width of a hidden layer in each head; None: linear heads")
    heads: bool = Field(True, description="false: no heads; teachers must then be as wide as the student")
    standardise: bool = Field(True, description="false: rows as the teacher gives them")


class Feature(FromTeachers):
    """The distance between the student's rows, through heads, and each teacher's."""

    spread: Tensor

    def __init__(self, recipe: FeatureRecipe, given: Given) -> None:
        super().__init__(given)
        self.recipe, self.names, self.teachers = recipe, list(given.teachers), given.teachers
        self.heads = nn.ModuleDict()
        for at, (name, teacher) in enumerate(given.teachers.items()):
            for side in teacher.sides:
                wide = len(getattr(teacher, side).mean)
                if recipe.heads:  # by the teacher's place: its name may hold what no module's name may
                    self.heads[f"{at}:{side}"] = _head(given.width, wide, recipe.hidden)
                elif wide != given.width:
                    raise RequestError(
                        f"without heads {name}, {wide} wide, cannot be told by a student {given.width} wide",
                        where="train.objectives",
                        todo="set the feature objective's `heads: true`",
                    )
        self.register_buffer("spread", torch.zeros(len(self.names), 2))

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"feature/NAME": scalar}: means over samples; what a teacher does not tell takes no part."""
        gates = torch.stack([batch.rows[name].told.to(student.image) for name in self.names])
        long = self.recipe.heads or self.recipe.standardise
        own = {side: getattr(student, side) * (math.sqrt(student.image.shape[1]) if long else 1) for side in SIDES}
        distances = torch.stack([self._distance(at, name, own, batch) for at, name in enumerate(self.names)])
        losses = self.recipe.weight * self.dealt(distances, gates, batch)
        return {f"feature/{name}": loss for name, loss in zip(self.names, losses, strict=True)}

    def _distance(self, at: int, name: str, own: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """[B], as a share of the mean row's; the mean of the sides that a teacher tells. own: side -> [B, D]."""
        rows, sides = batch.rows[name], self.teachers[name].sides
        there = torch.stack([rows.gate_of(side) > 0 for side in sides]).to(own["image"].device)
        parts = []
        for place, side in enumerate(sides):
            target, mean = self._target(rows, getattr(self.teachers[name], side), side, there[place])
            told = self.heads[f"{at}:{side}"](own[side]) if self.recipe.heads else own[side]
            known = target[there[place].nonzero()[:SOME, 0]]
            parts.append(distance(told, target) / self._spread(at, place, mean, known))
        return torch.where(there, torch.stack(parts), 0.0).sum(0) / there.sum(0).clamp_min(1)

    def _target(self, rows: TeacherRows, standard: Standard, side: str, there: Tensor) -> tuple[Tensor, Tensor]:
        """[B, E], 0 where the teacher has no row, for what stands there means nothing; and the teacher's mean, [E]."""
        target: Tensor = getattr(rows, side)
        mean = standard.mean.to(target)
        if self.recipe.standardise:
            target, mean = standard(target), torch.zeros_like(mean)
        return torch.where(there[:, None], target, 0.0), mean

    def _spread(self, at: int, place: int, mean: Tensor, known: Tensor) -> Tensor:
        """The running distance of the teacher's mean row from its rows, of which some are enough.

        known: [b, E], mean: [E].
        """
        if self.training and len(known):
            now, before = distance(mean.expand_as(known), known).mean(), self.spread[at, place]
            self.spread[at, place] = now if before == 0 else MEMORY * before + (1 - MEMORY) * now
        spread = self.spread[at, place].clone()
        return torch.where(spread > 0, spread, torch.ones_like(spread))


def distance(told: Tensor, target: Tensor) -> Tensor:
    """Half cosine distance, half smooth-L1 summed over directions and divided by their number: [B, E] twice -> [B]."""
    lengths = (told.norm(dim=-1) * target.norm(dim=-1)).clamp_min(TINY)
    cosine = 1 - (told * target).sum(-1) / lengths  # no unit rows are made, as cosine_similarity would
    return 0.5 * cosine + 0.5 * functional.smooth_l1_loss(told, target, reduction="none").mean(-1)


def _head(width: int, wide: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(width, wide)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, wide))
