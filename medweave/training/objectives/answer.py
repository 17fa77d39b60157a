"""Answer: tell the findings of an image apart as a teacher does. Hinton et al., arXiv 1503.02531, prompts for classes.

KL divergence from a teacher's softmax over the menu's findings of the image's modality (medweave/training/menu.py), at
the teacher's own scale, to the student's. Both make a finding of the same captions: the mean of their unit rows, made a
unit row again. A batch over many sources holds few texts that are hard to tell apart; the menu holds all of them, so
what a teacher knows of close findings reaches the student at every step. Lower is better; 0 when both answer alike.
B samples of the global batch, K findings of the menu, c captions of each, D student width, E teacher width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from medweave.errors import RequestError
from medweave.training.objective import Batch, Embeddings, FromTeachers, Given, Losses, ObjectiveRecipe


class AnswerRecipe(ObjectiveRecipe):
    """Settings of the answer objective."""

    kind: Literal["answer"] = "answer"
    captions: int = Field(1, ge=1, description="captions drawn of each finding")
    sharpness: float = Field(1.0, gt=0, description="factor of every teacher's own scale")


class Answer(FromTeachers):
    """The divergence of answers from those of each teacher with both towers and a scale that is known."""

    def __init__(self, recipe: AnswerRecipe, given: Given) -> None:
        super().__init__(given)
        self.recipe = recipe
        self.menu_captions = recipe.captions
        self.scales = {name: recipe.sharpness * scale for name, scale in given.scales("answer").items()}
        self.left_out = given.without_scale
        for name in self.scales:
            if not given.teachers[name].captions:
                what = "answer needs its rows of bank captions, and it has none"
                raise RequestError(what, where=f"teacher {name}", todo="leave out this objective or the teacher")

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"answer/NAME": scalar}: means over samples, whatever their texts; what is not covered takes no part."""
        assert student.menu is not None and batch.near is not None
        near = batch.near.to(student.image.device)
        asked = near.sum(1) > 1
        own = answers(student.image, student.menu, student.scale, near)
        found = {name: batch.rows[name] for name in self.scales}
        if not found:
            return {}
        away = []
        for name, rows in found.items():
            assert rows.image is not None and rows.menu is not None
            menu = rows.menu.view(*student.menu.shape[:2], -1)
            image = torch.where(rows.covered[:, None], rows.image, 0.0)  # what is not covered may be no number
            theirs = answers(image, menu, own.new_tensor(self.scales[name]), near)
            away.append(torch.where(near, theirs.exp() * (theirs - own), 0.0).sum(1))
        gates = torch.stack([rows.gate.to(own) * asked for rows in found.values()])
        losses = self.recipe.weight * self.dealt(torch.stack(away), gates, batch)
        return {f"answer/{name}": loss for name, loss in zip(found, losses, strict=True)}


def answers(image: Tensor, menu: Tensor, scale: Tensor, near: Tensor) -> Tensor:
    """Log-probabilities of the findings that are near, [B, K]; what is far is -inf, or 0 where nothing is near.

    image: [B, D], menu: [K, c, D] unit rows, near: [B, K] bool.
    """
    logits = scale * image @ functional.normalize(menu.mean(1), dim=-1).T
    some = near.any(1, keepdim=True)
    return torch.where(some, logits.masked_fill(~near & some, -math.inf).log_softmax(1), 0.0)
