"""Relation: which images of a batch are alike, and which texts, as a teacher sees it. After RKD, arXiv 1904.05068.

For teachers with one tower, and for what a two-tower teacher knows inside each side. KL divergence from the teacher's
softmax over all other samples to the student's, at one scale for both; nothing is compared with itself.
Lower is better; 0 when student and teacher agree on every likeness. B samples of the global batch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medweave.errors import RequestError
from medweave.training.likeness import Matrix
from medweave.training.objective import SIDES, Batch, Embeddings, Given, Losses, Objective, ObjectiveRecipe
from medweave.training.objectives.affinity import by_teacher


class RelationRecipe(ObjectiveRecipe):
    """Settings of the relation objective."""

    kind: Literal["relation"] = "relation"
    scale: float = Field(10.0, gt=0, description="of likenesses, the teacher's and the student's")
    which: Literal["single", "all"] = Field("single", description="single: teachers with one tower; all: every teacher")


class Relation(Objective):
    """The divergence of likenesses inside each side from those of each teacher."""

    learns_from_teachers = True

    def __init__(self, recipe: RelationRecipe, given: Given) -> None:
        super().__init__()
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
        """{"relation/NAME/SIDE": scalar}. Samples that a teacher does not cover take no part."""
        scale = student.scale.new_tensor(self.recipe.scale)
        losses: Losses = {}
        for side, names in self.sides.items():
            if not names:
                continue
            found = {}
            for name in names:
                rows = getattr(batch.rows[name], side)
                found[name] = (batch.rows[name].gate, Matrix(rows, rows, self.recipe.scale))
            own = getattr(student, side)
            away = by_teacher(own, own, scale, found, others=True)
            losses |= {f"relation/{name}/{side}": self.recipe.weight * loss for name, loss in away.items()}
        return losses
