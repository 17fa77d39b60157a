"""MMKD: the second stage of MMKD-CLIP (arXiv 2506.22567) as its code has it, for comparison.

The paper's task loss stands beside it as `contrastive`; this file is 50 x the feature distance plus the interactive
contrast, with one teacher for each sample, drawn at each step, that the student is not told: no heads, one frame.
The paper projects each teacher by the first layer of an autoencoder whose weights are not published. The published
targets are partly whitened (other images' cosine falls from 0.5 to 0.1, a pair's own does not), about twice as long as
unit rows, and in a frame of each teacher's own. Here they are each teacher's rows on the leading principal directions
of its own images and texts together, divided by the fourth root of the variance there, scaled to that length and turned
at random.
`temperature: shipped` is the code's fixed 2.659 = ln(1 / 0.07), a logarithm used as if it were none; `meant` is a scale
that starts at 1 / 0.07 and learns, at 100 or below. Lower is better.
B samples of the global batch, D student width, E teacher width, K teachers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medweave.errors import RequestError
from medweave.seeds import seed_of
from medweave.training.objective import SIDES, Batch, Embeddings, Given, Losses, Objective, ObjectiveRecipe, Teacher
from medweave.training.objectives.interactive import crossed

FEATURE, START, MOST = 50.0, math.log(1 / 0.07), math.log(100)
LENGTH = 1.97  # of the published targets
LEAST_VARIANCE = 1e-4  # of the largest direction's: what is below is rounding, and is not blown up


class MmkdRecipe(ObjectiveRecipe):
    """Settings of the paper's distillation loss."""

    kind: Literal["mmkd"] = "mmkd"
    temperature: Literal["shipped", "meant"] = Field("shipped", description="2.659 for ever, or a scale that learns")


class Mmkd(Objective):
    """50 x mean squared distance to the drawn teacher's rows, and contrast with them."""

    learns_from_teachers = True

    def __init__(self, recipe: MmkdRecipe, given: Given) -> None:
        super().__init__()
        self.recipe = recipe
        self.names = [name for name, teacher in given.teachers.items() if len(teacher.sides) == 2]
        if not self.names:
            raise RequestError("mmkd needs a teacher with both towers", where="train.teachers")
        self.frames = nn.ParameterList(
            nn.Parameter(turned(frame(given.teachers[name], given.width)), requires_grad=False) for name in self.names
        )
        learns = recipe.temperature == "meant"
        self.scale = nn.Parameter(torch.tensor(START), requires_grad=learns)

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """{"mmkd/feature", "mmkd/interactive": scalars}. Samples of which no teacher tells both sides take no part."""
        gates = self._gates(batch)
        kept = (gates > 0).any(0).nonzero()[:, 0]
        if len(kept) < 2:
            return {"mmkd/feature": student.image.sum() * 0, "mmkd/interactive": student.text.sum() * 0}
        drawn = self._drawn(gates[:, kept], batch)
        image, text = (self._targets(side, kept, drawn, batch) for side in SIDES)
        kept = kept.to(student.image.device)
        own_image, own_text = student.image[kept], student.text[kept]
        feature = (own_image - image).square().mean() + (own_text - text).square().mean()
        scale = self.scale if self.recipe.temperature == "shipped" else self.scale.exp()
        contrast = 0.5 * (crossed(own_image, text, scale) + crossed(own_text, image, scale)).mean()
        weight = self.recipe.weight
        return {"mmkd/feature": weight * FEATURE * feature, "mmkd/interactive": weight * contrast}

    @torch.no_grad()
    def floors(self, batch: Batch) -> Losses:
        """Of the feature distance: rows of length 1 come no nearer to targets than these are from that length."""
        gates = self._gates(batch)
        kept = (gates > 0).any(0).nonzero()[:, 0]
        if len(kept) < 2:
            return {}
        drawn = self._drawn(gates[:, kept], batch)
        targets = [self._targets(side, kept, drawn, batch) for side in SIDES]
        least = sum((1 - target.norm(dim=1)).square().mean() / target.shape[1] for target in targets)
        return {"mmkd/feature": self.recipe.weight * FEATURE * torch.as_tensor(least)}

    @torch.no_grad()
    def settle(self) -> None:
        """The scale that learns stays at 100 or below."""
        if self.recipe.temperature == "meant":
            self.scale.clamp_(max=MOST)

    def _gates(self, batch: Batch) -> Tensor:
        """How far each teacher is trusted on each sample, 0 where it tells not both sides: [K, B]."""
        return torch.stack([batch.rows[name].gate_of(*SIDES) for name in self.names])

    def _drawn(self, gates: Tensor, batch: Batch) -> Tensor:
        """One covering teacher for each sample: [B]."""
        lot = torch.Generator().manual_seed(seed_of("one teacher a sample", batch.step) % 2**63)
        return torch.multinomial((gates > 0).float().T.cpu(), 1, generator=lot)[:, 0]

    def _targets(self, side: str, kept: Tensor, drawn: Tensor, batch: Batch) -> Tensor:
        """The drawn teacher's rows of one side in the student's width: [B, D]."""
        rows = [getattr(batch.rows[name], side)[kept] @ of for name, of in zip(self.names, self.frames, strict=True)]
        return torch.stack(rows)[drawn.to(rows[0].device), torch.arange(len(kept), device=rows[0].device)]


def turned(frame: Tensor) -> Tensor:
    """A frame [E, D] with its D directions turned into others that span the same, at random."""
    turn = nn.init.orthogonal_(torch.empty(frame.shape[1], frame.shape[1]))  # on the CPU: the same on every device
    return frame @ turn.to(frame)


def frame(teacher: Teacher, width: int) -> Tensor:
    """The projection [E, D] onto the leading principal directions, half whitened, to rows of mean square LENGTH².

    Narrower teachers are filled up with zeros.
    """
    assert teacher.image is not None and teacher.text is not None
    sides = (teacher.image, teacher.text)
    moments = [standard.covariance + torch.outer(standard.mean, standard.mean) for standard in sides]
    moment = torch.stack(moments).mean(0).cpu()
    variance, directions = torch.linalg.eigh(moment)  # their signs are the solver's own: one for every device
    variance, directions = variance.flip(0)[:width], directions.flip(1)[:, :width]
    steady = variance.clamp_min(LEAST_VARIANCE * variance[0])
    length = (variance * steady**-0.5).sum().sqrt()
    made = directions * steady**-0.25 * (LENGTH / length)
    return nn.functional.pad(made.to(teacher.image.mean.device), (0, width - made.shape[1])).contiguous()
