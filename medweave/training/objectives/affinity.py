"""Affinity: rank a batch's texts for each image (and images for each text) as a teacher does. TinyCLIP, 2309.12314.

KL divergence from each teacher's softmax to the student's, at the teacher's own scale, both ways; no head is needed
and widths may differ. Lower is better; 0 when student and teacher agree on every ranking probability.
B samples of the global batch, D student width, E teacher width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from medweave.training.likeness import Matrix, divergences
from medweave.training.objective import SIDES, Batch, Embeddings, FromTeachers, Given, Losses, ObjectiveRecipe


class AffinityRecipe(ObjectiveRecipe):
    """Settings of the affinity objective."""

    kind: Literal["affinity"] = "affinity"
    sharpness: float = Field(1.0, gt=0, description="factor of every teacher's own scale")


class Affinity(FromTeachers):
    """The divergence of image-text rankings from those of each teacher with both towers and a scale that is known."""

    def __init__(self, recipe: AffinityRecipe, given: Given) -> None:
        super().__init__(given)
        self.recipe = recipe
        self.scales = {name: recipe.sharpness * scale for name, scale in given.scales("affinity").items()}
        self.left_out = given.without_scale

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"affinity/NAME": scalar}. A sample of which a teacher tells not both sides is no row and no column."""
        if not self.scales:
            return {}
        matrices = {}
        for name, scale in self.scales.items():
            rows = batch.rows[name]
            assert rows.image is not None and rows.text is not None
            matrices[name] = Matrix(rows.image, rows.text, scale)
        gates = {name: batch.rows[name].gate_of(*SIDES) for name in matrices}
        away = divergence_from(matrices, gates, student.image, student.text, student.scale)
        losses = self.recipe.weight * self.dealt(away, torch.stack([*gates.values()]).to(away), batch)
        return {f"affinity/{name}": loss for name, loss in zip(matrices, losses, strict=True)}


def divergence_from(
    teachers: Mapping[str, Matrix],
    gates: Mapping[str, Tensor],
    left: Tensor,
    right: Tensor,
    scale: Tensor,
    others: bool = False,
) -> Tensor:
    """Each sample's divergence from each teacher's matrix, [K, B]; 0 where that one does not cover it, or it alone.

    gates: of each teacher, [B]. left, right: [B, D], scale: the student's. others: samples are not compared with
    themselves.
    """
    nothing = (left.sum() * 0).expand(len(left))
    away = dict.fromkeys(teachers, nothing)
    for names, kept in _by_cover(gates):
        if len(kept) < 2:
            continue
        kept = kept.to(left.device)
        matrices = [_of(teachers[name], kept) for name in names]
        found = divergences(left[kept], right[kept], scale, matrices, others).mean(1)
        away |= {name: nothing.index_put((kept,), one) for name, one in zip(names, found, strict=True)}
    return torch.stack([*away.values()])


def _by_cover(gates: Mapping[str, Tensor]) -> Sequence[tuple[list[str], Tensor]]:
    """Teachers that cover the same samples together, with the places of these."""
    groups: dict[bytes, tuple[list[str], Tensor]] = {}
    for name, gate in gates.items():
        covered = (gate > 0).cpu()
        names, _ = groups.setdefault(covered.numpy().tobytes(), ([], covered.nonzero()[:, 0]))
        names.append(name)
    return list(groups.values())


def _of(matrix: Matrix, kept: Tensor) -> Matrix:
    return Matrix(matrix.left[kept], matrix.right[kept], matrix.scale)
