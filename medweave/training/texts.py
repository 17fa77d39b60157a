"""Pooled vectors of a frozen text tower, computed once for each caption that a run draws, and kept with the run.

Captions are a pure function of (seed, step, sample), so every one of a short run is known before the first step, and a
run that was killed finds the same bytes again. A long run would spend hours and its memory on that: it begins with the
captions of its bank, and embeds every other text when it is first met. T distinct texts, w the text tower's own width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import Dataset

from medweave.files import hash_of, write_bytes
from medweave.models.two_towers import DualModel
from medweave.progress import track
from medweave.training.checkpoint import TEXTS
from medweave.training.distributed import Ranks
from medweave.training.loader import Steps, in_buckets, loaded

CHUNK = 128  # texts embedded at a time
MOST_DRAWN = 2**19  # captions of a run up to which all are drawn before it begins
ROOM = 2**28  # bytes of rows that are kept of the texts that a longer run meets


class Pooled:
    """Rows of texts, [T, w], looked up by text."""

    def __init__(self, texts: Sequence[str], rows: Tensor) -> None:
        self.place, self.rows = {text: at for at, text in enumerate(texts)}, rows

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[k] texts -> [k, w]."""
        return self.rows[torch.tensor([self.place[text] for text in texts], device=self.rows.device)]


class Growing(Pooled):
    """Rows of texts, computed when they are first met, and kept while there is room; others are computed at each visit.

    Which rows are kept, and in what company each was computed, follows from the steps so far: with the rows that it had
    (`write`, `read`), a run goes on to the same bytes.
    """

    def __init__(self, model: DualModel, known: Pooled, room: int) -> None:
        super().__init__(list(known.place), known.rows)
        self.model, self._buffer, self._written = model, known.rows, len(self.place)
        self._most = len(self.place) + room // (known.rows.shape[1] * known.rows.element_size())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[k] texts -> [k, w]."""
        new = list(dict.fromkeys(text for text in texts if text not in self.place))
        if not new:
            return super().__call__(texts)
        with torch.autocast(self.rows.device.type, enabled=False):
            met = Pooled(new, computed(self.model, new))
        self._keep(new, met.rows)
        sources = [met if text in met.place else self for text in texts]
        return torch.stack([source.rows[source.place[text]] for source, text in zip(sources, texts, strict=True)])

    def write(self, file: Path) -> None:
        """Write what was kept since the last time."""
        texts = list(self.place)[self._written :]
        if texts:
            data = torch.frombuffer(bytearray(json.dumps(texts).encode()), dtype=torch.uint8)
            write_bytes(file, save({"texts": data, "rows": self.rows[self._written :].cpu()}))
        self._written = len(self.place)

    def read(self, file: Path) -> None:
        """Keep what was written."""
        values = load_file(file)
        self._keep(json.loads(values["texts"].numpy().tobytes()), values["rows"].to(self.rows.device))
        self._written = len(self.place)

    def _keep(self, texts: Sequence[str], rows: Tensor) -> None:
        first, last = len(self.place), min(len(self.place) + len(texts), self._most)
        if last > len(self._buffer):
            free = self.rows.new_empty(max(last, 2 * first) - first, rows.shape[1])
            self._buffer = torch.cat([self.rows, free])
        self._buffer[first:last] = rows[: last - first]
        self.place.update(zip(texts, range(first, last), strict=False))
        self.rows = self._buffer[:last]


def of_run(
    model: DualModel, steps: Steps, total: int, workers: int, bank: Sequence[str], file: Path, ranks: Ranks
) -> Pooled:
    """The pooled vectors of all captions that the first `total` steps draw.

    Where they are too many to be drawn first: those of the bank, and any other when it is met. bank: its captions.
    """
    if total * steps.order.batch <= MOST_DRAWN:
        return kept(model, drawn(steps, total, workers, ranks), file, ranks)
    return Growing(model, kept(model, bank, file, ranks), ROOM)


def write_met(pooled: Pooled | None, folder: Path, ranks: Ranks, step: int) -> None:
    """Write what this process met up to a step, for the state of that step."""
    if isinstance(pooled, Growing):
        pooled.write(folder / TEXTS.format(ranks.rank, step))


def read_met(pooled: Pooled | None, folder: Path, ranks: Ranks, step: int) -> None:
    """Keep again what this process had met up to a step."""
    if isinstance(pooled, Growing):
        for file in sorted(folder.glob(f"texts-{ranks.rank}-*")):
            if file.name <= TEXTS.format(ranks.rank, step):
                pooled.read(file)


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
    device = model.logit_scale.device
    if not texts:
        return model.text_pooled(model.tokenize([""]).to(device))[:0]
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
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
