"""The two-tower model from a recipe: towers chosen, filled with their weights, frozen as asked."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from medweave import progress, seeds
from medweave.errors import RequestError, unknown_name
from medweave.models import offline
from medweave.models.architecture import (
    Architecture,
    arch_config,
    assemble,
    text_config,
    text_positions,
    timm_config,
    timm_facts,
)
from medweave.models.folder import save
from medweave.models.preprocess import Preprocess
from medweave.models.public import open_whole
from medweave.models.recipe import FreezeRecipe, ImageTowerRecipe, ModelRecipe, TextTowerRecipe
from medweave.models.tokens import Tokens, tokenizer_of
from medweave.models.towers import freeze
from medweave.models.two_towers import DualModel
from medweave.models.weights import check_tag, fill, hub_text_state, read_state, tagged_state, timm_public_state

LONGEST = 256  # tokens of a text, where neither recipe nor tower asks for less
WIDTH = 512  # of the joint space, where neither recipe nor tower says
HEADS = {"softmax": (math.log(1 / 0.07), None), "sigmoid": (math.log(10), -10.0)}  # CLIP's and SigLIP's
ARCH = "open_clip:"


@dataclass(frozen=True)
class _Text:
    """A text tower before it is made."""

    config: dict[str, Any]  # open_clip's text_cfg
    parts: dict[str, Any] | None  # transformers' config.json
    source: str | None  # folder or hub name of a transformers tower
    tokenizer: HFTokenizer | SimpleTokenizer
    context: int


def build(recipe: ModelRecipe, seed: int = 0) -> DualModel:
    """The model that the recipe describes, on the CPU, in eval(). Same recipe and seed, same weights.

    Raises RequestError for towers that do not fit together, UserError for weights that do not fit or cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.seed_of(seed, "model"))
        return _from_towers(recipe) if recipe.start is None else _from_whole(recipe.start, recipe.freeze)


def _from_whole(start: str, how: FreezeRecipe | None) -> DualModel:
    model = open_whole(start)
    if how is not None:
        freeze(model.clip.visual, how.image)
        freeze(model.clip.text, how.text)
    return model


def _from_towers(recipe: ModelRecipe) -> DualModel:
    assert recipe.image and recipe.text  # the recipe's own check
    text = _text(recipe.text, recipe.image)
    preprocess = _preprocess(recipe.image)
    architecture = _architecture(recipe, text, preprocess.size)
    clip = assemble(architecture)
    _fill_image(clip, recipe.image, preprocess.size)
    _fill_text(clip, recipe.text, recipe.image, text)
    for tower, how in ((clip.visual, recipe.image.freeze), (clip.text, recipe.text.freeze)):
        freeze(tower, how)
    facts = {"image_tower": recipe.image.tower, "text_tower": _public_name(recipe.text.tower)}
    return DualModel(clip, architecture, preprocess, Tokens(text.tokenizer, text.context), facts).eval()


def _public_name(tower: str) -> str:
    """A tower's name without the place of a local folder."""
    family, _, name = tower.partition(":")
    return f"{family}:{Path(name).name}" if Path(name).is_dir() else tower


def _architecture(recipe: ModelRecipe, text: _Text, size: int) -> Architecture:
    image = recipe.image
    assert image and recipe.text
    scale, bias = HEADS[recipe.head]
    named = [arch_config(t.removeprefix(ARCH)) for t in (image.tower, recipe.text.tower) if t.startswith(ARCH)]
    embed = recipe.embed or (int(named[0]["embed_dim"]) if named else WIDTH)
    vision, parts = _vision(image, size, embed)
    _check_width(text, embed)
    config = {
        "embed_dim": embed,
        "vision_cfg": vision,
        "text_cfg": text.config,
        "quick_gelu": _quick_gelu(recipe),
        "init_logit_scale": scale,
        "init_logit_bias": bias,
    }
    return Architecture(config, text.parts, parts)


