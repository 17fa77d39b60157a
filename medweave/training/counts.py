"""Loud counts: what was asked for, read, skipped and repeated, of which source and modality, and whether it adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medweave.corpus.order import Order
from medweave.corpus.store import Corpus
from medweave.errors import UserError
from medweave.training.loader import Share
from medweave.training.mix import Mix

EXAMPLES = 20
MOST_SKIPPED, TOO_FEW = (
    0.01,
    20,
)  # more skipped samples than this share of those asked for, and than this number, stop a run


class Counts:
    """What this process has seen. Plain numbers: kept in checkpoints and added up over processes."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.strata = corpus, corpus.strata
        self.asked = np.zeros(len(self.strata), np.int64)
        self.read = np.zeros(len(self.strata), np.int64)
        self.texts: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []

    def add(self, share: Share) -> None:
        """Count one process's part of a step. Raises UserError when too much cannot be read."""
        stratum = self.corpus.strata_at(share.numbers)
        readable = np.array([not problem for problem in share.problems])
        self.asked += np.bincount(stratum, minlength=len(self.strata))
        self.read += np.bincount(stratum[readable], minlength=len(self.strata))
        self.texts.update(kind for kind, ok in zip(share.kinds, readable, strict=True) if ok)
        for number, problem in zip(share.numbers.tolist(), share.problems, strict=True):
            if problem:
                self._skip(number, problem)

    def state(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "asked": self.asked.tolist(),
            "read": self.read.tolist(),
            "texts": dict(self.texts),
            "problems": dict(self.problems),
            "examples": self.examples,
        }

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Become the sum of some states."""
        self.asked = np.sum([state["asked"] for state in states], axis=0, dtype=np.int64)
        self.read = np.sum([state["read"] for state in states], axis=0, dtype=np.int64)
        self.texts = sum((Counter(state["texts"]) for state in states), Counter())
        self.problems = sum((Counter(state["problems"]) for state in states), Counter())
        self.examples = [example for state in states for example in state["examples"]][:EXAMPLES]

    def _skip(self, number: int, problem: str) -> None:
        self.problems[problem] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append({"sample": number, "reason": problem})
        skipped = self.problems.total()
        if skipped > max(TOO_FEW, MOST_SKIPPED * self.asked.sum()):
            raise UserError(
                f"{skipped} of {self.asked.sum()} samples could not be read, the last: {problem}",
                todo="repair the corpus, or withdraw these samples",
            )


def report(total: Counts, steps: int, mix: Mix, order: Order) -> dict[str, Any]:
    """The counts of all processes after `steps` steps, for people and JSON. Raises UserError if they do not add up."""
    asked, read, skipped = int(total.asked.sum()), int(total.read.sum()), total.problems.total()
    if asked != steps * order.batch or asked != read + skipped or read != total.texts.total():
        raise UserError(
            f"counts do not add up: {steps} steps of {order.batch}, asked {asked}, read {read}, skipped {skipped}, "
            f"texts {total.texts.total()}",
            todo="the run's folder was changed by hand, or this is a fault of Medweave",
        )
    return {
        "steps": steps,
        "asked": asked,
        "read": read,
        "skipped": dict(total.problems),
        "skipped_examples": total.examples,
        "repeated": int(order.repeated(0, steps).sum()),
        "training_samples": mix.samples,
        "epochs": asked / mix.samples,
        "texts": {kind: total.texts[kind] for kind in ("own", "bank", "other")},
        "passes": dict(zip(mix.names, order.passes(steps).tolist(), strict=True)),
        "mix": {by: _shares(total, by) for by in ("source", "modality")},
    }


def _shares(total: Counts, by: str) -> dict[str, dict[str, float]]:
    """Of every source or modality: samples asked and read, and its share of all that was read."""
    found: dict[str, dict[str, float]] = {}
    for stratum, asked, read in zip(total.strata, total.asked.tolist(), total.read.tolist(), strict=True):
        row = found.setdefault(getattr(stratum, by), {"asked": 0, "read": 0, "share": 0.0})
        row["asked"] += asked
        row["read"] += read
    for row in found.values():
        row["share"] = row["read"] / max(1, int(total.read.sum()))
    return {name: row for name, row in found.items() if row["asked"]}
