"""Means of weights in place of single ones: of branches, of late steps, and on the way from the first weights.

A branch is a run of its own from the first weights, those after the head start, on batches of its own: weights with
one beginning can be averaged (model soups, Wortsman et al., arXiv 2203.05482), as late steps of one run can (Izmailov
et al., arXiv 1803.05407). The way from the first weights to the soup is WiSE-FT (Wortsman et al., arXiv 2109.01903).
Only what learns is kept of each: on disk, so that a run which was killed cooks the same soup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from medweave.files import write_bytes
from medweave.progress import say
from medweave.training import checkpoint
from medweave.training.kept import learn, settle_norms
from medweave.training.optim import moving, optimiser_of
from medweave.training.recipe import SoupRecipe
from medweave.training.work import Work

Weights = dict[str, Tensor]


def begin_branch(work: Work) -> None:
    """Where a branch begins: keep the first weights before the first one, take them up again before the others."""
    if work.settings.soup is None or work.step % work.settings.branch_steps:
        return
    if work.step == 0:
        _write(work, checkpoint.FIRST)
        return
    _fill(work, _read(work, checkpoint.FIRST))
    work.optimiser = optimiser_of(work.model, work.objectives, work.settings.optimiser)
    if work.average is not None:
        work.average.restart()


def add(work: Work) -> None:
    """Keep the weights for the soup after a step that is one of a branch's last."""
    soup, settings = work.settings.soup, work.settings
    if soup is None:
        return
    left, every = -work.step % settings.branch_steps, settings.every(settings.validation.every)
    if left % every == 0 and left // every < soup.late:
        if work.average is not None:
            work.average.swap()
        _write(work, checkpoint.INGREDIENT.format(work.step))
        if work.average is not None:
            work.average.swap()


def cook(work: Work) -> dict[str, Any]:
    """Put the soup into the model, in every process; left in eval(). Returns what it is made of.

    steps: of its ingredients. share: of the way from the first weights. value: what validation says, None without one.
    """
    soup = work.settings.soup
    assert soup is not None
    work.ranks.wait()
    steps = sorted(int(file.stem.split("-")[1]) for file in work.run.checkpoints.glob("soup-*"))
    ingredients = [_read(work, checkpoint.INGREDIENT.format(step)) for step in steps]
    chosen = _greedy(work, ingredients) if soup.choose == "greedy" and work.validation else list(range(len(steps)))
    whole, first = _mean([ingredients[at] for at in chosen]), _read(work, checkpoint.FIRST)
    share, value = _best_share(work, soup, first, whole)
    taken = [steps[at] for at in chosen]
    if work.ranks.first:
        told = "" if value is None else f", {work.settings.validation.metric} {value:.3f} on validation"
        say(f"soup of steps {', '.join(map(str, taken))}, {share:g} of the way from the first weights{told}")
    return {"steps": taken, "share": share, "value": value}


def _greedy(work: Work, ingredients: Sequence[Weights]) -> list[int]:
    """Which ingredients are taken: one after another, best first, as long as validation does not lose."""
    alone = [_validated(work, one) for one in ingredients]
    ranked = sorted(range(len(alone)), key=lambda at: -alone[at])
    chosen, best = ranked[:1], alone[ranked[0]]
    for at in ranked[1:]:
        value = _validated(work, _mean([ingredients[other] for other in (*chosen, at)]))
        if value >= best:
            chosen, best = [*chosen, at], value
    return sorted(chosen)


def _best_share(work: Work, soup: SoupRecipe, first: Weights, whole: Weights) -> tuple[float, float | None]:
    """Put the best point of the line from the first weights into the model: its share and its value on validation."""
    if not work.validation:
        _put(work, whole)
        return 1.0, None
    values = {share: _validated(work, _between(first, whole, share)) for share in soup.line}
    share = max(values, key=lambda one: values[one])
    if share != list(values)[-1]:  # the last is still there
        _put(work, _between(first, whole, share))
    return share, values[share]


def _validated(work: Work, weights: Weights) -> float:
    """What validation says of some weights; below everything where it says nothing."""
    _put(work, weights)
    value = work.validation(work.towers)[work.settings.validation.metric]
    return float("-inf") if value is None else float(value)


def _put(work: Work, weights: Weights) -> None:
    """Put weights into the model, with batch-norm statistics of their own; left in eval()."""
    learn(work)
    _fill(work, weights)
    settle_norms(work)


def _mean(some: Sequence[Weights]) -> Weights:
    return {name: torch.stack([one[name] for one in some]).mean(0) for name in some[0]}


def _between(first: Weights, last: Weights, share: float) -> Weights:
    return {name: torch.lerp(first[name], last[name], share) for name in last}


def _learning(work: Work) -> Iterator[tuple[str, Tensor]]:
    """All that a branch changes, of the model and of the objectives."""
    for prefix, part in (("model", work.model), ("objectives", work.objectives)):
        yield from ((f"{prefix}.{name}", value) for name, value in moving(part))


def _write(work: Work, name: str) -> None:
    if work.ranks.first:
        values = {name: value.cpu().contiguous() for name, value in _learning(work)}
        write_bytes(_file(work, name), safetensors.torch.save(values))


def _read(work: Work, name: str) -> Weights:
    work.ranks.wait()
    return checkpoint.read_weights(_file(work, name))


@torch.no_grad()
def _fill(work: Work, weights: Weights) -> None:
    for name, value in _learning(work):
        value.copy_(weights[name])


def _file(work: Work, name: str) -> Path:
    return work.run.checkpoints / name
