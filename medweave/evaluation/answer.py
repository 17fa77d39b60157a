"""What a task is given and what it answers: the border that test labels do not cross."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medweave.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from medweave.corpus.captions.bank import Bank
    from medweave.evaluation.cache import Embedder

Prompts = dict[str, list[list[str]]]  # prompt set -> the prompts of each class


class BankLike(Protocol):
    """Where prompts come from; `medweave.corpus.captions.bank.Bank` is one."""

    def prompts(self, modality: str, anatomy: str | None, finding: str, kind: str) -> Sequence[str]:
        """The prompts of one finding in one of the sets plain, report, signs."""

    def missing(self, triplets: Iterable[tuple[str, str | None, str]]) -> list[tuple[str, str | None, str]]:
        """The (modality, anatomy, finding) that have generic prompts only."""


@dataclass(frozen=True)
class Setting:
    """What every task may use: the benchmark, the model before the corpus, the prompts' bank, the seed.

    trained: the bank of the model's training captions, None when unknown.
    """

    benchmark: Benchmark
    embedder: Embedder
    bank: BankLike
    seed: int
    trained: Bank | None = None


@dataclass(frozen=True)
class Answer:
    """A task's scores for the test images, before anybody saw their truth.

    scores: name -> logits [n, C], the first is the answer. validation: logits of the validation part [v, C], unless the
    task has trained on it. choices: everything that was chosen. variants, calibratable: as of `Predictions`.
    """

    scores: dict[str, NDArray[np.float64]]
    choices: dict[str, Any]
    validation: NDArray[np.float64] | None = None
    variants: dict[str, list[str]] = field(default_factory=dict)
    calibratable: bool = True
