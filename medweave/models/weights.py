"""Weights from files, packages and public tags into towers: strictly, or with one clear line on what differs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import load_state_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.model import (
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from transformers import AutoModel

from medweave import progress
from medweave.errors import RequestError, UserError, in_short, unknown_name
from medweave.models.architecture import timm_facts
from medweave.models.reaching import quietly, reaching
from medweave.models.towers import projection_names, trunk_prefix
from medweave.models.whole import AGAIN, fault_of

State = dict[str, Tensor]
SHOWN = 3
SCALARS = {"logit_scale", "logit_bias"}
POSITION_NUMBERS = "text.transformer.embeddings.position_ids"  # older versions stored them; they are computed now
SAFE = "give a safetensors file"
NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HEADS = ("cls.", "lm_head.", "pooler.", "classifier.", "vocab_", "mlm_head.")  # of transformers' task models


def read_state(path: Path) -> State:
    """The tensors of a safetensors or PyTorch file, or of the weights file of a model folder.

    Raises UserError for a file that holds anything but tensors, beside a trainer's `state_dict` alone.
    """
    file = weights_file(path) if path.is_dir() else path
    state = _read(file)
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(f"not only tensors in this file: {', '.join(others[:SHOWN])}", where=file, todo=SAFE)
    return state


def _read(file: Path) -> State:
    try:
        return load_state_dict(str(file), weights_only=True)
    except FileNotFoundError:
        raise RequestError("no such weights file", where=file) from None
    except Exception as error:  # each format has its own
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> UserError:
    """The error for a weights file that cannot be read: that it is not whole where that shows, else the reader's."""
    fault = fault_of(file) if file.is_file() else None
    if fault:
        return UserError(f"{file.name} {fault}", where=file.parent, todo=AGAIN)
    return UserError(f"no weights can be read: {in_short(error)}", where=file, todo=SAFE)


def weights_file(folder: Path) -> Path:
    """The weights file of an open_clip folder."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    raise RequestError("no weights in this folder", where=folder, todo=f"it should hold {NAMES[0]}")


def fill(model: CustomTextCLIP, side: str, state: State, where: str) -> None:
    """Load one tower (`visual` or `text`) from the state of that tower, of its trunk, or of a whole model.

    A projection of another shape is left as it was, which is said. Raises UserError listing what does not fit.
    """
    tower = getattr(model, side)
    state = _of_tower(tower, side, state)
    full = {f"{side}.{name}": tensor for name, tensor in state.items()}
    _fit_positions(full, model)
    state = {name.removeprefix(f"{side}."): tensor for name, tensor in full.items()}
    own = tower.state_dict()
    projection = projection_names(tower)
    if any(name not in state or state[name].shape != own[name].shape for name in projection):
        if projection & state.keys():
            progress.say(f"the projection of {where} does not fit this joint space: it starts anew")
        state = {name: tensor for name, tensor in state.items() if name not in projection}
        state |= {name: own[name] for name in projection}
    load_strictly(tower, state, where)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load all of `state` into all of `module`. Raises UserError with the first keys that differ."""
    refuse(differences(module.state_dict(), state), where)
    module.load_state_dict(state, strict=True)


