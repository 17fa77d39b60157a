"""A two-tower model in transformers' own format.

b samples, s the input side, d the joint width, w the image tower's own width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional
from transformers import BatchEncoding

from medweave.errors import RequestError
from medweave.models.teachers.pixels import of_processor
from medweave.models.teachers.strict import config_in, model_in, tokenizer_in


class TransformersPair(nn.Module, ABC):
    """What CLIP and SigLIP share. source: a folder, or a name of the hub."""

    sides = ("images", "texts")
    separable = True
    family: ClassVar[str]  # transformers' model_type
    kind: Literal["softmax", "sigmoid"]

    def __init__(self, source: str) -> None:
        super().__init__()
        config = config_in(source)
        if config.model_type != self.family:
            raise RequestError(f"{source} is a {config.model_type}, not a {self.family}")
        self.model = model_in(source)
        self.tokenizer = tokenizer_in(source, config.text_config.vocab_size)
        self.preprocess = of_processor(source)
        self.context = int(config.text_config.max_position_embeddings)
        self.facts: dict[str, Any] = {}

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """What the text tower takes of texts."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return self.project_image(self.image_features(pixels))

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Unit rows [b, d]."""
        output = self.model.get_text_features(**tokens)
        rows = output if isinstance(output, Tensor) else output.pooler_output
        return functional.normalize(rows, dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> the vision tower's pooled output [b, w]."""
        return self.model.vision_model(pixel_values=pixels).pooler_output

    @abstractmethod
    def project_image(self, features: Tensor) -> Tensor:
        """[b, w] -> unit rows [b, d]."""

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the scale."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """Bias of a sigmoid head."""
        return getattr(self.model, "logit_bias", None)

    def _padded(self, texts: Sequence[str], padding: Literal["longest", "max_length"]) -> BatchEncoding:
        return self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.context, return_tensors="pt"
        )
