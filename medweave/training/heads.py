"""Heads alone: the projections learn on stored outputs of both towers, before all else does and once more after it.

Head start: fresh projections send noise into towers that start from good weights, and a short run spends its steps on
repairing that; so they learn first (linear probing before fine-tuning, Kumar et al., arXiv 2202.10054).
Head finish: what was learnt on augmented pictures is off on pictures as they are, most of all which of two findings is
named when both are likely; so the projections learn last on whole, unaugmented pictures (Touvron et al., arXiv
1906.06423, and Kang et al., arXiv 1910.09217, retrain the head for like reasons).
Both ways the towers embed each image and each caption once, and the projections, the scale and the objectives' own
parameters train on these rows by the run's own objectives, batches and captions.

b samples of this process, s side of an image, w the image tower's own width, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medweave.corpus.limits import BadImage, pillow_allows
from medweave.corpus.store import Corpus
from medweave.errors import DamagedError, RequestError
from medweave.models.preprocess import Preprocess
from medweave.progress import say, track
from medweave.training import texts
from medweave.training.distributed import check_batch
from medweave.training.embed import Towers, backward
from medweave.training.loader import Micro, Share, Steps, loaded
from medweave.training.objective import Objectives
from medweave.training.optim import head_optimiser, rate, set_rate, step_
from medweave.training.recipe import HeadRecipe
from medweave.training.work import Work

CHUNK = 64  # images embedded at a time
WARMUP = 0.1  # share of the steps


def head_start(work: Work) -> None:
    """Train the projections for the recipe's steps, before the first; the average begins with them."""
    assert work.settings.head_start is not None
    _learn(work, work.settings.head_start, "head start", work.objectives)
    if work.average is not None:
        work.average.restart()


def head_finish(work: Work) -> None:
    """Train the projections of the weights that are kept for the recipe's steps, after the last; left in eval().

    Teachers have no say in it where another objective is left: they tilt which of two findings is named.
    """
    assert work.settings.head_finish is not None
    _learn(work, work.settings.head_finish, "head finish", work.objectives.without_teachers)
    work.model.eval()


def check_separable(work: Work) -> None:
    """Raises RequestError when heads are to learn alone and the image tower's projection is one with its pooling."""
    for name in ("head_start", "head_finish"):
        if getattr(work.settings, name) is not None and not work.model.separable:
            raise RequestError(
                "this image tower's projection is one with its pooling", where=f"train.{name}", todo="leave it out"
            )


def _learn(work: Work, recipe: HeadRecipe, name: str, objectives: Objectives) -> None:
    stored = _Stored(work, recipe, name, objectives)
    own = work.settings.optimiser.model_copy(update={"lr": recipe.lr})
    optimiser = head_optimiser(work.model, objectives, own)
    work.model.train()
    losses: dict[str, Tensor] = {}
    for step in track(range(recipe.steps), f"{name} on {len(stored.place)} images, by step", recipe.steps):
        set_rate(optimiser, rate(step, recipe.steps, WARMUP))
        share = stored[step]
        batch = work.batch(stored.loader.order, share)
        read = work.ranks.gather(stored.read(step))
        losses = backward(stored.towers, objectives, share, batch, read, work.ranks)
        step_(optimiser, work.model, objectives, work.settings.optimiser.clip)
    if work.ranks.first:
        shown = ", ".join(f"{name} loss {float(loss):.3g}" for name, loss in losses.items())
        say(f"{name}: {recipe.steps} steps on stored outputs of {len(stored.place)} images; {shown}")


