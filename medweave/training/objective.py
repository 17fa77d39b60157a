"""What every objective is given and gives back.

An objective sees the whole global batch on every process, so its value is the same everywhere; lower is better.
B samples of the global batch, D width of the joint space.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medweave.corpus.known import LabelSet
from medweave.errors import RequestError
from medweave.seeds import seed_of
from medweave.training.recipe import OBJECTIVES, ObjectiveRecipe

Losses = dict[str, Tensor]
SIDES = ("image", "text")


@dataclass(frozen=True)
class Embeddings:
    """The student's view of a batch: image, text [B, D] float32 unit rows; scale and bias, scalars of its head.

    menu: [K, c, D] unit rows, c captions of each finding; None when no objective needs them.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor
    menu: Tensor | None = None


@dataclass(frozen=True)
class TeacherRows:
    """What one teacher stored of a batch. image, text: [B, E] float32 unit rows, None for a side that it lacks.

    gate: [B] >= 0, how far it is trusted on each sample; 0: it does not cover it, and its rows mean nothing.
    menu: [K c, E], its rows of the menu's captions, None where no objective needs them. known: [B] bool, which samples'
    texts have a row; None: all. Of a sample whose text has none it tells the image alone.
    """

    gate: Tensor
    image: Tensor | None = None
    text: Tensor | None = None
    menu: Tensor | None = None
    known: Tensor | None = None

    def of(self, kept: Tensor) -> TeacherRows:
        """The rows of some samples. kept: their places, int64, or a mask."""
        kept = kept.to(self.gate.device)
        return self.each(lambda rows: rows[kept])

    def each(self, change: Callable[[Tensor], Tensor]) -> TeacherRows:
        """The same with what is known of each sample changed; the menu's rows stay."""
        image, text, known = (None if rows is None else change(rows) for rows in (self.image, self.text, self.known))
        return TeacherRows(change(self.gate), image, text, self.menu, known)

    def gate_of(self, *sides: str) -> Tensor:
        """The gate where each of these sides has a row, 0 elsewhere: [B]."""
        return self.gate * self.known if "text" in sides and self.known is not None else self.gate

    @property
    def told(self) -> Tensor:
        """The gate where it tells anything of a sample, 0 elsewhere: [B]."""
        return self.gate_of("text") if self.image is None else self.gate

    @property
    def covered(self) -> Tensor:
        """Of which samples it tells anything: [B] bool."""
        return self.told > 0


@dataclass(frozen=True)
class Standard:
    """How rows are standardised (PHI-S, 2410.01680): (row - mean) @ matrix has mean 0, each coordinate variance 1.

    mean: [E], matrix: [E, E], a rotation by one factor; covariance: [E, E], of the rows as the teacher gives them.
    """

    mean: Tensor
    matrix: Tensor
    covariance: Tensor

    def to(self, device: torch.device) -> Standard:
        """The same on a device."""
        return Standard(*(part.to(device) for part in (self.mean, self.matrix, self.covariance)))

    def __call__(self, rows: Tensor) -> Tensor:
        """[B, E] -> [B, E]."""
        return (rows - self.mean.to(rows)) @ self.matrix.to(rows)


@dataclass(frozen=True)
class Teacher:
    """What is known of a teacher beforehand. scale: of its own head, None where it has none, or none is known.

    image, text: how rows of that side are standardised; None for a side that it lacks. captions: whether it has rows of
    the bank's.
    """

    scale: float | None
    image: Standard | None
    text: Standard | None
    captions: bool = True

    def to(self, device: torch.device) -> Teacher:
        """The same on a device."""
        image, text = (None if side is None else side.to(device) for side in (self.image, self.text))
        return Teacher(self.scale, image, text, self.captions)

    @property
    def sides(self) -> list[str]:
        """`image`, `text`, or both."""
        return [side for side in SIDES if getattr(self, side) is not None]


@dataclass(frozen=True)
class Given:
    """What objectives know before the first step: the student's width and its teachers by name.

    drop: chance that a teacher is left out of a sample, where it is not the worst learnt.
    """

    width: int
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    drop: float = 0.0

    @property
    def without_scale(self) -> list[str]:
        """The two-tower teachers whose own scale is not known."""
        return [name for name, of in self.teachers.items() if len(of.sides) == 2 and of.scale is None]

    def scales(self, objective: str) -> dict[str, float]:
        """The own scale of each two-tower teacher whose scale is known. Raises RequestError where there is none."""
        known = {name: of.scale for name, of in self.teachers.items() if len(of.sides) == 2 and of.scale is not None}
        if self.without_scale and not known:
            unknown = " and ".join(self.without_scale)
            what = f"{objective} needs a teacher's own scale, and that of {unknown} is not known"
            raise RequestError(what, where="train.teachers", todo="give `scale:`")
        if self.teachers and not known:
            raise RequestError(f"{objective} needs a teacher with both towers", where="train.teachers")
        return known


