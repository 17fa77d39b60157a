"""How many test images a model has met in training: same group, same bytes, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.errors import UserError
from medweave.evaluation.parts import numbers_of
from medweave.evaluation.recipe import Part

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

NEAR_BITS = 3  # of 64: more gives false alarms on round fundus images
BLOCK = 4_000_000  # pairs compared at a time


class TrainingImages:
    """The images that a model was trained on: their groups (of the tested corpus only), bytes and fingerprints."""

    def __init__(self, trained: Corpus, part: Part, leave_out: Collection[str], same_corpus: bool) -> None:
        table = trained.index(["source", "group", "sha256", "phash"]).take(numbers_of(trained, part, "train"))
        table = table.filter(pc.invert(pc.is_in(table["source"], pa.array(leave_out, pa.string()))))
        self.sources = set(table["source"].unique().to_pylist())
        self.groups = set(table["group"].to_pylist()) if same_corpus else set()
        self.sha256 = set(table["sha256"].to_pylist())
        self.phash = np.unique(table["phash"].to_numpy(zero_copy_only=False).astype(np.uint64))

    def met(self, tested: Corpus, numbers: NDArray[np.int64]) -> dict[str, int]:
        """Test images with a twin in training: in all, and by the kind of twin."""
        table = tested.index(["group", "sha256", "phash"]).take(numbers)
        group = np.array([name in self.groups for name in table["group"].to_pylist()], bool)
        exact = np.array([name in self.sha256 for name in table["sha256"].to_pylist()], bool)
        close = near(table["phash"].to_numpy(zero_copy_only=False).astype(np.uint64), self.phash)
        any_of = group | exact | close
        return {
            name: int(v.sum()) for name, v in (("all", any_of), ("group", group), ("bytes", exact), ("near", close))
        }

    def includes(self, tested: Corpus, numbers: NDArray[np.int64]) -> bool:
        """Whether a source of the test images was trained on: then the test is in-domain, not zero-shot."""
        return bool(self.sources & set(tested.index(["source"])["source"].take(numbers).to_pylist()))


def training_images(facts: dict[str, Any], corpus: Corpus) -> TrainingImages | None:
    """The training images of a model; None when unknown. facts: `trained_on: {corpus: hash, path, part, leave_out}`."""
    trained_on = facts.get("trained_on")
    if not trained_on:
        return None
    part, leave_out = Part.model_validate(trained_on.get("part") or {}), trained_on.get("leave_out") or []
    if trained_on["corpus"] == corpus.hash:
        return TrainingImages(corpus, part, leave_out, same_corpus=True)
    other = _opened(trained_on.get("path"))
    if other is None or other.hash != trained_on["corpus"]:
        return None
    return TrainingImages(other, part, leave_out, same_corpus=False)


def near(phash: NDArray[np.uint64], others: NDArray[np.uint64], bits: int = NEAR_BITS) -> NDArray[np.bool_]:
    """Whether any of `others` differs from each fingerprint in at most `bits` bits: [n]."""
    found = np.zeros(len(phash), bool)
    step = max(1, BLOCK // max(1, len(phash)))
    for start in range(0, len(others), step):
        found |= (np.bitwise_count(phash[:, None] ^ others[None, start : start + step]) <= bits).any(1)
    return found


def _opened(path: str | None) -> Corpus | None:
    from medweave.corpus.store import open_corpus

    try:
        return open_corpus(Path(path)) if path else None
    except UserError:
        return None
