"""AdamW over groups of parameters, each with its own decay and learning rate; warm-up and cosine; averaged weights.

Learning rates: of the image tower, of the text tower, and of the rest (projections, scale, bias, heads of objectives).
Inside a tower they shrink by `layer_decay` from each block to the one below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medweave.models import towers
from medweave.models.two_towers import DualModel
from medweave.training.objective import Objectives
from medweave.training.recipe import OptimiserRecipe

MOST_SCALE = math.log(100)


def optimiser_of(model: DualModel, objectives: Objectives, recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """AdamW over all that learns, each group with its peak rate as `peak`."""
    groups = parameter_groups(model, objectives, recipe)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)


def head_optimiser(model: DualModel, objectives: Objectives, recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """AdamW over projections, scale, bias and the objectives' parameters, at the same peak rate and decay."""
    heads = {"logit_scale", "logit_bias"}
    for prefix, tower in (("image", model.clip.visual), ("text", model.clip.text)):
        heads |= {f"{prefix}.{name}" for name in towers.projection_names(tower)}
    groups = parameter_groups(model, objectives, recipe)
    for group in groups:
        inside = [name in heads or name.startswith("objectives.") for name in group["names"]]
        group["params"] = [p for p, kept in zip(group["params"], inside, strict=True) if kept]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=recipe.lr, betas=recipe.betas, eps=recipe.eps
    )


def parameter_groups(model: DualModel, objectives: Objectives, recipe: OptimiserRecipe) -> list[dict[str, Any]]:
    """Groups `params`, `names`, `lr`, `peak`, `weight_decay`: one for each pair of peak rate and decay."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter, peak in _with_peaks(model, objectives, recipe):
        if not parameter.requires_grad:
            continue
        decay = recipe.weight_decay if parameter.ndim >= 2 else 0.0
        fresh = {"params": [], "names": [], "lr": peak, "peak": peak, "weight_decay": decay}
        group = groups.setdefault((peak, decay), fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def rate(step: int, total: int, warmup: float) -> float:
    """The factor of the peak rate at a step in [0, total): linear warm-up, then cosine to 0."""
    rising = warmup * total if warmup < 1 else warmup
    if step < rising:
        return min(1.0, (step + 1) / rising)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, total - rising)))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group this share of its peak rate."""
    for group in optimiser.param_groups:
        group["lr"] = factor * group["peak"]


def step_(optimiser: torch.optim.AdamW, model: DualModel, objectives: Objectives, clip: float | None) -> Tensor:
    """Clip, step, keep all scales at 100 or below, forget the gradient. Returns the gradient's norm, unclipped."""
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else math.inf)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        model.logit_scale.clamp_(max=MOST_SCALE)
    objectives.settle()
    return norm


class Average:
    """Exponential moving average of all weights that learn and of batch-norm statistics.

    The decay rises to its value as steps are made, min(decay, (1 + step) / (10 + step)), so the first ones fade.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.restart()

    def restart(self) -> None:
        """Forget what was: the average begins with the weights as they are."""
        self.values = {name: value.clone() for name, value in moving(self.model)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights after `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        now = dict(moving(self.model))
        torch._foreach_lerp_(list(self.values.values()), [now[name] for name in self.values], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the averaged ones."""
        for name, value in moving(self.model):
            kept = value.clone()
            value.copy_(self.values[name])
            self.values[name].copy_(kept)


def moving(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes: the parameters that learn, and the statistics of batch norms."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            yield name, buffer


def _with_peaks(
    model: DualModel, objectives: Objectives, recipe: OptimiserRecipe
) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Every parameter with its name and peak rate."""
    for prefix, tower, peak in (
        ("image", model.clip.visual, recipe.image_lr),
        ("text", model.clip.text, recipe.text_lr),
    ):
        projection, depth = towers.projection_names(tower), _depths(tower)
        for name, parameter in tower.named_parameters():
            own = recipe.lr if peak is None else peak
            in_tower = own * recipe.layer_decay ** depth[name]
            yield f"{prefix}.{name}", parameter, recipe.lr if name in projection else in_tower
    yield "logit_scale", model.logit_scale, recipe.lr
    if model.logit_bias is not None:
        yield "logit_bias", model.logit_bias, recipe.lr
    for name, parameter in objectives.named_parameters():
        yield f"objectives.{name}", parameter, recipe.lr


def _depths(tower: nn.Module) -> dict[str, int]:
    """How many steps below the top each parameter lies: 0 after the last block, 1 in it, and so on down to the stem."""
    blocks = [{id(p) for p in block.parameters()} for block in towers.blocks_of(tower)]
    depths: dict[str, int] = {}
    below = True
    for name, parameter in tower.named_parameters():
        inside = next((at for at, ids in enumerate(blocks) if id(parameter) in ids), None)
        if inside is not None:
            below = False
        depths[name] = len(blocks) - inside if inside is not None else (len(blocks) + 1 if below else 0)
    return depths
