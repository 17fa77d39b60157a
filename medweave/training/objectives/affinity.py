"""Affinity: rank a batch's texts for each image (and images for each text) as a teacher does. TinyCLIP, 2309.12314.

KL divergence from each teacher's softmax to the student's, at the teacher's own scale, both ways; no head is needed
and widths may differ. Lower is better; 0 when student and teacher agree on every ranking probability.
B samples of the global batch, D student width, E teacher width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from medweave.training.likeness import Matrix, divergences
from medweave.training.objective import Batch, Embeddings, Given, Losses, Objective, ObjectiveRecipe, shares


class AffinityRecipe(ObjectiveRecipe):
    """Settings of the affinity objective."""

    kind: Literal["affinity"] = "affinity"
    sharpness: float = Field(1.0, gt=0, description="factor of every teacher's own scale")


class Affinity(Objective):
    """The divergence of image-text rankings from those of each teacher with both towers."""

    learns_from_teachers = True

    def __init__(self, recipe: AffinityRecipe, given: Given) -> None:
        super().__init__()
        self.recipe = recipe
        self.scales = {name: recipe.sharpness * scale for name, scale in given.scales("affinity").items()}

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"affinity/NAME": scalar}. Samples that a teacher does not cover take no part, as rows or as columns."""
        found = {}
        for name, scale in self.scales.items():
            rows = batch.rows[name]
            assert rows.image is not None and rows.text is not None
            found[name] = (rows.gate, Matrix(rows.image, rows.text, scale))
        losses = by_teacher(student.image, student.text, student.scale, found)
        return {f"affinity/{name}": self.recipe.weight * loss for name, loss in losses.items()}


def by_teacher(
    left: Tensor, right: Tensor, scale: Tensor, teachers: dict[str, tuple[Tensor, Matrix]], others: bool = False
) -> Losses:
    """The mean divergence from each teacher's matrix over the samples, each sample's attention dealt to its teachers.

    left, right: [B, D]. teachers: name -> gate [B] and matrix. others: a sample is not compared with itself.
    """
    dealt = shares(torch.stack([gate.to(left) for gate, _ in teachers.values()]))
    losses: Losses = {}
    for names, kept in _by_cover({name: gate for name, (gate, _) in teachers.items()}):
        if len(kept) < 2:
            losses |= {name: left.sum() * 0 for name in names}
            continue
        kept = kept.to(left.device)
        matrices = [_of(teachers[name][1], kept) for name in names]
        away = divergences(left[kept], right[kept], scale, matrices, others).mean(1)
        for name, of_one in zip(names, away, strict=True):
            losses[name] = (dealt[list(teachers).index(name), kept] * of_one).sum() / len(left)
    return losses


def _by_cover(gates: dict[str, Tensor]) -> Sequence[tuple[list[str], Tensor]]:
    """Teachers that cover the same samples together, with the places of these."""
    groups: dict[bytes, tuple[list[str], Tensor]] = {}
    for name, gate in gates.items():
        covered = (gate > 0).cpu()
        names, _ = groups.setdefault(covered.numpy().tobytes(), ([], covered.nonzero()[:, 0]))
        names.append(name)
    return list(groups.values())


def _of(matrix: Matrix, kept: Tensor) -> Matrix:
    return Matrix(matrix.left[kept], matrix.right[kept], matrix.scale)
