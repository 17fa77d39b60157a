"""What the two-tower models of own formats share: pixels and texts as the card says, a BERT, a softmax head.

b texts or images, s the input side, l tokens, d the joint width, w the image tower's own width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BatchEncoding

from medweave.errors import UserError
from medweave.models.teachers.catalogue import UNKNOWN, Card, text_of
from medweave.models.teachers.pixels import of_card
from medweave.models.teachers.places import text_folder
from medweave.models.teachers.strict import config_in, model_from, tokenizer_in
from medweave.models.weights import State, refuse


class OwnPair(nn.Module, ABC):
    """A subclass has `separable` too, and `project_image` where that is true."""

    sides = ("images", "texts")
    kind: Literal["softmax"] = "softmax"
    logit_bias = None

    def __init__(self, card: Card, folder: Path, text: State, scale: Tensor | None, where: Path) -> None:
        """text: weights of the BERT. scale: logarithm, None where the files have none. where: the weights file."""
        super().__init__()
        place = text_folder(card, folder)
        config = config_in(place)
        self.text = model_from(config, text, where)
        self.tokenizer = tokenizer_in(place, config.vocab_size)
        self.preprocess, self.context, self.masked = of_card(card), context_of(card), text_of(card).masked
        self.logit_scale = _scale(card, scale, where)
        self.facts: dict[str, Any] = {}

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Token numbers, with a mask; or padded to the context without one where the tower sees padding as text."""
        padding: Literal["longest", "max_length"] = "longest" if self.masked else "max_length"
        tokens = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.context, return_tensors="pt"
        )
        names = ("input_ids", "attention_mask") if self.masked else ("input_ids",)
        return BatchEncoding({name: tokens[name] for name in names})

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Unit rows [b, d]."""
        return functional.normalize(self.text_features(tokens), dim=-1)

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> [b, w]."""

    @abstractmethod
    def text_features(self, tokens: BatchEncoding) -> Tensor:
        """Rows [b, d] in the joint space, of any length."""


def context_of(card: Card) -> int:
    """Most tokens of a text, which the files of own formats do not tell."""
    context = text_of(card).context
    if context is UNKNOWN:
        raise UserError(f"neither the files nor the card tell the context of {card.name}")
    return int(context)


def _scale(card: Card, stored: Tensor | None, where: Path) -> nn.Parameter | None:
    """Logarithm of the scale: the files', else the card's; None where neither knows."""
    if stored is not None:
        refuse([] if stored.numel() == 1 else [f"logit_scale is {list(stored.shape)} and no single number"], where)
        return nn.Parameter(stored.float().reshape(()))
    known = UNKNOWN if card.head is None else card.head.scale
    return None if known is UNKNOWN else nn.Parameter(torch.tensor(math.log(known)))
