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
from medweave.training.objective import Batch, Embeddings, Given, Losses, Objective, ObjectiveRecipe, shares
from medweave.training.tiles import log_sums

START, MOST = math.log(1 / 0.07), math.log(100)


class InteractiveRecipe(ObjectiveRecipe):
    """Settings of the interactive objective."""

    kind: Literal["interactive"] = "interactive"


class Interactive(Objective):
    """Contrast between the student's rows and each two-tower teacher's."""

    learns_from_teachers = True

    def __init__(self, recipe: InteractiveRecipe, given: Given) -> None:
        super().__init__()
        self.recipe = recipe
        both = {name: teacher for name, teacher in given.teachers.items() if len(teacher.sides) == 2}
        self.names = list(both)
        if given.teachers and not both:
            raise RequestError("interactive needs a teacher with both towers", where="train.teachers")
        self.heads = nn.ModuleDict(
            {name: nn.Linear(given.width, len(of.image.mean)) for name, of in both.items() if of.image is not None}
        )
        self.scales = nn.Parameter(torch.full((len(both),), START))

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"interactive/NAME": scalar}. Samples that a teacher does not cover take no part."""
        dealt = shares(torch.stack([batch.rows[name].gate.to(student.image) for name in self.names]))
        scales = self.scales.exp()
        losses = {}
        for at, name in enumerate(self.names):
            rows, head = batch.rows[name], self.heads[name]
            kept = rows.covered.nonzero()[:, 0].to(student.image.device)
            if len(kept) < 2:
                losses[f"interactive/{name}"] = student.image.sum() * 0
                continue
            assert rows.image is not None and rows.text is not None
            image, text = (functional.normalize(head(own[kept]), dim=-1) for own in (student.image, student.text))
            away = 0.5 * (crossed(image, rows.text[kept], scales[at]) + crossed(text, rows.image[kept], scales[at]))
            losses[f"interactive/{name}"] = self.recipe.weight * (dealt[at, kept] * away).sum() / len(student.image)
        return losses

    @torch.no_grad()
    def settle(self) -> None:
        """The scales stay at 100 or below."""
        self.scales.clamp_(max=MOST)


def crossed(own: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each own row's softmax over the others' rows, its own pair being right: [B, E] twice -> [B]."""
    rows, _, pairs = log_sums(own, others, scale)
    return rows - pairs
