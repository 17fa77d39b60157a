"""What an Encoder asks of a model with one side: an image tower or a sentence encoder alone.

b samples, s the input side, d the width of rows. A scale has no meaning without a partner, so it is 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medweave.models.preprocess import Preprocess


class ImagesOnly(nn.Module, ABC):
    """An image tower alone: its own output is the row. A subclass has `image_features`."""

    sides = ("images",)
    kind: Literal["softmax"] = "softmax"
    separable = True
    context = None
    logit_bias = None

    def __init__(self, preprocess: Preprocess, dim: int, facts: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.preprocess, self.dim, self.facts = preprocess, dim, dict(facts or {})
        self.logit_scale = torch.zeros(())

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> rows [b, d]."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return self.project_image(self.image_features(pixels))

    def project_image(self, features: Tensor) -> Tensor:
        """[b, d] -> unit rows [b, d]."""
        return functional.normalize(features, dim=-1)


class TextsOnly(nn.Module):
    """A sentence encoder alone. A subclass has `tokenize` and `encode_text`."""

    sides = ("texts",)
    kind: Literal["softmax"] = "softmax"
    separable = False
    logit_bias = None

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.dim, self.context = dim, context
        self.facts: dict[str, Any] = {}
        self.logit_scale = torch.zeros(())
