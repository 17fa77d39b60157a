"""Image towers alone, in timm's format (UNI, Virchow, EfficientNet-Lite0) or in transformers' (RAD-DINO).

b samples, s the input side, l tokens, d the width of rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import timm
import timm.layers
import torch
from pydantic import Field
from torch import Tensor, nn

from medweave.errors import RequestError, UserError, unknown_name
from medweave.models import offline
from medweave.models.architecture import timm_facts
from medweave.models.preprocess import Preprocess
from medweave.models.reaching import making, reaching
from medweave.models.teachers.catalogue import Card, image_of
from medweave.models.teachers.files import mapping_in, options_of, weights_in
from medweave.models.teachers.one_sided import ImagesOnly
from medweave.models.teachers.pixels import of_processor, of_timm
from medweave.models.teachers.strict import model_in, width_of
from medweave.models.weights import load_strictly, read_state, timm_trunk_state
from medweave.recipe import Section

Pooling = Literal["own", "cls", "cls+mean"]
WIDTHS: dict[Pooling, int] = {"own": 1, "cls": 1, "cls+mean": 2}  # of a row in widths of the tower
NAMES = ("model.safetensors", "pytorch_model.bin")


class Options(Section):
    """What a card says of a tower in timm's format. In transformers' format there is nothing to say."""

    arch: str | None = Field(None, description="timm's name, where the folder has no config.json of timm's")
    args: dict[str, Any] = Field({}, description="arguments of timm's create_model, as the owner's page gives them")
    mlp_layer: str | None = Field(None, description="class of timm.layers that a vision transformer's blocks have")
    names: Literal["timm", "package"] = Field(
        "timm", description="whose names the weights have: timm's, or the card's package's own"
    )


class TimmImages(ImagesOnly):
    """A tower of timm. pooling: own is the tower's way; cls its first token; cls+mean that beside the patches' mean."""

    def __init__(self, trunk: nn.Module, preprocess: Preprocess, pooling: Pooling = "own") -> None:
        tower: Any = trunk
        width = int(tower.num_features) * WIDTHS[pooling]
        super().__init__(preprocess, width, {"licence": dict(tower.pretrained_cfg).get("license")})
        self.trunk, self.pooling = tower, pooling

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> rows [b, d]."""
        if self.pooling != "own":
            return _pooled(self.trunk.forward_features(pixels), self.pooling, self.trunk.num_prefix_tokens)
        rows = self.trunk(pixels)
        if rows.ndim != 2:
            raise UserError("the tower gives tokens and no single row", todo="say in the card how they are pooled")
        return rows


class TransformersImages(ImagesOnly):
    """A backbone of transformers."""

    def __init__(self, folder: Path, pooling: Pooling) -> None:
        model = model_in(folder)
        super().__init__(of_processor(folder), width_of(model.config, folder) * WIDTHS[pooling])
        self.model, self.pooling = model, pooling
        self.prefix = 1 + int(getattr(model.config, "num_register_tokens", 0))

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, s, s] -> rows [b, d]."""
        output = self.model(pixel_values=pixels)
        if self.pooling == "own":
            return output.pooler_output.flatten(1)
        return _pooled(output.last_hidden_state, self.pooling, self.prefix)


def open_teacher(card: Card, folder: Path) -> ImagesOnly:
    """The tower of a folder: transformers' where its config.json names a model_type, else timm's."""
    options, pooling, config = options_of(card, Options), image_of(card).pooling, mapping_in(folder / "config.json")
    if "model_type" in config:
        return TransformersImages(folder, pooling).eval()
    if not options.arch and "architecture" not in config:
        raise RequestError("no configuration of transformers or timm in this folder", where=folder)
    trunk: Any = _trunk(options, card, folder)
    state = read_state(weights_in(folder, *NAMES))
    if options.names == "package":
        state = offline.lite_named(state, _package(card))
    load_strictly(trunk, timm_trunk_state(trunk, state), str(folder))
    return TimmImages(trunk, of_timm(dict(trunk.pretrained_cfg), folder), pooling).eval()


def public_tower(source: str) -> TimmImages:
    """A tower of timm: `NAME` with its public weights, or `NAME@WEIGHTS` (a file or `offline:…`), whole images."""
    name, _, weights = source.partition("@")
    config, _, _ = timm_facts(name)
    known = {key: config.get(key) for key in ("mean", "std", "interpolation")}
    return TimmImages(_public_trunk(name, weights), Preprocess.from_open_clip(known, config["input_size"][-1])).eval()


def _trunk(options: Options, card: Card, folder: Path) -> nn.Module:
    args = dict(options.args)
    if options.mlp_layer is not None:
        args["mlp_layer"] = _layer(options.mlp_layer, card)
    with making("tower of timm", f"options of teacher {card.name}" if card.options else folder / "config.json"):
        return timm.create_model(options.arch or f"local-dir:{folder}", pretrained=False, num_classes=0, **args)


def _layer(name: str, card: Card) -> Any:
    """A layer of timm.layers. Raises RequestError for a name that is none."""
    layers = {known: value for known, value in vars(timm.layers).items() if callable(value)}
    if name not in layers:
        raise unknown_name("layer of timm.layers", name, layers, where=f"options of teacher {card.name}")
    return layers[name]


def _package(card: Card) -> str:
    """The package whose names the weights have. Raises RequestError for a card that names none with such names."""
    if card.package not in offline.REPEATS:
        raise RequestError(
            "names: package needs the package too",
            where=f"card of {card.name}",
            todo=f"write package: {' or '.join(offline.REPEATS)}",
        )
    return str(card.package)


def _public_trunk(name: str, weights: str) -> nn.Module:
    if not weights:
        with reaching(name, "public weights"):
            return timm.create_model(name, pretrained=True, num_classes=0)
    trunk = timm.create_model(name, num_classes=0)
    if weights.startswith(offline.PREFIX):
        state = offline.lite_state(weights.removeprefix(offline.PREFIX), name)
    else:
        state = read_state(Path(weights))
    load_strictly(trunk, timm_trunk_state(trunk, state), f"{name}@{weights}")
    return trunk


def _pooled(tokens: Tensor, pooling: Pooling, prefix: int) -> Tensor:
    """Tokens [b, l, w] -> [b, w] of the first, or [b, 2w] with the mean of those after the first `prefix`."""
    if pooling == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=-1)
