"""The two-tower model: open_clip's own, with its preprocessing and tokenizer, and with frozen parts kept in eval().

b samples, s the input side, l tokens, d the joint width, w a tower's own width. Rows of the joint space have length 1.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from open_clip.model import CustomTextCLIP, set_model_preprocess_cfg
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional

from medweave.models.architecture import Architecture
from medweave.models.preprocess import Preprocess
from medweave.models.tokens import Tokens, pads_freely
from medweave.models.towers import (
    is_convolutional,
    is_frozen,
    projection_attribute,
    rest_frozen,
    without_projection,
)


class DualModel(nn.Module):
    """A thin holder around `clip`."""

    sides = ("images", "texts")

    def __init__(
        self,
        clip: CustomTextCLIP,
        architecture: Architecture,
        preprocess: Preprocess,
        tokenize: Tokens,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.clip, self.architecture, self.preprocess, self.tokenize = clip, architecture, preprocess, tokenize
        self.facts = dict(facts or {})
        self.tokenize.freely = pads_freely(clip, tokenize)
        self.channels_last = is_convolutional(clip.visual)
        if self.channels_last:
            clip.visual.to(memory_format=torch.channels_last)
        set_model_preprocess_cfg(clip, preprocess.as_open_clip())

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [b, 3, s, s], tokens [b, l] -> unit rows [b, d] of images and of texts."""
        return self.encode_image(pixels), self.encode_text(tokens)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return self.clip.encode_image(self._laid_out(pixels), normalize=True)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, l] -> unit rows [b, d]."""
        return self.clip.encode_text(tokens, normalize=True)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> the image tower's own output [b, w], before the joint projection."""
        return without_projection(self.clip.visual)(self._laid_out(pixels))

    def project_image(self, features: Tensor) -> Tensor:
        """[b, w] -> unit rows [b, d]; where `separable`."""
        return self._projected(self.clip.visual, features)

    @property
    def separable(self) -> bool:
        """Whether the image tower's projection follows its own output: not where pooling and projection are one."""
        return not isinstance(self.clip.visual, ModifiedResNet)

    def text_pooled(self, tokens: Tensor) -> Tensor:
        """[b, l] -> the text tower's own output [b, w]: what is cached of a frozen tower."""
        return without_projection(self.clip.text)(tokens)

    def project_text(self, pooled: Tensor) -> Tensor:
        """[b, w] -> unit rows [b, d]."""
        return self._projected(self.clip.text, pooled)

    def _projected(self, tower: nn.Module, rows: Tensor) -> Tensor:
        projection = getattr(tower, projection_attribute(tower))
        if projection is not None:
            rows = projection(rows) if isinstance(projection, nn.Module) else rows @ projection
        return functional.normalize(rows, dim=-1)

    def train(self, mode: bool = True) -> DualModel:
        """As usual, but what is frozen stays in eval()."""
        super().train(mode)
        rest_frozen(self.clip)
        return self

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the scale."""
        return self.clip.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Bias of a sigmoid head; None for a softmax head."""
        return self.clip.logit_bias

    @property
    def kind(self) -> Literal["softmax", "sigmoid"]:
        """How logits become probabilities."""
        return "softmax" if self.clip.logit_bias is None else "sigmoid"

    @property
    def dim(self) -> int:
        """d."""
        return self.architecture.embed

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        return self.tokenize.context

    @property
    def frozen_text(self) -> bool:
        """Whether `text_pooled` cannot change in training."""
        return is_frozen(self.clip.text)

    def _laid_out(self, pixels: Tensor) -> Tensor:
        return pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels
