"""Pooled vectors of a frozen text tower, computed once for each caption that a run draws, and kept with the run.

Captions are a pure function of (seed, step, sample), so every one is known before the first step, and a run that was
killed finds the same bytes again. T distinct texts, w the text tower's own width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from medweave.files import hash_of, write_bytes
from medweave.models.two_towers import DualModel
from medweave.progress import track
from medweave.training.distributed import Ranks
from medweave.training.loader import Steps, in_buckets, loaded

CHUNK = 128  # texts embedded at a time


class Pooled:
    """Rows of texts, [T, w], looked up by text."""

    def __init__(self, texts: Sequence[str], rows: Tensor) -> None:
        self.place, self.rows = {text: at for at, text in enumerate(texts)}, rows

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[k] texts -> [k, w]."""
        return self.rows[torch.tensor([self.place[text] for text in texts], device=self.rows.device)]


def with_more(pooled: Pooled | None, model: DualModel, texts: Sequence[str]) -> Pooled:
    """The pooled vectors of some texts: those that are known, and the others computed."""
    if pooled is None:
        return Pooled(texts, computed(model, texts))
    new = [text for text in texts if text not in pooled.place]
    rows = torch.cat([pooled.rows, computed(model, new)]) if new else pooled.rows
    return Pooled([*pooled.place, *new], rows)


def kept(model: DualModel, texts: Sequence[str], file: Path, ranks: Ranks) -> Pooled:
    """The pooled vectors of some texts: read from `file` where it is about these texts, else computed and written."""
    stamp = hash_of(list(texts))
    if ranks.first and _stamp_of(file) != stamp:
        rows = computed(model, texts)
        write_bytes(file, save({"rows": rows.cpu()}, metadata={"texts": stamp}))
    ranks.wait()
    with safe_open(file, "pt") as stored:
        return Pooled(texts, stored.get_tensor("rows").to(ranks.device))


@torch.no_grad()
def computed(model: DualModel, texts: Sequence[str]) -> Tensor:
    """[T] texts -> [T, w] on the model's device."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    device = model.logit_scale.device
    parts = []
    chunks = range(0, len(order), CHUNK)
    for start in track(chunks, f"captions: {len(texts)} distinct, {CHUNK} at a time", len(chunks)):
        buckets = in_buckets([texts[at] for at in order[start : start + CHUNK]], model.tokenize)
        rows = torch.cat([model.text_pooled(bucket.tokens.to(device)) for bucket in buckets])
        parts.append(rows[torch.cat([bucket.places for bucket in buckets]).argsort().to(device)])
    return torch.cat(parts)[torch.tensor(order).argsort().to(device)]


def drawn(steps: Steps, total: int, workers: int, ranks: Ranks) -> list[str]:
    """Every caption that the first `total` steps draw, in all processes: distinct, sorted."""
    loader = loaded(_Texts(steps), range(total), workers)
    found: set[str] = set()
    found.update(text for texts in track(loader, "captions of the run, by step", total) for text in texts)
    return sorted(set().union(*ranks.gather_objects(found)))


class _Texts(Dataset[list[str]]):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> list[str]:
        return self.steps.texts(step)


def _stamp_of(file: Path) -> str | None:
    if not file.exists():
        return None
    with safe_open(file, "pt") as stored:
        return (stored.metadata() or {}).get("texts")
