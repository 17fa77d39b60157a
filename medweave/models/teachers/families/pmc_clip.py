"""PMC-CLIP's two releases: the whole checkpoint, and the three files taken out of it.

checkpoint.pt                     a trainer's `state_dict`, `module.` in front:
    visual.*                      open_clip's ModifiedResNet
    text_encoder.*                a BERT with its pooler; text_projection [w, d]; logit_scale
    and the masked-language part, which gives no rows and is left out: LEFT_OUT
image_encoder(resnet50).pth, text_encoder.pth, text_projection_layer.pth: the same without these beginnings, and
    without the scale

A text's row is the last hidden state of its first token. As it was trained, the tower sees texts padded to the context
without a mask (the card's `masked`). The number of attention heads is not told by the weights: the training code has
width / 2, which the card says, while copies of the authors' notebook have 8.
b texts or images, l tokens, d the joint width, w a tower's width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.modified_resnet import ModifiedResNet
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import BatchEncoding

from medweave.errors import RequestError, UserError
from medweave.models.teachers.catalogue import Card
from medweave.models.teachers.files import options_of
from medweave.models.teachers.own_pair import OwnPair
from medweave.models.teachers.strict import below
from medweave.models.towers import without_projection
from medweave.models.weights import State, load_strictly, read_state, refuse, unreadable
from medweave.recipe import Section

CHECKPOINT = "checkpoint.pt"
IMAGE_FILE, TEXT_FILE, PROJECTION_FILE = "image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"
PROJECTION = "text_projection"
PARTS = ("visual.", "text_encoder.")
LEFT_OUT = ("fusion_module.", "ln_final.", "positional_embedding", "mlm_projection", "img_special_token", "attn_mask")


class Options(Section):
    """What a card says of this family."""

    layers: tuple[int, int, int, int] = Field(description="blocks of the ResNet's stages")
    width: int = Field(description="channels of its first stage")
    heads: int = Field(description="of its attention pooling")


class PmcClip(OwnPair):
    """The two towers; the image tower pools and projects at once."""

    separable = False

    def __init__(self, card: Card, folder: Path, options: Options, state: State, where: Path) -> None:
        super().__init__(card, folder, below(state, "text_encoder."), state.get("logit_scale"), where)
        known = (PROJECTION, "logit_scale")
        refuse([f"{key} is unexpected" for key in state if key not in known and not key.startswith(PARTS)], where)
        self.text_projection = _projection(state, self.text.config.hidden_size, where)
        self.dim, size = self.text_projection.shape[1], self.preprocess.size
        self.visual = ModifiedResNet(list(options.layers), self.dim, options.heads, size, options.width)
        load_strictly(self.visual, below(state, "visual."), str(where))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> unit rows [b, d]."""
        return functional.normalize(self.visual(pixels), dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> the mean of the last stage [b, w]; no rows come of it."""
        return without_projection(self.visual)(pixels)

    def text_features(self, tokens: BatchEncoding) -> Tensor:
        """Rows [b, d]."""
        return self.text(**tokens).last_hidden_state[:, 0] @ self.text_projection


def open_teacher(card: Card, folder: Path) -> PmcClip:
    """The model of a folder with the checkpoint, or with the three files."""
    options, file = options_of(card, Options), folder / CHECKPOINT
    if file.is_file():
        state = {name: tensor for name, tensor in read_state(file).items() if not name.startswith(LEFT_OUT)}
        return PmcClip(card, folder, options, state, file).eval()
    lacking = [name for name in (IMAGE_FILE, TEXT_FILE, PROJECTION_FILE) if not (folder / name).is_file()]
    if lacking:
        raise RequestError(f"neither {CHECKPOINT} nor {', '.join(lacking)} in this folder", where=folder)
    return PmcClip(card, folder, options, _of_three(folder), folder).eval()


def _of_three(folder: Path) -> State:
    parts = {"visual.": read_state(folder / IMAGE_FILE), "text_encoder.": read_state(folder / TEXT_FILE)}
    state = {f"{prefix}{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}
    return {**state, PROJECTION: _tensor(folder / PROJECTION_FILE)}


def _projection(state: State, width: int, where: Path) -> nn.Parameter:
    """[w, d], from texts to the joint space."""
    if PROJECTION not in state:
        refuse([f"{PROJECTION} is missing"], where)
    shape = list(state[PROJECTION].shape)
    refuse([f"{PROJECTION} is {shape} instead of [{width}, …]"] if len(shape) != 2 or shape[0] != width else [], where)
    return nn.Parameter(state[PROJECTION].float())


def _tensor(file: Path) -> Tensor:
    """The one tensor of a file."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own
        raise unreadable(file, error) from error
    if not isinstance(found, Tensor):
        raise UserError(f"a {type(found).__name__} instead of one tensor", where=file)
    return found.detach()
