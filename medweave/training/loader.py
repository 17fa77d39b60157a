"""Batches ready for the towers, made ahead of time by loader processes that hold no state: a step is a pure function.

Each process of a run makes its own share of a step's global batch, cut into micro-batches: pixels decoded at reduced
scale, augmented, as bytes; texts tokenised and padded to the longest of their length bucket. An image that cannot be
read takes no part in its step and is counted. m samples of a micro-batch, s side of an image, k texts of a bucket, L
tokens of the longest of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medweave.corpus.augment import AugmentRecipe, augment
from medweave.corpus.images import decode
from medweave.corpus.limits import BadImage
from medweave.corpus.order import Numbers, Order
from medweave.corpus.resize import Policy, resize
from medweave.corpus.store import Corpus
from medweave.errors import DamagedError, UserError
from medweave.features.views import Views
from medweave.models.tokens import Tokens
from medweave.seeds import generator
from medweave.training.captions import Caption, Captions
from medweave.training.distributed import Ranks
from medweave.training.menu import Menu
from medweave.training.objective import TeacherRows
from medweave.training.teachers import Teachers

T = TypeVar("T")

AHEAD = 4  # batches that each loader process keeps ready
SHORTEST_BUCKET = 16  # tokens


@dataclass(frozen=True)
class Bucket:
    """Texts of similar length. places: [k] int64, which of the micro-batch. tokens: [k, L] int64."""

    places: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Micro:
    """A micro-batch. first: place of its first sample in the global batch. pixels: [m, s, s, 3] uint8.

    buckets: its texts as tokens, between them every place once; empty when the text tower's output is kept.
    """

    first: int
    pixels: Tensor
    texts: list[str]
    buckets: list[Bucket]

    def to(self, device: torch.device) -> Micro:
        """The same on a device, copied while the device goes on working."""
        buckets = [
            Bucket(b.places.to(device, non_blocking=True), b.tokens.to(device, non_blocking=True)) for b in self.buckets
        ]
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), buckets=buckets)

    def pin_memory(self) -> Micro:
        """The same in memory from which a GPU copies by itself."""
        buckets = [Bucket(b.places.pin_memory(), b.tokens.pin_memory()) for b in self.buckets]
        return replace(self, pixels=self.pixels.pin_memory(), buckets=buckets)


@dataclass(frozen=True)
class Share:
    """One process's part of a step. numbers: [b] sample numbers. kinds: where each text is from.

    problems: [b] why an image could not be read, empty if it could. menu: this process's captions of the menu, as a
    micro-batch without pixels; None when no objective needs them. rows: teacher -> what it stored of these samples.
    """

    step: int
    numbers: NDArray[np.int64]
    micros: list[Micro]
    kinds: list[str]
    problems: list[str]
    menu: Micro | None = None
    rows: dict[str, TeacherRows] = field(default_factory=dict)

    def pin_memory(self) -> Share:
        """The same, pinned."""
        menu = self.menu.pin_memory() if self.menu is not None else None
        rows = {name: of_one.each(Tensor.pin_memory) for name, of_one in self.rows.items()}
        return replace(self, micros=[micro.pin_memory() for micro in self.micros], menu=menu, rows=rows)


@dataclass(frozen=True)
class Look:
    """What becomes of pixels: side of the square, resizing, augmentation (None: none).

    views: stored views that are shown instead of an augmentation drawn anew; None: none.
    """

    size: int
    policy: Policy
    augment: AugmentRecipe | None
    views: Views | None = None

    def view(self, seed: int, step: int, number: int) -> int:
        """Which stored view of a sample a step shows, 0: the whole picture. A pure function."""
        if self.views is None:
            return 0
        return int(generator(seed, "shown view", step, number).integers(self.views.count + 1))


class Steps(Dataset[Share]):
    """Item `step` is this process's share of that step.

    tokenize: None when texts need not be tokenised. menu: None when no objective needs its captions. teachers: None
    when no objective learns from any.
    """

    def __init__(
        self,
        corpus: Corpus,
        order: Order,
        captions: Captions,
        look: Look,
        tokenize: Tokens | None,
        ranks: Ranks,
        accumulate: int,
        menu: Menu | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        self.corpus, self.order, self.captions, self.teachers = corpus, order, captions, teachers
        self.look, self.tokenize, self.menu, self.ranks = look, tokenize, menu, ranks
        self.part = ranks.share(order.batch)
        self.size = order.batch // ranks.world // accumulate

    def __getitem__(self, step: int) -> Share:
        numbers = self.order.numbers(step)[self.part]
        views = self._shown(step, numbers)
        shown = views.tolist() if views is not None else [0] * len(numbers)
        samples = [self._sample(step, number, view) for number, view in zip(numbers.tolist(), shown, strict=True)]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _, _ in samples]))
        texts = [caption.text for _, caption, _ in samples]
        micros = [
            Micro(self.part.start + at, part, texts[at : at + self.size], self._buckets(texts[at : at + self.size]))
            for at, part in zip(range(0, len(texts), self.size), pixels.split(self.size), strict=True)
        ]
        kinds: list[str] = [caption.kind for _, caption, _ in samples]
        problems = [problem for _, _, problem in samples]
        rows = self._rows(step, numbers, views, [caption for _, caption, _ in samples])
        return Share(step, numbers, micros, kinds, problems, self.menu_of(step), rows)

    def drawn(self, step: int) -> list[Caption]:
        """The captions of this process's share, without its pixels."""
        numbers = self.order.numbers(step)[self.part].tolist()
        return [self.captions.draw(step, number, self.corpus.fields(number)) for number in numbers]

    def texts(self, step: int) -> list[str]:
        """The texts of this process's share, then those of the menu."""
        own = [caption.text for caption in self.drawn(step)]
        return own + (self.menu.texts(step) if self.menu is not None else [])

    def rows_of_whole(self, step: int, captions: Sequence[Caption]) -> dict[str, TeacherRows]:
        """What teachers stored of this process's share: of whole pictures, beside the captions that are drawn."""
        return self._rows(step, self.order.numbers(step)[self.part], None, captions)

    def menu_of(self, step: int) -> Micro | None:
        """This process's part of the menu, equally long on all: the first captions come twice where it must be."""
        if self.menu is None:
            return None
        texts = self.menu.texts(step)
        size = -(-len(texts) // self.ranks.world)
        mine = [texts[(self.ranks.rank * size + at) % len(texts)] for at in range(size)]
        return Micro(self.order.batch + self.ranks.rank * size, torch.empty(0), mine, self._buckets(mine))

    def _sample(self, step: int, number: int, view: int) -> tuple[NDArray[np.uint8], Caption, str]:
        """Pixels, caption and problem of one sample; black and nothing where it cannot be read."""
        try:
            fields = self.corpus.fields(number)
            array = decode(self.corpus.read(number), self.look.size, grey=True, limits=self.corpus.limits)
        except (DamagedError, BadImage) as error:
            return np.zeros((self.look.size, self.look.size, 3), np.uint8), Caption("", "other"), str(error)
        pixels = self._looked_at(array, fields["modality"], step, number, view)
        return pixels, self.captions.draw(step, number, fields), ""

    def _rows(
        self, step: int, numbers: Numbers, views: Numbers | None, captions: Sequence[Caption]
    ) -> dict[str, TeacherRows]:
        if self.teachers is None:
            return {}
        return self.teachers.rows(numbers, views, captions, self.menu.texts(step) if self.menu is not None else [])

    def _shown(self, step: int, numbers: Numbers) -> Numbers | None:
        """Which stored view of each sample a step shows; None where none is replayed."""
        if self.look.views is None:
            return None
        return np.array([self.look.view(self.captions.seed, step, number) for number in numbers.tolist()], np.int64)

    def _looked_at(
        self, array: NDArray[np.uint8], modality: str, step: int, number: int, view: int
    ) -> NDArray[np.uint8]:
        """uint8 [h,w] or [h,w,3] -> [s,s,3]."""
        look = self.look
        if view and look.views is not None:
            return look.views.picture(array, look.size, modality, number, view)
        if look.augment is None or look.views is not None:
            square = resize(array, look.size, look.policy)
            return square if square.ndim == 3 else np.repeat(square[..., None], 3, axis=2)
        draw = generator(self.captions.seed, "augment", step, number)
        return augment(array, look.size, look.augment, draw, modality, look.policy)

    def _buckets(self, texts: list[str]) -> list[Bucket]:
        return in_buckets(texts, self.tokenize) if self.tokenize else []


def in_buckets(texts: Sequence[str], tokenize: Tokens) -> list[Bucket]:
    """Texts as tokens: up to 16 tokens together, up to 32, 64 …, each bucket padded to its own longest text.

    One bucket, padded as the tower wants it, where padding is not free.
    """
    tokens = tokenize(texts)
    if not tokenize.freely:
        return [Bucket(torch.arange(len(texts)), tokens)]
    lengths = ((tokens != tokenize.pad) * torch.arange(1, tokens.shape[1] + 1)).amax(1)
    sizes = (lengths.clamp_min(SHORTEST_BUCKET).float() / SHORTEST_BUCKET).log2().ceil()
    places = [torch.nonzero(sizes == size)[:, 0] for size in sizes.unique()]
    return [Bucket(at, tokens[at, : int(lengths[at].max())]) for at in places]


def batches(steps: Steps, first: int, last: int, workers: int, pin: bool) -> Iterator[tuple[Share, float]]:
    """The shares of steps [first, last) in order, each with the seconds that were spent waiting for it."""
    shares = loaded(steps, range(first, last), workers, pin)
    for _ in range(first, last):
        asked = time.perf_counter()
        yield next(shares), time.perf_counter() - asked


def loaded(items: Dataset[T], numbers: range, workers: int, pin: bool = False) -> Iterator[T]:
    """Some items in order, made ahead by loader processes. A UserError of theirs is raised as it was, in one line."""
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=set_up_worker,
        pin_memory=pin,
    )
    try:
        yield from loader
    except UserError as error:
        if not error.what.startswith("Caught"):
            raise
        raise type(error)(error.what.strip().rsplit("\n", 1)[-1].partition(": ")[2]) from None
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise UserError("a loader process died", todo="it may have run out of memory: set train.workers=0") from error


def set_up_worker(_: int) -> None:
    """A loader process uses one core: the towers need the others."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
