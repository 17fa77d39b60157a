"""The parts of open_clip's towers: trunk, blocks, projection; and freezing by them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import PatchDropout
from timm.layers import DropPath
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from medweave.errors import RequestError

CHANCES = {_DropoutNd: "p", DropPath: "drop_prob", PatchDropout: "prob"}  # what drops -> how often
BLOCK_LISTS = ("blocks", "stages", "layers", "resblocks", "layer", "block", "features")


def trunk_prefix(tower: nn.Module) -> str:
    """What the names of a wrapped trunk's weights begin with; empty for open_clip's own towers."""
    return {TimmModel: "trunk.", HFTextEncoder: "transformer."}.get(type(tower), "")


def projection_attribute(tower: nn.Module) -> str:
    """The attribute that leads from the tower's own output to the joint space."""
    wrapped = {TimmModel: "head", HFTextEncoder: "proj", ModifiedResNet: "attnpool"}
    return wrapped.get(type(tower)) or ("text_projection" if hasattr(tower, "text_projection") else "proj")


def projection_names(tower: nn.Module) -> set[str]:
    """The names in the tower's state that belong to its projection."""
    attribute = projection_attribute(tower)
    return {name for name in tower.state_dict() if name == attribute or name.startswith(f"{attribute}.")}


def without_projection(tower: nn.Module) -> nn.Module:
    """The same tower, sharing all weights, that stops before its projection."""
    bare = copy.copy(tower)
    bare._parameters, bare._modules = dict(tower._parameters), dict(tower._modules)
    if isinstance(tower, ModifiedResNet):
        bare.attnpool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    elif isinstance(tower, TimmModel | HFTextEncoder):
        setattr(bare, projection_attribute(tower), nn.Identity())
    else:
        setattr(bare, projection_attribute(tower), None)
    return bare


def freeze(tower: nn.Module, how: bool | int) -> None:
    """Freeze the tower but its projection: all of it (True), or all before its last `how` blocks (a number)."""
    if how is False:
        return
    projection = projection_names(tower)
    names = [name for name, _ in tower.named_parameters() if name not in projection]
    if how is not True:
        names = names[: _first_of_last_blocks(tower, names, how)]
    for name in names:
        tower.get_parameter(name).requires_grad_(False)


def is_frozen(tower: nn.Module) -> bool:
    """Whether nothing but the projection can learn."""
    projection = projection_names(tower)
    return not any(p.requires_grad for name, p in tower.named_parameters() if name not in projection)


def rest_frozen(model: nn.Module) -> None:
    """Put every module that cannot learn into eval(): no dropout, no moving statistics."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def drops(model: nn.Module) -> bool:
    """Whether units, patches or blocks are dropped at random while the model learns."""
    learning = model.training
    active = [module for module in model.train().modules() if module.training]
    model.train(learning)
    return any(
        isinstance(module, kind) and getattr(module, chance) for module in active for kind, chance in CHANCES.items()
    )


def is_convolutional(tower: nn.Module) -> bool:
    """Whether channels_last pays: the tower convolves beyond cutting patches."""
    return sum(isinstance(module, nn.Conv2d) for module in tower.modules()) > 4


def _first_of_last_blocks(tower: nn.Module, names: list[str], count: int) -> int:
    """Where in `names` the last `count` blocks begin."""
    blocks = list(blocks_of(tower))
    if not 0 <= count <= len(blocks):
        raise RequestError(f"the tower has {len(blocks)} blocks: {count} of them cannot be left trainable")
    if count == 0:
        return len(names)
    inside = {id(p) for p in blocks[-count].parameters()}
    return next(at for at, name in enumerate(names) if id(tower.get_parameter(name)) in inside)


def blocks_of(tower: nn.Module) -> Iterator[nn.Module]:
    """The tower's blocks in order; stages of blocks one after another."""
    trunk = getattr(tower, "trunk", tower)
    inner = getattr(trunk, "transformer", trunk)
    inner = getattr(inner, "encoder", inner)
    stages = [getattr(trunk, f"layer{i}") for i in range(1, 5) if hasattr(trunk, f"layer{i}")]
    lists = [getattr(inner, name) for name in BLOCK_LISTS if isinstance(getattr(inner, name, None), nn.Module)]
    for block in stages or (lists[0] if lists else ()):
        if isinstance(block, nn.Sequential):
            yield from block
        else:
            yield block