def refuse(wrong: Sequence[str], where: str | Path) -> None:
    """Raises UserError naming the first keys that differ, if any do. wrong: a phrase a key, as of `differences`."""
    if wrong:
        rest = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError("the weights are of another architecture", where=where, todo="; ".join(wrong[:SHOWN]) + rest)


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` out of `own`: a phrase a key, in the model's order, the unexpected ones last."""
    wrong = [_difference(name, tensor, given.get(name)) for name, tensor in own.items()]
    return [phrase for phrase in wrong if phrase] + [f"{name} is unexpected" for name in given if name not in own]


def _difference(name: str, own: Tensor, given: Tensor | None) -> str | None:
    if given is None:
        return f"{name} is missing"
    return None if given.shape == own.shape else f"{name} is {list(given.shape)} instead of {list(own.shape)}"


def open_clip_state(clip: CustomTextCLIP, state: State) -> State:
    """A checkpoint of open_clip under the names of today, as open_clip's own loading has it, but at its own size.

    Of a text tower inside a CLIP, of Apple's MobileCLIP, of a scale with one number or none; and position_ids of old.
    """
    state = convert_state_dict(clip, dict(state))
    if "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    own = clip.state_dict()
    for name in SCALARS & state.keys() & own.keys():
        if state[name].numel() == own[name].numel():
            state[name] = state[name].reshape(own[name].shape)
    return {name: tensor for name, tensor in state.items() if name != POSITION_NUMBERS}


def hub_text_state(encoder: HFTextEncoder, source: str) -> State:
    """The weights of a transformers text tower from a folder or the hub, for `encoder.transformer`.

    Heads of other tasks are left out. Raises UserError when weights that the tower needs are missing.
    """
    pooling = any(name.startswith("pooler.") for name, _ in encoder.transformer.named_parameters())
    options: dict[str, Any] = {} if encoder.config.is_encoder_decoder else {"add_pooling_layer": pooling}
    with reaching(source, "text tower's weights"):
        tower, report = AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, weights_only=True, **options
        )
    missing = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    unexpected = [f"{name} is unexpected" for name in sorted(report["unexpected_keys"]) if not name.startswith(HEADS)]
    if missing or unexpected:
        raise UserError(
            "the weights are of another architecture", where=source, todo="; ".join((missing + unexpected)[:SHOWN])
        )
    return (tower.encoder if encoder.config.is_encoder_decoder else tower).state_dict()


def timm_public_state(name: str, size: int) -> State:
    """timm's own weights for a tower, fitted to the input size."""
    options: dict[str, Any] = {"img_size": size} if timm_facts(name)[0].get("fixed_input_size") else {}
    with reaching(name, "public weights"):
        return timm.create_model(name, pretrained=True, num_classes=0, **options).state_dict()


def tagged_state(arch: str, tag: str) -> State:
    """The weights of a public open_clip model. Raises RequestError listing the tags when there is none of that name."""
    check_tag(arch, tag)
    with reaching(f"{arch}/{tag}", "weights"), quietly():
        model = open_clip.create_model(arch, tag, force_custom_text=True, pretrained_text=False, weights_only=True)
    return model.state_dict()


def check_tag(arch: str, tag: str) -> None:
    """Raises RequestError unless `tag` is a public tag of `arch`."""
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if tag not in tags:
        raise unknown_name(f"weights tag or file of {arch}", tag, tags)


def hash_of_state(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor.reshape(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def _of_tower(tower: nn.Module, side: str, state: State) -> State:
    """The part of a state that belongs to this tower, under the tower's own names."""
    if "positional_embedding" in state and "visual.conv1.weight" in state:
        state = convert_to_custom_text_state_dict(state)
    if any(name.startswith(f"{side}.") for name in state):
        state = {name.removeprefix(f"{side}."): t for name, t in state.items() if name.startswith(f"{side}.")}
    prefix = trunk_prefix(tower)
    if prefix and not any(name.startswith(prefix) for name in state):
        if isinstance(tower, TimmModel):
            state = timm_trunk_state(tower.trunk, state)
        state = {prefix + name: tensor for name, tensor in state.items()}
    elif isinstance(tower, TimmModel):
        trunk = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        rest = {name: t for name, t in state.items() if not name.startswith(prefix)}
        state = {prefix + name: t for name, t in timm_trunk_state(tower.trunk, trunk).items()} | rest
    return state


def timm_trunk_state(trunk: nn.Module, state: State) -> State:
    """A timm state without its classifier and with its position grid at the trunk's size (timm's own filter)."""
    adapt = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    config: Any = trunk.pretrained_cfg
    classifiers = config.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    state = {name: t for name, t in state.items() if not name.startswith(tuple(f"{c}." for c in classifiers))}
    return adapt(state, trunk) if adapt else state


def _fit_positions(full: State, model: CustomTextCLIP) -> None:
    """Position grids at the model's size, in place: images as open_clip does; texts cut when the context is shorter."""
    resize_pos_embed(full, model)
    name = "text.positional_embedding"
    own = getattr(model.text, "positional_embedding", None)
    if name in full and own is not None:
        if len(full[name]) > len(own):
            full[name] = full[name][: len(own)]
        resize_text_pos_embed(full, model)