class _Stored:
    """Steps of the heads alone, from rows that the towers gave once. Item `step` is this process's share."""

    def __init__(self, work: Work, recipe: HeadRecipe, name: str, objectives: Objectives) -> None:
        check_batch(recipe.batch, 1, work.ranks, where=f"train.{name.replace(' ', '_')}.batch")
        fitting = work.data.mix.samples // work.ranks.world * work.ranks.world
        run, order = work.loader, work.data.mix.order(min(recipe.batch, fitting), work.recipe.seed)
        teachers = run.teachers if objectives.learn_from_teachers else None
        self.loader = Steps(run.corpus, order, run.captions, run.look, run.tokenize, work.ranks, 1, run.menu, teachers)
        own = [order.numbers(step)[self.loader.part] for step in range(recipe.steps)]
        numbers = np.unique(np.concatenate(own))
        self.place = {number: at for at, number in enumerate(numbers.tolist())}
        self.rows, self.known = _image_rows(work, numbers, name)
        steps = track(range(recipe.steps), f"{name}: captions, by step", recipe.steps)
        self.captions = [self.loader.drawn(step) for step in steps]
        menus = map(run.menu.texts, range(recipe.steps)) if run.menu is not None else ()
        texts_of = ([caption.text for caption in captions] for captions in self.captions)
        drawn = sorted(set(chain.from_iterable([*texts_of, *menus])))
        pooled = texts.with_more(work.towers.pooled, work.model, drawn)
        seed, device = work.recipe.seed, work.ranks.device
        self.towers = _Projections(work.model, device, seed, pooled=pooled, bf16=False, compile=False)

    def __getitem__(self, step: int) -> Share:
        numbers = self.loader.order.numbers(step)[self.loader.part]
        captions = self.captions[step]
        texts = [caption.text for caption in captions]
        micro = Micro(self.loader.part.start, self.rows[self._at(numbers)], texts, [])
        rows = self.loader.rows_of_whole(step, captions)
        return Share(step, numbers, [micro], [], [], self.loader.menu_of(step), rows)

    def read(self, step: int) -> Tensor:
        """Which samples of this process's share could be read: [b] bool on the CPU."""
        return self.known[self._at(self.loader.order.numbers(step)[self.loader.part])]

    def _at(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.tensor([self.place[number] for number in numbers.tolist()])


class _Projections(Towers):
    """The model on stored rows: only the projections run. `pixels` of a micro-batch are the image tower's rows."""

    def image(self, pixels: Tensor) -> Tensor:
        """[m, w] -> [m, D]."""
        return self.model.project_image(pixels)


@torch.no_grad()
def _image_rows(work: Work, numbers: NDArray[np.int64], name: str) -> tuple[Tensor, Tensor]:
    """The image tower's own outputs of some samples, and which of them could be read: [n, w] float32, [n] bool."""
    model, towers = work.model.eval(), work.towers
    pictures = _Pictures(work.loader.corpus, model.preprocess, numbers)
    rows, known = [], []
    for pixels, read in track(pictures.chunks(work.workers), f"{name}: images", -(-len(numbers) // CHUNK)):
        with torch.autocast(towers.device.type, torch.bfloat16, enabled=towers.bf16):
            rows.append(model.image_features(towers.normalised(pixels.to(towers.device))).float().cpu())
        known.append(read)
    readable = torch.cat(known)
    if not readable.all():
        say(f"{name}: {int((~readable).sum())} of {len(readable)} images cannot be read and are left out")
    return torch.cat(rows), readable


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Chunks of samples as evaluation sees them: uint8 [k, s, s, 3], and which could be read, [k] bool."""

    def __init__(self, corpus: Corpus, preprocess: Preprocess, numbers: NDArray[np.int64]) -> None:
        self.corpus, self.preprocess, self.numbers = corpus, preprocess, numbers

    def chunks(self, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
        """All of them, in order."""
        count = -(-len(self.numbers) // CHUNK)
        return loaded(self, range(count), workers)

    def __getitem__(self, chunk: int) -> tuple[Tensor, Tensor]:
        pictures = list(map(self._picture, self.numbers[chunk * CHUNK : (chunk + 1) * CHUNK].tolist()))
        black = np.zeros((self.preprocess.size, self.preprocess.size, 3), np.uint8)
        pixels = np.stack([black if picture is None else picture for picture in pictures])
        return torch.from_numpy(pixels), torch.tensor([picture is not None for picture in pictures])

    def _picture(self, number: int) -> NDArray[np.uint8] | None:
        try:
            with pillow_allows(self.corpus.limits.pixels):
                picture: NDArray[np.uint8] = self.preprocess.array(self.corpus.read(number))
            return picture
        except (DamagedError, BadImage):
            return None
