"""Relation: which images of a batch are alike, and which texts, as a teacher sees it. After RKD, arXiv 1904.05068.

For teachers with one tower, and for what a two-tower teacher knows inside each side. KL divergence from the teacher's
softmax over all other samples to the student's, at one scale for both; nothing is compared with itself.
Lower is better; 0 when student and teacher agree on every likeness. B samples of the global batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medweave.errors import RequestError
from medweave.training.likeness import Matrix
from medweave.training.objective import SIDES, Batch, Embeddings, FromTeachers, Given, Losses, ObjectiveRecipe
from medweave.training.objectives.affinity import divergence_from


class RelationRecipe(ObjectiveRecipe):
    """Settings of the relation objective."""

    kind: Literal["relation"] = "relation"
    scale: float = Field(10.0, gt=0, description="of likenesses, the teacher's and the student's")
    which: Literal["single", "all"] = Field("single", description="single: teachers with one tower; all: every teacher")


class Relation(FromTeachers):
    """The divergence of likenesses inside each side from those of each teacher."""

    def __init__(self, recipe: RelationRecipe, given: Given) -> None:
        super().__init__(given)
        self.recipe = recipe
        self.sides = {
            side: [
                name
                for name, teacher in given.teachers.items()
                if side in teacher.sides and (recipe.which == "all" or len(teacher.sides) == 1)
            ]
            for side in SIDES
        }
        if given.teachers and not any(self.sides.values()):
            raise RequestError(
                "relation needs a teacher with one tower", where="train.teachers", todo="or set its `which: all`"
            )

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"relation/NAME/SIDE": scalar}. Samples that a teacher does not tell on that side take no part."""
        scale = student.scale.new_tensor(self.recipe.scale)
        losses: Losses = {}
        for side, names in self.sides.items():
            if not names:
                continue
            own, rows = getattr(student, side), {name: getattr(batch.rows[name], side) for name in names}
            matrices = {name: Matrix(of, of, self.recipe.scale) for name, of in rows.items()}
            gates = {name: batch.rows[name].gate_of(side) for name in names}
            away = divergence_from(matrices, gates, own, own, scale, others=True)
            found = self.recipe.weight * self.dealt(away, torch.stack([*gates.values()]).to(away), batch)
            losses |= {f"relation/{name}/{side}": loss for name, loss in zip(names, found, strict=True)}
        return losses
