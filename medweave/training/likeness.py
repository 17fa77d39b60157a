"""How far one matrix of likenesses is from others, tile by tile: no B x B matrix is ever held.

For a student and K teachers over the same B samples: KL divergence of the softmax over texts of each image, and over
images of each text, between each teacher's matrix and the student's. The student's matrix is computed once for all
teachers: a pass for the sums, and one for the gradient. Memory O(B (D + E)), time 2 K + 4 matrix products.
B samples, D student width, E teacher width. logits = scale · image · textᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from medweave.errors import UserError
from medweave.training.tiles import in_range, tiles

# Smaller powers count as these: no sum that is `in_range` feels them, and products with them are normal numbers yet.
SMALLEST_POWER = {torch.float32: -60.0, torch.float64: -690.0}


@dataclass(frozen=True)
class Matrix:
    """A matrix of logits by its factors. left: [B, E], right: [B, E], unit rows; scale: a number."""

    left: Tensor
    right: Tensor
    scale: float

    def tile(self, rows: slice, columns: slice, shift: Tensor) -> Tensor:
        """The logits of one tile, less `shift`."""
        return _logits(self.left, self.right, self.scale, rows, columns, shift)


def divergences(left: Tensor, right: Tensor, scale: Tensor, teachers: Sequence[Matrix], others: bool = False) -> Tensor:
    """KL(teacher ‖ student) of each row's and of each column's softmax, for every teacher: [K, 2, B] >= 0.

    left, right: [B, D] float32 unit rows of the student, scale: its own; differentiable in these three. others: a
    sample's likeness to itself takes no part.
    """
    return _Divergences.apply(left, right, scale, list(teachers), others)


class _Divergences(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: Tensor, teachers: list[Matrix], others: bool) -> Tensor:
        value, sums = _forward(left, right, scale, teachers, others)
        if sums is None:
            doubles = [Matrix(t.left.double(), t.right.double(), t.scale) for t in teachers]
            value, sums = _forward(left.double(), right.double(), scale.double(), doubles, others)
            teachers = doubles
        if sums is None:
            raise UserError(
                f"logits of scale {max(float(scale), *(t.scale for t in teachers)):.0f} leave the range of numbers",
                todo="give the teacher a lower `scale`, or the objective less sharpness",
            )
        ctx.teachers, ctx.sums = teachers, sums
        ctx.save_for_backward(left, right, scale)
        return value.to(left)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        left, right, scale = ctx.saved_tensors
        student, teachers = ctx.sums
        kind = student.shift.dtype
        weights = gradients[0].to(kind)  # [K, 2, B]
        wide = [x.to(kind) for x in (left, right, scale)]
        gradient_left, gradient_right = torch.zeros_like(wide[0]), torch.zeros_like(wide[1])
        by_row, by_column = weights.sum(0)
        for rows, columns in tiles(len(left)):
            own = _logits(wide[0], wide[1], wide[2], rows, columns, student.shift)
            slope = student.shares(own, by_row, by_column, rows, columns)
            for matrix, sums, (row, column) in zip(ctx.teachers, teachers, weights, strict=True):
                sums.take_shares(slope, matrix.tile(rows, columns, sums.shift), row, column, rows, columns)
            gradient_left[rows].addmm_(slope, wide[1][columns])
            gradient_right[columns].addmm_(slope.T, wide[0][rows])
        gradient_scale = torch.linalg.vecdot(gradient_left, wide[0]).sum()
        both = (gradient_left.mul_(wide[2]).to(left), gradient_right.mul_(wide[2]).to(right))
        return (*both, gradient_scale.to(scale), None, None)


@dataclass(frozen=True)
class _Sums:
    """Of exp(logit - shift), over the texts of each image and over the images of each text: rows, columns [B]."""

    shift: Tensor
    rows: Tensor
    columns: Tensor
    others: bool

    @classmethod
    def none(cls, left: Tensor, right: Tensor, scale: Tensor | float, others: bool) -> _Sums:
        """Nothing summed yet; the shift is the mean of the pairs' own logits, or of all where these take no part."""
        shift = left.mean(0) @ right.mean(0) if others else (left * right).sum(1).mean()
        return cls(shift * scale, left.new_zeros(len(left)), left.new_zeros(len(left)), others)

    def add(self, shifted: Tensor, rows: slice, columns: slice) -> Tensor:
        """Add a tile of logits less the shift; returns their exponentials."""
        exponentials = self._exponentials(shifted.clone(), rows, columns)
        self.rows[rows] += exponentials.sum(1)
        self.columns[columns] += exponentials.sum(0)
        return exponentials

    def shares(self, shifted: Tensor, by_row: Tensor, by_column: Tensor, rows: slice, columns: slice) -> Tensor:
        """by_row · softmax over the row + by_column · softmax over the column, of one tile; `shifted` is used up."""
        factor = (by_row[rows] / self.rows[rows])[:, None] + (by_column[columns] / self.columns[columns])[None]
        return self._exponentials(shifted, rows, columns).mul_(factor)

    def take_shares(
        self, slope: Tensor, shifted: Tensor, by_row: Tensor, by_column: Tensor, rows: slice, columns: slice
    ) -> None:
        """Subtract from `slope` what `shares` would give."""
        exponentials = self._exponentials(shifted, rows, columns)
        slope.addcmul_(exponentials, (by_row[rows] / self.rows[rows])[:, None], value=-1)
        slope.addcmul_(exponentials, (by_column[columns] / self.columns[columns])[None], value=-1)

    def _exponentials(self, shifted: Tensor, rows: slice, columns: slice) -> Tensor:
        """exp(logit - shift) in place; 0 for a sample with itself where these take no part."""
        exponentials = shifted.clamp_min_(SMALLEST_POWER[shifted.dtype]).exp_()
        if self.others:
            exponentials.diagonal(rows.start - columns.start).zero_()
        return exponentials

    @property
    def in_range(self) -> bool:
        """Whether nothing overflowed or lost its small terms."""
        return in_range(self.rows) and in_range(self.columns)

    @property
    def logs(self) -> Tensor:
        """Log-sum-exp of logits less the shift, over rows and over columns: [2, B]."""
        return torch.stack([self.rows, self.columns]).log()


