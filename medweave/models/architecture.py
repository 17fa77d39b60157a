"""What a two-tower model looks like, as open_clip's own configuration, and the empty model made from it.

open_clip names a transformers text tower, or a timm tower at another size than its usual one, by where a `config.json`
lies. Here these files are kept as data, so that a model does not depend on a place: they are written out where needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import timm
import torch
from open_clip.hf_configs import arch_dict
from open_clip.model import CustomTextCLIP
from transformers import AutoConfig

from medweave.errors import RequestError, UserError, unknown_name
from medweave.models.reaching import quietly, reaching

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "dropout_rate",
)


@dataclass(frozen=True)
class Architecture:
    """open_clip's `model_cfg`, and the configurations that it refers to."""

    model_cfg: Mapping[str, Any]
    text_config: Mapping[str, Any] | None = None  # of a transformers text tower
    image_config: Mapping[str, Any] | None = None  # of a timm tower whose input size is not its usual one

    def placed(self, folder: Path, text: str | None = None, image: str | None = None) -> dict[str, Any]:
        """The `model_cfg` that finds its parts below `folder`, or under the names `text` and `image`."""
        config = deepcopy(dict(self.model_cfg))
        config["custom_text"] = True
        if self.text_config is not None:
            config["text_cfg"]["hf_model_name"] = text or str(folder / "text")
        if config["text_cfg"].get("hf_tokenizer_name"):
            config["text_cfg"]["hf_tokenizer_name"] = text or str(folder)
        if self.image_config is not None:
            config["vision_cfg"]["timm_model_name"] = image or f"local-dir:{folder / 'image'}"
        return config

    def write_parts(self, folder: Path) -> None:
        """Write what `placed` refers to: text/config.json and image/config.json."""
        for name, part in (("text", self.text_config), ("image", self.image_config)):
            if part is not None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                (folder / name / "config.json").write_text(json.dumps(part, indent=2) + "\n", encoding="utf-8")

    @property
    def embed(self) -> int:
        """Width of the joint space."""
        return int(self.model_cfg["embed_dim"])


def assemble(architecture: Architecture) -> CustomTextCLIP:
    """The model with fresh weights. Raises RequestError when its parts do not fit together."""
    with TemporaryDirectory() as scratch, quietly():
        architecture.write_parts(Path(scratch))
        config = architecture.placed(Path(scratch))
        del config["custom_text"]
        _refuse_coca(config)
        config["vision_cfg"]["timm_model_pretrained"] = False
        config["text_cfg"]["hf_model_pretrained"] = False
        try:
            return CustomTextCLIP(**config)
        except (TypeError, AssertionError, RuntimeError, AttributeError) as error:
            raise RequestError(f"the model cannot be made from its configuration: {error}") from error


def arch_config(arch: str) -> dict[str, Any]:
    """open_clip's configuration of that name. Raises RequestError with the nearest names."""
    config = open_clip.get_model_config(arch)
    if config is None:
        raise unknown_name("open_clip model", arch, open_clip.list_models())
    _refuse_coca(config)
    return config


def _refuse_coca(model_cfg: Mapping[str, Any]) -> None:
    if "multimodal_cfg" in model_cfg:
        raise RequestError("a CoCa model has a text decoder, which Medweave does not train", todo="take a CLIP")


def text_config(source: str, dropout: float | None = None) -> dict[str, Any]:
    """The configuration of a transformers text tower, from a folder or the hub, with its dropout set."""
    with reaching(source, "text tower's configuration"):
        config = AutoConfig.from_pretrained(source)
    if config.model_type not in arch_dict:
        raise unknown_name("kind of transformers text tower that open_clip knows", config.model_type, arch_dict)
    if getattr(config, "pad_token_id", None) is None:
        raise UserError("the text tower names no pad_token_id, so padding cannot be masked", where=source)
    for name in DROPOUTS:
        if dropout is not None and hasattr(config, name):
            setattr(config, name, dropout)
    config.dtype = torch.float32
    with TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        return json.loads((Path(scratch) / "config.json").read_text(encoding="utf-8"))


def text_positions(config: Mapping[str, Any]) -> int | None:
    """Most tokens that a transformers text tower can read; None: no limit."""
    positions = config.get("max_position_embeddings")
    offset = 2 if "roberta" in config["model_type"] else 0
    return None if positions is None else int(positions) - offset


def timm_facts(name: str) -> tuple[dict[str, Any], int, str]:
    """A timm tower's own settings, the width of its output, and how it pools. Raises RequestError for unknown names."""
    if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    with reaching(name, "timm configuration"), torch.device("meta"):
        trunk = timm.create_model(name, num_classes=0)
    config: Any = trunk.pretrained_cfg
    width: Any = trunk.num_features
    pool = getattr(trunk, "global_pool", None) or "avg"
    return dict(config), int(width), str(getattr(pool, "pool_type", pool))


def timm_config(name: str, size: int) -> dict[str, Any] | None:
    """timm's config.json for a tower whose weights depend on the input size; None where the size is the usual one."""
    config, _, _ = timm_facts(name)
    if not config.get("fixed_input_size") or config["input_size"][-1] == size:
        return None
    usual = {key: value for key, value in config.items() if isinstance(value, str | int | float | bool | list | tuple)}
    return {
        "architecture": name.partition(".")[0],
        "num_features": 0,
        "model_args": {"img_size": size},
        "pretrained_cfg": {**usual, "input_size": [3, size, size]},
    }
