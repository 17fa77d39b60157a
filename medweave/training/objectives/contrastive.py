"""Contrastive: each image picks its text out of the batch, and each text its image.

`head: softmax` is InfoNCE (CLIP, arXiv 2103.00020), `head: sigmoid` judges every pair alone (SigLIP, arXiv 2303.15343).
`targets: caption` makes a pair's own caption its only positive; `targets: label` makes samples with the same findings
positives of each other. Lower is better. B samples of the global batch, D width.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from medweave.training.objective import Batch, Embeddings, Given, Losses, Objective, ObjectiveRecipe
from medweave.training.positives import Positives, positives_of
from medweave.training.tiles import Ignore, log_sums, softplus_sum


class ContrastiveRecipe(ObjectiveRecipe):
    """Settings of the contrastive objective."""

    kind: Literal["contrastive"] = "contrastive"
    head: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="InfoNCE over the batch, or a judgement of each pair"
    )
    targets: Literal["caption", "label"] = Field(
        "caption", description="positives: a pair's own caption, or all samples with the same findings"
    )


class Contrastive(Objective):
    """The contrastive loss over the whole global batch."""

    def __init__(self, recipe: ContrastiveRecipe, given: Given) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, student: Embeddings, batch: Batch) -> dict[str, Tensor]:
        """{"contrastive": scalar}. student.image, student.text: [B, D] unit rows, gathered."""
        by_label = self.recipe.targets == "label"
        positives = positives_of(batch.labels, student.image.device) if by_label else None
        loss = softmax_loss if self.recipe.head == "softmax" else sigmoid_loss
        return {"contrastive": self.recipe.weight * loss(student, positives)}

    def floors(self, batch: Batch) -> Losses:
        """The entropy of targets that are shared by several samples."""
        if self.recipe.targets == "caption" or self.recipe.head == "sigmoid":
            return {}
        return {"contrastive": self.recipe.weight * positives_of(batch.labels).entropy}


def softmax_loss(student: Embeddings, positives: Positives | None = None) -> Tensor:
    """Mean over images and texts of the cross-entropy between target and softmax of the logits."""
    image, text, scale = student.image, student.text, student.scale
    images_pick, texts_pick, own = log_sums(image, text, scale, _ignore(positives))
    if positives is None:
        hits = 2 * own.sum()
    else:
        right_texts, right_images = positives.text_targets(text), positives.image_targets(image)
        hits = ((image * right_texts).sum() + (text * right_images).sum()) * scale
    return (images_pick.sum() + texts_pick.sum() - hits) / (2 * len(image))


def sigmoid_loss(student: Embeddings, positives: Positives | None = None) -> Tensor:
    """Sum over all pairs of the binary cross-entropy between target and sigmoid of the logit, divided by B."""
    image, text, scale, bias = student.image, student.text, student.scale, student.bias
    every_pair = softplus_sum(image, text, scale, bias, _ignore(positives))
    if positives is None:
        return (every_pair - (image * text).sum() * scale - len(image) * bias) / len(image)
    ones = image.new_ones(len(image), 1)
    hits = positives.weighted_sum_of_pairs(image, text) * scale + positives.weighted_sum_of_pairs(ones, ones) * bias
    return (every_pair - hits) / len(image)


def _ignore(positives: Positives | None) -> Ignore | None:
    if positives is None or not bool(positives.ignored.any()):
        return None
    return Ignore(positives.ignored, positives.sets)
