"""MedCLIP's checkpoints (`pytorch_model.bin` of medclip 0.0.3): one channel, padded to a square, soft label targets.

vision_model.model.*            a Swin transformer of transformers, or torchvision's ResNet, which is timm's
vision_model.projection_head    of the Swin; the ResNet's projection is its `fc`. Neither has a bias
text_model.model.*              a BERT; text_model.projection_head without a bias
logit_scale                     logarithm

A text's row is the mean over its tokens of the hidden states of layers 1, 2 and the last. The original also counts
padding, so that there a row depends on the longest text of its batch; here it is the row of the text by itself.
b texts, l tokens, d the joint width, w a tower's width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, BatchEncoding

from medweave.models.reaching import making
from medweave.models.teachers.catalogue import Card
from medweave.models.teachers.files import options_of, weights_in
from medweave.models.teachers.own_pair import OwnPair
from medweave.models.teachers.strict import below, model_from
from medweave.models.weights import State, load_strictly, read_state, refuse
from medweave.recipe import Section

IMAGE, TEXT, SCALE = "vision_model.model.", "text_model.model.", "logit_scale"
SWIN_HEAD, RESNET_HEAD = "vision_model.projection_head.weight", f"{IMAGE}fc.weight"
TEXT_HEAD = "text_model.projection_head.weight"
LAYERS = (1, 2, -1)  # hidden states that a text's row is the mean of


class Options(Section):
    """What a card says of this family: the image tower, one way or the other."""

    timm: str | None = Field(None, description="timm's name of a ResNet, whose projection is called fc")
    transformers: dict[str, Any] | None = Field(None, description="transformers' configuration, with model_type")

    @model_validator(mode="after")
    def _one(self) -> Options:
        if (self.timm is None) == (self.transformers is None):
            raise ValueError("give either timm or transformers")
        return self


class MedClip(OwnPair):
    """The two towers and their projections."""

    separable = True

    def __init__(self, card: Card, folder: Path, options: Options, file: Path) -> None:
        state, head = read_state(file), SWIN_HEAD if options.timm is None else RESNET_HEAD
        known = (SCALE, head, TEXT_HEAD)
        refuse([f"{key} is missing" for key in known if key not in state], file)
        shapes = {key: list(state[key].shape) for key in (head, TEXT_HEAD)}
        refuse([f"{key} is {shape} instead of [d, w]" for key, shape in shapes.items() if len(shape) != 2], file)
        refuse([f"{key} is unexpected" for key in state if not key.startswith((IMAGE, TEXT, *known))], file)
        super().__init__(card, folder, below(state, TEXT), state[SCALE], file)
        self.image, width = _image_tower(options, below(_without(state, head), IMAGE), card, file)
        self.dim = len(state[TEXT_HEAD])
        self.image_projection = self._projection(state, head, width, file)
        self.text_projection = self._projection(state, TEXT_HEAD, self.text.config.hidden_size, file)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return self.project_image(self.image_features(pixels))

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> [b, w]."""
        output = self.image(pixels)
        return output if isinstance(output, Tensor) else output.pooler_output

    def project_image(self, features: Tensor) -> Tensor:
        """[b, w] -> unit rows [b, d]."""
        return functional.normalize(self.image_projection(features), dim=-1)

    def text_features(self, tokens: BatchEncoding) -> Tensor:
        """Rows [b, d]."""
        states = self.text(**tokens, output_hidden_states=True).hidden_states
        layers = torch.stack([states[layer] for layer in LAYERS]).mean(0)  # [b, l, w]
        mask = tokens["attention_mask"].unsqueeze(-1)
        return self.text_projection((layers * mask).sum(1) / mask.sum(1))

    def _projection(self, state: State, key: str, width: int, file: Path) -> nn.Linear:
        linear = nn.Linear(width, self.dim, bias=False)
        load_strictly(linear, {"weight": state[key]}, f"{file}, {key}")
        return linear


def open_teacher(card: Card, folder: Path) -> MedClip:
    """The model of a folder with one checkpoint."""
    return MedClip(card, folder, options_of(card, Options), weights_in(folder, "pytorch_model.bin")).eval()


def _image_tower(options: Options, state: State, card: Card, file: Path) -> tuple[nn.Module, int]:
    """The tower with its weights, and its width."""
    tower: Any
    where = f"options of teacher {card.name}"
    if options.timm is not None:
        with making("tower of timm", where):
            tower = timm.create_model(options.timm, num_classes=0)
        load_strictly(tower, state, str(file))
    else:
        with making("tower of transformers", where):
            tower = model_from(AutoConfig.for_model(**(options.transformers or {})), state, file)
    return tower, int(tower.num_features)


def _without(state: State, key: str) -> State:
    return {name: tensor for name, tensor in state.items() if name != key}
