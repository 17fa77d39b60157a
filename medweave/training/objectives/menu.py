"""Menu: each image picks its own findings out of captions of all findings that there are.

A softmax over the menu (medweave/training/menu.py), as in prompted classification: a finding is the mean of its
captions' unit rows, made a unit row again; what is right for an image are the findings present in it, in equal shares;
findings of which nothing is known take no part. Images without a finding take none either: beside them stands the
contrastive objective. Label-supervised contrast after UniCL, arXiv 2204.03610, with the whole vocabulary for its
columns instead of what the batch happens to hold. Lower is better.
B samples of the global batch, K findings of the menu, c captions of each, D width.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from medweave.training.menu import PRESENT, UNKNOWN
from medweave.training.objective import Batch, Embeddings, Given, Losses, Objective, ObjectiveRecipe


class MenuRecipe(ObjectiveRecipe):
    """Settings of the menu objective."""

    kind: Literal["menu"] = "menu"
    head: ClassVar[str] = "softmax"
    captions: int = Field(
        1, ge=1, description="captions drawn of each finding; free with a frozen text tower, else each one is embedded"
    )


class Menu(Objective):
    """Cross-entropy between an image's findings and its softmax over the menu."""

    def __init__(self, recipe: MenuRecipe, given: Given) -> None:
        super().__init__()
        self.recipe = recipe
        self.menu_captions = recipe.captions

    def forward(self, student: Embeddings, batch: Batch) -> dict[str, Tensor]:
        """{"menu": scalar}. student.image: [B, D], student.menu: [K, c, D] unit rows. batch.truth: [B, K]."""
        assert student.menu is not None and batch.truth is not None
        menu = functional.normalize(student.menu.mean(1), dim=-1)
        loss = menu_loss(student.image, menu, student.scale, batch.truth.to(student.image.device))
        return {"menu": self.recipe.weight * loss}

    def floors(self, batch: Batch) -> Losses:
        """The entropy of images that show several findings."""
        assert batch.truth is not None
        shown = (batch.truth == PRESENT).sum(1)
        several = shown[shown > 0].float().log()
        return {"menu": self.recipe.weight * several.mean()} if bool(several.any()) else {}


def menu_loss(image: Tensor, menu: Tensor, scale: Tensor, truth: Tensor) -> Tensor:
    """Mean over the images that show a finding; 0 where none does. image: [B, D], menu: [K, D], truth: [B, K] int8."""
    logits = (scale * image @ menu.T).masked_fill(truth == UNKNOWN, -math.inf)
    present = (truth == PRESENT).to(logits)
    shown = present.sum(1)
    right = (logits.masked_fill(present == 0, 0.0) * present).sum(1) / shown.clamp_min(1)
    losses = (logits.masked_fill((shown == 0)[:, None], 0.0).logsumexp(1) - right) * (shown > 0)
    return losses.sum() / (shown > 0).sum().clamp_min(1)