def _forward(
    left: Tensor, right: Tensor, scale: Tensor, teachers: list[Matrix], others: bool
) -> tuple[Tensor, tuple[_Sums, list[_Sums]] | None]:
    """The divergences [K, 2, B] and the sums; None for these where they left the range of the numbers."""
    student = _Sums.none(left, right, scale, others)
    each = [_Sums.none(t.left, t.right, t.scale, others) for t in teachers]
    gaps = left.new_zeros(len(teachers), 2, len(left))  # sums of exp(teacher) · (teacher - student), logits shifted
    for rows, columns in tiles(len(left)):
        own = _logits(left, right, scale, rows, columns, student.shift)
        student.add(own, rows, columns)
        for at, (matrix, sums) in enumerate(zip(teachers, each, strict=True)):
            shifted = matrix.tile(rows, columns, sums.shift)
            weighted = sums.add(shifted, rows, columns).mul_(shifted.sub_(own))
            gaps[at, 0, rows] += weighted.sum(1)
            gaps[at, 1, columns] += weighted.sum(0)
    if not all(sums.in_range for sums in (student, *each)):
        return gaps, None
    means = [gap / torch.stack([sums.rows, sums.columns]) for gap, sums in zip(gaps, each, strict=True)]
    values = [mean - sums.logs + student.logs for mean, sums in zip(means, each, strict=True)]
    return torch.stack(values).clamp_min_(0), (student, each)


def _logits(left: Tensor, right: Tensor, scale: Tensor | float, rows: slice, columns: slice, shift: Tensor) -> Tensor:
    return ((left[rows] * scale) @ right[columns].T).sub_(shift)
