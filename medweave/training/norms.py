"""Batch norm's statistics for weights that no batch has met: averaged weights have statistics of their own.

An average of running statistics is not the statistics of the averaged weights (SWA, arXiv 1803.05407): they are
measured anew on the last training pictures, read again as they were, so that a run which was killed measures the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

PICTURES = 1024  # at least so many are measured, where a run has had as many


def learning_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms in training mode: those whose statistics move."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]


@torch.no_grad()
def re_estimate(norms: Sequence[_BatchNorm], forward: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> None:
    """Replace the running statistics of `norms` by their plain mean over `batches`; other modules stay as they are."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain mean
        norm.train()
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
