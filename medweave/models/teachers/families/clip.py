"""CLIP in transformers' format: PLIP, PubMedCLIP, MONET and the like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn import functional
from transformers import BatchEncoding

from medweave.models.teachers.catalogue import Card
from medweave.models.teachers.pair import TransformersPair


class Pair(TransformersPair):
    """Texts padded to the longest and masked; a linear projection after each tower."""

    family = "clip"
    kind = "softmax"

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Token numbers and attention mask."""
        return self._padded(texts, "longest")

    def project_image(self, features: Tensor) -> Tensor:
        """[b, w] -> unit rows [b, d]."""
        return functional.normalize(self.model.visual_projection(features), dim=-1)

    @property
    def dim(self) -> int:
        """d."""
        return int(self.model.config.projection_dim)


def open_teacher(card: Card, folder: Path) -> Pair:
    """The model of a transformers folder."""
    return Pair(str(folder))
