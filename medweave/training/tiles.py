"""Sums over all pairs of a batch, tile by tile: the N x N matrix of logits is never held.

The forward pass keeps N sums; the backward pass computes each tile of logits again. Memory O(N·D), and where pairs are
to be ignored that of a table over label sets; time four matrix products where the plain form takes six. N samples of
the global batch, D width.
logits = scale · image · textᵀ (+ bias).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

TILE_ROWS, TILE_COLUMNS = 512, 4096
# Powers as small count as 0: beyond, exp() and what is done with it leave the normal numbers, at 20 times the time.
SMALLEST_POWER = {torch.float32: -69.0, torch.float64: -700.0}
SMALLEST_SUM = {torch.float32: 1e-18, torch.float64: 1e-290}  # a smaller sum of exponentials has lost its small terms
NEVER = -math.inf


class Ignore:
    """Pairs that take no part: neither positive nor negative, because the labels do not tell.

    table: [S, S] bool over label sets (image's set, text's set); sets: [N] the set of each sample.
    """

    def __init__(self, table: Tensor, sets: Tensor) -> None:
        self.bias = torch.zeros(table.shape, device=table.device).masked_fill_(table, NEVER)
        self.sets = sets

    def of_columns(self, columns: slice) -> Tensor:
        """For an image of each set minus infinity at the texts that it ignores, zero at the others: [S, columns]."""
        return self.bias[:, self.sets[columns]]


def log_sums(image: Tensor, text: Tensor, scale: Tensor, ignore: Ignore | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of the logits over all texts of each image, over all images of each text, and each own pair's logit.

    image, text: [N, D] float32. Returns three [N] float32; differentiable in image, text and scale.
    """
    return _LogSums.apply(image, text, scale, ignore)


def softplus_sum(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ignore: Ignore | None = None) -> Tensor:
    """Sum over all pairs of log(1 + exp(logit)): the part of the sigmoid loss that every pair shares.

    image, text: [N, D] float32. Returns a scalar; differentiable in image, text, scale and bias.
    """
    return _SoftplusSum.apply(image, text, scale, bias, ignore)


def tiles(size: int) -> Iterator[tuple[slice, slice]]:
    """The tiles of a square of `size`, column by column."""
    for column in range(0, size, TILE_COLUMNS):
        for row in range(0, size, TILE_ROWS):
            yield slice(row, min(row + TILE_ROWS, size)), slice(column, min(column + TILE_COLUMNS, size))


class _LogSums(Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, ignore: Ignore | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.linalg.vecdot(image, text) * scale
        shift = own.mean()
        row_sums, column_sums = _exponential_sums(image, text, scale, shift, ignore)
        ctx.one_shift = in_range(row_sums) and in_range(column_sums)
        if ctx.one_shift:
            rows, columns = row_sums.log_() + shift, column_sums.log_() + shift
        else:
            rows, columns = _running_log_sums(image, text, scale, ignore)
        ctx.ignore = ignore
        ctx.save_for_backward(image, text, scale, rows, columns, shift)
        return rows, columns, own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, rows, columns, shift = ctx.saved_tensors
        row_gradient, column_gradient, own_gradient = gradients
        image_gradient, text_gradient = own_gradient[:, None] * text, own_gradient[:, None] * image
        row_factor, column_factor = row_gradient * (shift - rows).exp(), column_gradient * (shift - columns).exp()
        for r, c, slope in _tiles_of_logits(image, text, scale, ctx.ignore):
            if ctx.one_shift:
                exponentials_(slope, shift).mul_(row_factor[r, None] + column_factor[None, c])
            else:
                by_column = (slope - columns[None, c]).exp_().mul_(column_gradient[None, c])
                slope.sub_(rows[r, None]).exp_().mul_(row_gradient[r, None]).add_(by_column)
            image_gradient[r].addmm_(slope, text[c])
            text_gradient[c].addmm_(slope.T, image[r])
        scale_gradient = torch.linalg.vecdot(image_gradient, image).sum()
        return image_gradient.mul_(scale), text_gradient.mul_(scale), scale_gradient, None


class _SoftplusSum(Function):
    """The slope of a pair depends on its own logit only, so one pass gives the sum and its gradients."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ignore: Ignore | None) -> Tensor:
        total, bias_gradient = torch.zeros_like(scale), torch.zeros_like(bias)
        image_gradient, text_gradient = torch.zeros_like(image), torch.zeros_like(text)
        for r, c, logits in _tiles_of_logits(image, text, scale, ignore):
            logits += bias
            total += torch.nn.functional.softplus(logits).sum()
            slope = logits.sigmoid_()
            bias_gradient += slope.sum()
            image_gradient[r].addmm_(slope, text[c])
            text_gradient[c].addmm_(slope.T, image[r])
        scale_gradient = torch.linalg.vecdot(image_gradient, image).sum()
        ctx.save_for_backward(image_gradient.mul_(scale), text_gradient.mul_(scale), scale_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        return (*(outer * saved for saved in ctx.saved_tensors), None)


def _tiles_of_logits(
    image: Tensor, text: Tensor, scale: Tensor, ignore: Ignore | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Each tile's rows, columns and logits, minus infinity where ignored; the logits are the caller's to overwrite."""
    hidden: tuple[slice, Tensor] | None = None
    for rows, columns in tiles(len(image)):
        scaled = image[rows] * scale
        if ignore is None:
            yield rows, columns, scaled @ text[columns].T
            continue
        if hidden is None or hidden[0] != columns:
            hidden = columns, ignore.of_columns(columns).to(image.dtype)
        yield rows, columns, hidden[1][ignore.sets[rows]].addmm_(scaled, text[columns].T)


def _exponential_sums(
    image: Tensor, text: Tensor, scale: Tensor, shift: Tensor, ignore: Ignore | None
) -> tuple[Tensor, Tensor]:
    """Sums of exp(logit - shift) over rows and columns: one exponential a pair, right while nothing overflows."""
    rows, columns = image.new_zeros(len(image)), image.new_zeros(len(image))
    for r, c, logits in _tiles_of_logits(image, text, scale, ignore):
        exponentials = exponentials_(logits, shift)
        rows[r] += exponentials.sum(1)
        columns[c] += exponentials.sum(0)
    return rows, columns


def _running_log_sums(image: Tensor, text: Tensor, scale: Tensor, ignore: Ignore | None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over rows and columns for logits of any range: twice the exponentials of `_exponential_sums`."""
    rows, columns = image.new_full((len(image),), NEVER), image.new_full((len(image),), NEVER)
    for r, c, logits in _tiles_of_logits(image, text, scale, ignore):
        rows[r] = torch.logaddexp(rows[r], logits.logsumexp(1))
        columns[c] = torch.logaddexp(columns[c], logits.logsumexp(0))
    return rows, columns


def exponentials_(logits: Tensor, shift: Tensor) -> Tensor:
    """exp(logit - shift), in place; 0 where that is so small that no sum that is `in_range` feels it."""
    least = SMALLEST_POWER[logits.dtype]
    exponentials = logits.sub_(shift).clamp_min_(least).exp_()
    return torch.nn.functional.threshold(exponentials, 2 * math.exp(least), 0.0, inplace=True)


def in_range(sums: Tensor) -> bool:
    """Whether no sum of exponentials overflowed or lost its small terms."""
    return bool(((sums > SMALLEST_SUM[sums.dtype]) & sums.isfinite()).all())
