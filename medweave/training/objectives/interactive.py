"""Interactive: student images pick the teacher's texts, and student texts the teacher's images. CLIP-KD, 2307.12732.

Contrast inside one teacher only, through a head of its own that leads into its space, with a scale of its own that
learns as a logarithm, at 100 or below. Lower is better. B samples of the global batch, D student width, E teacher's.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
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
    TeacherRows,
)
from medweave.training.tiles import log_sums

START, MOST = math.log(1 / 0.07), math.log(100)


class InteractiveRecipe(ObjectiveRecipe):
    """Settings of the interactive objective."""

    kind: Literal["interactive"] = "interactive"


class Interactive(FromTeachers):
    """Contrast between the student's rows and each two-tower teacher's."""

    def __init__(self, recipe: InteractiveRecipe, given: Given) -> None:
        super().__init__(given)
        self.recipe = recipe
        both = {name: teacher for name, teacher in given.teachers.items() if len(teacher.sides) == 2}
        self.names = list(both)
        if given.teachers and not both:
            raise RequestError("interactive needs a teacher with both towers", where="train.teachers")
        self.heads = nn.ModuleList(  # in the order of names, which may hold what no module's name may
            nn.Linear(given.width, len(of.image.mean)) for of in both.values() if of.image is not None
        )
        self.scales = nn.Parameter(torch.full((len(both),), START))

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"interactive/NAME": scalar}. Samples of which a teacher tells not both sides take no part."""
        if not self.names:
            return {}
        taught = [batch.rows[name] for name in self.names]
        gates = torch.stack([rows.gate_of(*SIDES).to(student.image) for rows in taught])
        each = zip(taught, self.heads, self.scales.exp(), strict=True)
        away = torch.stack([self._away(rows, head, scale, student) for rows, head, scale in each])
        losses = self.recipe.weight * self.dealt(away, gates, batch)
        return {f"interactive/{name}": loss for name, loss in zip(self.names, losses, strict=True)}

    def _away(self, rows: TeacherRows, head: nn.Module, scale: Tensor, student: Embeddings) -> Tensor:
        """[B], both ways; 0 where the teacher tells not both sides, or it tells one sample alone."""
        nothing = (student.image.sum() * 0).expand(len(student.image))
        kept = rows.gate_of(*SIDES).nonzero()[:, 0].to(student.image.device)
        if len(kept) < 2:
            return nothing
        assert rows.image is not None and rows.text is not None
        image, text = (functional.normalize(head(own[kept]), dim=-1) for own in (student.image, student.text))
        return nothing.index_put(
            (kept,), 0.5 * (crossed(image, rows.text[kept], scale) + crossed(text, rows.image[kept], scale))
        )

    @torch.no_grad()
    def settle(self) -> None:
        """The scales stay at 100 or below."""
        self.scales.clamp_(max=MOST)


def crossed(own: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each own row's softmax over the others' rows, its own pair being right: [B, E] twice -> [B]."""
    rows, _, pairs = log_sums(own, others, scale)
    return rows - pairs