def _vision(image: ImageTowerRecipe, size: int, embed: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """open_clip's `vision_cfg`, and timm's config.json where the tower depends on the size."""
    if image.tower.startswith(ARCH):
        config = deepcopy(arch_config(image.tower.removeprefix(ARCH))["vision_cfg"])
        config["image_size"] = size
        name = config.get("timm_model_name")
        return config, timm_config(name, size) if name else None
    name = image.tower.removeprefix("timm:")
    _, width, pool = timm_facts(name)
    if image.projection == "none" and width != embed:
        raise RequestError(
            f"without a projection the joint space has the image tower's width, {width}", todo=f"set embed: {width}"
        )
    config = {
        "timm_model_name": name,
        "timm_pool": pool if image.projection == "none" else "",
        "timm_proj": image.projection,
        "timm_drop": image.dropout,
        "timm_drop_path": image.drop_path or None,
        "image_size": size,
    }
    return config, timm_config(name, size)


def _text(text: TextTowerRecipe, image: ImageTowerRecipe) -> _Text:
    if text.tower.startswith("open_clip"):
        return _arch_text(_text_arch(text, image), text)
    source = _text_source(text)
    pooler = text.pooler or ("mean_pooler" if text.tower.startswith(offline.PREFIX) else None)
    projection = None if text.projection == "none" else text.projection
    config = {"hf_proj_type": projection, "hf_pooler_type": pooler}
    return _hub_text(source, config, text.context, text.dropout)


def _arch_text(arch: str, text: TextTowerRecipe) -> _Text:
    config = deepcopy(arch_config(arch)["text_cfg"])
    context = text.context or int(config.get("context_length", 77))
    if "hf_model_name" in config:
        return _hub_text(config["hf_model_name"], config, context, text.dropout)
    if text.dropout:
        raise RequestError(
            f"{arch} has open_clip's own text tower, without dropout", where="model.text.dropout", todo="leave it out"
        )
    config["context_length"] = context
    return _Text(config, None, None, tokenizer_of(config), context)


def _hub_text(source: str, config: dict[str, Any], context: int | None, dropout: float) -> _Text:
    parts = text_config(source, dropout)
    positions = text_positions(parts)
    context = context or min(positions or LONGEST, LONGEST)
    if positions is not None and context > positions:
        raise RequestError(f"the text tower {source} reads at most {positions} tokens", todo=f"context is {context}")
    named = {"hf_model_name": source, "hf_tokenizer_name": source, "context_length": context}
    tokenizer = tokenizer_of({**config, **named})
    if tokenizer.tokenizer.pad_token_id != parts["pad_token_id"]:
        raise RequestError("the tokenizer and the text tower disagree on the padding token", where=source)
    return _Text({**config, **named}, parts, source, tokenizer, context)


def _check_width(text: _Text, embed: int) -> None:
    if text.parts is None or text.config.get("hf_proj_type"):
        return
    width = text.parts.get("hidden_size", text.parts.get("d_model"))
    if width != embed:
        raise RequestError(f"without a projection the joint space has the text tower's width, {width}")


def _quick_gelu(recipe: ModelRecipe) -> bool:
    """open_clip has one activation for both towers: QuickGELU where a tower's weights were trained with it."""
    assert recipe.image and recipe.text
    wanted = set()
    if recipe.image.tower.startswith(ARCH):
        wanted.add(_own_quick_gelu(recipe.image.tower.removeprefix(ARCH), recipe.image.weights))
    if recipe.text.tower.startswith("open_clip"):
        weights = _text_weights(recipe.text, recipe.image)
        wanted.add(_own_quick_gelu(_text_arch(recipe.text, recipe.image), weights))
    if len(wanted) > 1:
        raise RequestError("one tower uses QuickGELU and the other does not", todo="take an ARCH-quickgelu for both")
    return wanted.pop() if wanted else False


def _own_quick_gelu(arch: str, weights: str | None) -> bool:
    tag = open_clip.get_pretrained_cfg(arch, weights) if weights else {}
    return bool(arch_config(arch).get("quick_gelu") or (tag or {}).get("quick_gelu"))


def _preprocess(image: ImageTowerRecipe) -> Preprocess:
    """The recipe's own words first, then those of weights, then those of the tower."""
    if image.tower.startswith(ARCH):
        arch = image.tower.removeprefix(ARCH)
        known = open_clip.get_pretrained_cfg(arch, image.weights) if image.weights else {}
        usual = arch_config(arch)["vision_cfg"].get("image_size", 224)
    else:
        known, _, _ = timm_facts(image.tower.removeprefix("timm:"))
        usual = known["input_size"][-1]
    known = {name: known[name] for name in ("mean", "std") if name in (known or {})}
    if isinstance(usual, list | tuple):
        usual = usual[-1]
    own = Preprocess.from_open_clip(known, size=image.size or usual)
    return Preprocess(own.size, image.resize, image.interpolation, image.mean or own.mean, image.std or own.std)


def _fill_image(clip: CustomTextCLIP, image: ImageTowerRecipe, size: int) -> None:
    weights, name = image.weights, image.tower.partition(":")[2]
    if weights is None:
        progress.say(f"the image tower {image.tower} starts from random weights")
    elif weights.startswith(offline.PREFIX):
        fill(clip, "visual", offline.lite_state(weights.removeprefix(offline.PREFIX), name), weights)
    elif Path(weights).exists():
        fill(clip, "visual", read_state(Path(weights)), weights)
    elif image.tower.startswith(ARCH):
        fill(clip, "visual", tagged_state(name, weights), f"{name}/{weights}")
    elif weights == "public":
        fill(clip, "visual", timm_public_state(name, size), name)
    else:
        raise RequestError(
            f"no weights {weights!r} for {image.tower}", todo="a file, a model folder, public or offline:…"
        )


def _fill_text(clip: CustomTextCLIP, text: TextTowerRecipe, image: ImageTowerRecipe, made: _Text) -> None:
    weights = _text_weights(text, image)
    if weights is None:
        progress.say(f"the text tower {text.tower} starts from random weights")
    elif weights == "own" and made.source is not None:
        fill(clip, "text", hub_text_state(clip.text, made.source), made.source)
    elif Path(weights).exists():
        fill(clip, "text", read_state(Path(weights)), weights)
    elif text.tower.startswith("open_clip"):
        arch = _text_arch(text, image)
        check_tag(arch, weights)
        fill(clip, "text", tagged_state(arch, weights), f"{arch}/{weights}")
    else:
        raise RequestError(f"no weights {weights!r} for {text.tower}", todo="a file, a model folder, or own")


def _text_weights(text: TextTowerRecipe, image: ImageTowerRecipe) -> str | None:
    """`own` of an open_clip tower: the image tower's tag where they are one model; None where there is no such."""
    if text.weights != "own" or not text.tower.startswith("open_clip"):
        return text.weights
    arch = _text_arch(text, image)
    if "hf_model_name" in arch_config(arch)["text_cfg"]:
        return "own"
    return image.weights if text.tower == "open_clip" else None


def _text_arch(text: TextTowerRecipe, image: ImageTowerRecipe) -> str:
    return (image.tower if text.tower == "open_clip" else text.tower).removeprefix(ARCH)


def _text_source(text: TextTowerRecipe) -> str:
    """The folder or hub name of a transformers text tower."""
    if text.tower == "offline:minilm":
        return str(offline.minilm_folder())
    if text.tower.startswith(offline.PREFIX):
        raise unknown_name("offline text tower", text.tower, ["offline:minilm"])
    return text.tower.removeprefix("transformers:")


__all__ = ["DualModel", "build", "save"]
