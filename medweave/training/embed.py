"""The gradient of a loss over the whole global batch, with memory for one micro-batch a process.

First every process embeds its micro-batches; the rows are gathered, and each process computes the same loss over all of
them down to the gradient of each row. Then each micro-batch is embedded again, this time for its own backward pass
(GradCache, arXiv 2101.06983). One process, several, and accumulation therefore give the same gradient. The exception is
dropout (and drop_path): it draws the same in both passes, since the micro-batch's place in the run sets its generator,
but a batch cut otherwise has other places and so other masks.

B samples of the global batch, b of this process, m of a micro-batch, D width of the joint space. The menu's
captions are few: they are embedded once, each process its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medweave.models.two_towers import DualModel
from medweave.seeds import seed_of
from medweave.training.distributed import Ranks
from medweave.training.loader import Micro, Share
from medweave.training.objective import Batch, Embeddings, Losses, Objectives
from medweave.training.texts import Pooled


@dataclass(frozen=True)
class Rows:
    """Unit rows of images and of their texts: two [m, D] float32."""

    image: Tensor
    text: Tensor


class Towers:
    """The model as training runs it: bytes and texts in, unit rows out."""

    def __init__(
        self, model: DualModel, device: torch.device, seed: int, *, pooled: Pooled | None, bf16: bool, compile: bool
    ) -> None:
        self.model, self.device, self.seed, self.pooled, self.bf16 = model, device, seed, pooled, bf16
        self.encode_image = torch.compile(model.encode_image) if compile else model.encode_image
        self.encode_text = torch.compile(model.encode_text, dynamic=True) if compile else model.encode_text
        self.mean, self.std = (
            255 * torch.tensor(colour, device=self.device)[:, None, None]
            for colour in (model.preprocess.mean, model.preprocess.std)
        )

    def __call__(self, step: int, micro: Micro) -> Rows:
        """Embed a micro-batch; the same for the same step, micro-batch and weights."""
        micro = micro.to(self.device)
        torch.manual_seed(seed_of(self.seed, "towers", step, micro.first))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            image, text = self.image(micro.pixels), self.text(micro, self.pooled)
        return Rows(image.float(), text.float())

    def menu(self, step: int, micro: Micro) -> Tensor:
        """Rows of captions alone: [k texts] -> [k, D]."""
        micro = micro.to(self.device)
        torch.manual_seed(seed_of(self.seed, "towers", step, micro.first))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.text(micro, self.pooled).float()

    def image(self, pixels: Tensor) -> Tensor:
        """uint8 [m, s, s, 3] -> [m, D]."""
        return self.encode_image(self.normalised(pixels))

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 [m, s, s, 3] -> float32 [m, 3, s, s], as the image tower wants them."""
        return (pixels.movedim(-1, 1).float() - self.mean) / self.std

    def text(self, micro: Micro, pooled: Pooled | None) -> Tensor:
        """A micro-batch's texts -> [m, D]; pooled: the frozen tower's rows of them, None when the tower must run."""
        if pooled is not None:
            return self.model.project_text(pooled(micro.texts))
        rows = torch.cat([self.encode_text(bucket.tokens) for bucket in micro.buckets])
        return rows[torch.cat([bucket.places for bucket in micro.buckets]).argsort()]


def backward(
    towers: Towers,
    objectives: Objectives,
    share: Share,
    batch: Batch,
    read: Tensor,
    ranks: Ranks,
) -> Losses:
    """Add the gradient of the summed losses to every parameter, the same on every process; return the losses.

    share: what this process embeds of the step. batch: the whole global batch. read: [B] bool on the CPU; the samples
    that could not be read take no part.
    """
    step, micros = share.step, share.micros
    once = len(micros) == 1
    with torch.set_grad_enabled(once):
        parts = [towers(step, micro) for micro in micros]
    leaves = Rows(
        ranks.gather(torch.cat([part.image for part in parts]).detach()).requires_grad_(),
        ranks.gather(torch.cat([part.text for part in parts]).detach()).requires_grad_(),
    )
    menu = towers.menu(step, share.menu) if share.menu is not None else None
    menu_leaf = ranks.gather(menu.detach()).requires_grad_() if menu is not None else None
    losses = _losses(towers.model, objectives, leaves, menu_leaf, batch, read)
    torch.stack(list(losses.values())).sum().backward()

    for micro, part in zip(micros, parts, strict=True):
        again = part if once else towers(step, micro)
        here = slice(micro.first, micro.first + len(micro.pixels))
        _pull_back([(again.image, leaves.image.grad), (again.text, leaves.text.grad)], here)
    if menu is not None and menu_leaf is not None:
        _pull_back([(menu, menu_leaf.grad)], slice(ranks.rank * len(menu), (ranks.rank + 1) * len(menu)))
    ranks.add_up([p.grad for p in tower_parameters(towers.model) if p.grad is not None])
    return {name: loss.detach() for name, loss in losses.items()}


def tower_parameters(model: DualModel) -> list[nn.Parameter]:
    """All that learns but scale and bias, whose gradient every process has whole."""
    head = {id(model.logit_scale), id(model.logit_bias)}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in head]


def _losses(
    model: DualModel, objectives: Objectives, rows: Rows, menu: Tensor | None, batch: Batch, read: Tensor
) -> Losses:
    """The objectives' losses on the rows that could be read, with the model's own scale and bias."""
    image, text = rows.image, rows.text
    if not read.all():
        kept = read.nonzero()[:, 0]
        image, text = image[kept.to(image.device)], text[kept.to(text.device)]
        batch = batch.of(kept)
    bias = model.logit_bias if model.logit_bias is not None else torch.zeros_like(model.logit_scale)
    if menu is not None and batch.truth is not None:
        findings, each = batch.truth.shape[1], objectives.menu_captions
        menu = menu[: findings * each].view(findings, each, -1)
    student = Embeddings(image, text, model.logit_scale.exp(), bias, menu)
    losses: Losses = objectives(student, batch)
    return losses


def _pull_back(pairs: Sequence[tuple[Tensor, Tensor | None]], here: slice) -> None:
    """Send each side's gradient of the rows `here` back through its tower, unless nothing there learns."""
    learning = [(rows, whole[here]) for rows, whole in pairs if rows.requires_grad and whole is not None]
    if learning:
        torch.autograd.backward([rows for rows, _ in learning], [slope for _, slope in learning])