@dataclass(frozen=True)
class Batch:
    """What is known of the samples of a batch. numbers: [B] int64. labels: [B], None where nothing is known.

    truth: [B, K] int8, which findings of the menu they show; near: [B, K] bool, which are of their modality; None when
    no objective needs the menu. rows: teacher -> its rows of these samples. step: for what is drawn anew at each step.
    """

    numbers: Tensor
    labels: Sequence[LabelSet | None]
    truth: Tensor | None = None
    near: Tensor | None = None
    rows: Mapping[str, TeacherRows] = field(default_factory=dict)
    step: int = 0

    def of(self, kept: Tensor) -> Batch:
        """The batch of some samples. kept: their places, int64 on the CPU."""
        truth, near = (None if known is None else known[kept] for known in (self.truth, self.near))
        rows = {name: of_one.of(kept) for name, of_one in self.rows.items()}
        return Batch(self.numbers[kept], [self.labels[at] for at in kept.tolist()], truth, near, rows, self.step)


class Objective(nn.Module, ABC):
    """One loss. Its own parameters, if it has any, are trained with the model."""

    menu_captions = 0  # how many captions of every finding it wants at each step
    learns_from_teachers = False
    left_out: Sequence[str] = ()  # teachers that it learns nothing from, as their own scale is not known

    @abstractmethod
    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """Named scalars, already weighted; their sum is trained."""

    def floors(self, batch: Batch) -> Losses:
        """What no student could go below on this batch, of the losses where that is known and not 0."""
        return {}

    def settle(self) -> None:
        """Put its own parameters back where they must be, after each step."""


class FromTeachers(Objective):
    """A loss of many teachers, among whom each sample deals its attention."""

    learns_from_teachers = True

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.drop = given.drop

    def dealt(self, away: Tensor, gates: Tensor, batch: Batch) -> Tensor:
        """The losses of teachers, [K]: means over samples of how far each is away, by the sample's attention to it.

        away: [K, B], any where a teacher does not cover; gates: [K, B]. Teacher dropping (UNIC, arXiv 2408.05088): in
        training a sample's worst-learnt teacher is kept, and each other is left out with a chance.
        """
        attention = gates
        if self.drop > 0 and self.training:
            worst = torch.where(gates > 0, away.detach(), -1.0).argmax(0)
            lot = torch.Generator().manual_seed(seed_of("teacher dropping", batch.step) % 2**63)
            stays = torch.rand(gates.shape, generator=lot) >= self.drop
            attention = gates * stays.to(gates).scatter(0, worst[None], 1.0)
        return (shares(attention) * away).sum(1) / away.shape[1]


class Objectives(nn.Module):
    """All losses of a recipe, as one. menu_captions: of every finding, that are wanted at each step; 0: none."""

    def __init__(self, recipes: Sequence[ObjectiveRecipe], given: Given, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "objectives"))
            self.parts = nn.ModuleList(build(recipe, given) for recipe in recipes)
        self.menu_captions = max((int(getattr(part, "menu_captions", 0)) for part in self.parts), default=0)

    @property
    def learn_from_teachers(self) -> bool:
        """Whether any of them does."""
        return any(part.learns_from_teachers for part in self.parts)

    @property
    def without_teachers(self) -> Objectives:
        """Those that learn from no teacher, the same modules; all, where every one does."""
        plain = [part for part in self.parts if not part.learns_from_teachers]
        chosen = Objectives([], Given(0))
        chosen.parts, chosen.menu_captions = nn.ModuleList(plain or self.parts), self.menu_captions
        return chosen

    @property
    def left_out(self) -> dict[str, Sequence[str]]:
        """Kind of objective -> teachers that it learns nothing from, as their own scale is not known."""
        return {type(part).__name__.lower(): part.left_out for part in self._each() if part.left_out}

    def forward(self, student: Embeddings, batch: Batch) -> Losses:
        """The losses of all objectives by name."""
        return {name: loss for part in self.parts for name, loss in part(student, batch).items()}

    def floors(self, batch: Batch) -> Losses:
        """The floors of all objectives by the name of the loss."""
        return {name: floor for part in self._each() for name, floor in part.floors(batch).items()}

    def settle(self) -> None:
        """Put all objectives' parameters back where they must be."""
        for part in self._each():
            part.settle()

    def _each(self) -> Iterator[Objective]:
        for part in self.parts:
            assert isinstance(part, Objective)
            yield part


def build(recipe: ObjectiveRecipe, given: Given) -> Objective:
    """The objective that a recipe names: class `Affinity` of `objectives/affinity.py`."""
    module = importlib.import_module(f"{OBJECTIVES}.{recipe.kind}")
    objective: Objective = getattr(module, recipe.kind.title())(recipe, given)
    return objective


def shares(gates: Tensor) -> Tensor:
    """Each sample's attention, dealt to the teachers that cover it: [K, B] gates -> [K, B], columns sum to 1 or 0."""
    return gates / gates.sum(0).clamp_min(torch.finfo(gates.dtype).tiny)


__all__ = [
    "Batch",
    "Embeddings",
    "FromTeachers",
    "Given",
    "Losses",
    "Objective",
    "ObjectiveRecipe",
    "Objectives",
    "Standard",
    "Teacher",
    "TeacherRows",
    "build",
    "shares",
]
