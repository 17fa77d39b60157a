"""SigLIP in transformers' format: MedSigLIP and the like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn import functional
from transformers import BatchEncoding

from medweave.models.teachers.catalogue import Card
from medweave.models.teachers.pair import TransformersPair


class Pair(TransformersPair):
    """The towers end in the joint space. Texts are padded to the context without a mask, as it was trained."""

    family = "siglip"
    kind = "sigmoid"

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Token numbers."""
        return BatchEncoding({"input_ids": self._padded(texts, "max_length")["input_ids"]})

    def project_image(self, features: Tensor) -> Tensor:
        """[b, d] -> unit rows [b, d]."""
        return functional.normalize(features, dim=-1)

    @property
    def dim(self) -> int:
        """d."""
        return int(self.model.config.vision_config.hidden_size)


def open_teacher(card: Card, folder: Path) -> Pair:
    """The model of a transformers folder."""
    return Pair(str(folder))
