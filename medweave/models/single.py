"""Models that are no open_clip models: CLIP and SigLIP of transformers, and image towers of timm.

They offer what an Encoder asks of a model, as `DualModel` does. b samples, s the input side, d the joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, BatchEncoding

from medweave.errors import RequestError, UserError
from medweave.models import offline
from medweave.models.architecture import timm_facts
from medweave.models.preprocess import Preprocess
from medweave.models.reaching import reaching
from medweave.models.weights import load_strictly, read_state, timm_trunk_state

FAMILIES = ("clip", "siglip")
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class TransformersPair(nn.Module):
    """A CLIP or SigLIP model in transformers' own format."""

    separable = True

    def __init__(self, source: str) -> None:
        super().__init__()
        with reaching(source, "model"):
            config = AutoConfig.from_pretrained(source)
            if config.model_type not in FAMILIES:
                raise RequestError(f"{source} is a {config.model_type}", todo=f"known are: {', '.join(FAMILIES)}")
            self.model = AutoModel.from_pretrained(source, dtype=torch.float32, weights_only=True).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.preprocess = _of_processor(AutoImageProcessor.from_pretrained(source, use_fast=False), source)
        self.family = config.model_type
        self.context = int(config.text_config.max_position_embeddings)
        self.facts: dict[str, Any] = {}

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Token numbers and, for CLIP, the attention mask. SigLIP was trained on full padding without a mask."""
        padding: Literal["longest", "max_length"] = "longest" if self.family == "clip" else "max_length"
        tokens = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.context, return_tensors="pt"
        )
        return tokens if self.family == "clip" else BatchEncoding({"input_ids": tokens["input_ids"]})

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return functional.normalize(_pooled(self.model.get_image_features(pixel_values=pixels)), dim=-1)

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Unit rows [b, d]."""
        return functional.normalize(_pooled(self.model.get_text_features(**tokens)), dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> the vision tower's pooled output [b, w]."""
        return self.model.vision_model(pixel_values=pixels).pooler_output

    def project_image(self, features: Tensor) -> Tensor:
        """[b, w] -> unit rows [b, d]."""
        rows = self.model.visual_projection(features) if self.family == "clip" else features
        return functional.normalize(rows, dim=-1)

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the scale."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """Bias of a SigLIP."""
        return getattr(self.model, "logit_bias", None)

    @property
    def kind(self) -> Literal["softmax", "sigmoid"]:
        """How logits become probabilities."""
        return "softmax" if self.family == "clip" else "sigmoid"

    @property
    def dim(self) -> int:
        """d."""
        config = self.model.config
        return int(config.projection_dim if self.family == "clip" else config.vision_config.hidden_size)


class TimmImages(nn.Module):
    """An image tower of timm alone: `NAME` with its public weights, or `NAME@WEIGHTS` (a file or `offline:…`)."""

    kind: Literal["softmax"] = "softmax"
    separable = True
    logit_bias = None
    context = None

    def __init__(self, source: str) -> None:
        super().__init__()
        name, _, weights = source.partition("@")
        config, self.dim, _ = timm_facts(name)
        self.trunk = _timm_trunk(name, weights).eval()
        interpolation = config.get("interpolation")
        self.preprocess = Preprocess.from_open_clip(
            {"mean": config["mean"], "std": config["std"], "interpolation": interpolation}, config["input_size"][-1]
        )
        self.logit_scale = torch.zeros(())
        self.facts: dict[str, Any] = {"licence": config.get("license")}

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Raises UserError: there is no text tower."""
        raise UserError("this model has an image tower only and cannot embed texts", todo="take a two-tower model")

    encode_text = tokenize

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return functional.normalize(self.trunk(pixels), dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> rows [b, d]."""
        return self.trunk(pixels)

    def project_image(self, features: Tensor) -> Tensor:
        """[b, d] -> unit rows [b, d]."""
        return functional.normalize(features, dim=-1)


def _timm_trunk(name: str, weights: str) -> nn.Module:
    if not weights:
        with reaching(name, "public weights"):
            return timm.create_model(name, pretrained=True, num_classes=0)
    trunk = timm.create_model(name, num_classes=0)
    if weights.startswith(offline.PREFIX):
        offline.folder_of(weights.removeprefix(offline.PREFIX))
        if name != offline.LITE0:
            raise RequestError(f"{weights} are weights of timm:{offline.LITE0}, not of timm:{name}")
        state = offline.lite0_state()
    else:
        state = read_state(Path(weights))
    load_strictly(trunk, timm_trunk_state(trunk, state), f"{name}@{weights}")
    return trunk


def _of_processor(processor: Any, source: str) -> Preprocess:
    """The preprocessing that a transformers image processor describes."""
    size, crop = dict(processor.size), getattr(processor, "do_center_crop", False)
    shortest = size.get("shortest_edge")
    side = shortest or size.get("height")
    if shortest and not (crop and dict(processor.crop_size).get("height") == shortest):
        raise UserError("its preprocessing is not known here (it crops to another size than it resizes)", where=source)
    if side is None or (not shortest and size.get("width") != side):
        raise UserError("its preprocessing is not known here (no square input)", where=source)
    return Preprocess(
        size=int(side),
        policy="crop" if shortest else "squash",
        interpolation=FILTERS.get(int(processor.resample), "bicubic"),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


def _pooled(output: Any) -> Tensor:
    """transformers 5 wraps the projected rows, transformers 4 did not."""
    return output if isinstance(output, Tensor) else output.pooler_output
