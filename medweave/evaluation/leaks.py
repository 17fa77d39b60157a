"""What of a test a model has met in training: images of the same group or bytes, near copies of them, and prompts.

Training images are read front to back and compared with the tested ones; they are never held. n tested images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.errors import UserError
from medweave.evaluation.answer import Prompts
from medweave.evaluation.cases import Case
from medweave.evaluation.trainings import Trained, training_of
from medweave.recipe import read_yaml

if TYPE_CHECKING:
    from medweave.corpus.captions.bank import Bank
    from medweave.corpus.store import Corpus

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

NEAR_BITS = 3  # of 64: more gives false alarms on round fundus images
PIECES, PIECE = 4, 0x1111_1111_1111_1111  # of a fingerprint: every fourth bit, so that each has coarse and fine ones
PAIRS = 1_000_000  # fingerprints compared at a time


class Met:
    """What a model has met of samples of a corpus, found for all of them at once when it is first asked for.

    None stands for: nothing was found, but not all that the model was trained on is known.
    """

    def __init__(self, trained: Trained, tested: Corpus, numbers: Numbers) -> None:
        self.trained, self.tested, self.numbers = trained, tested, np.unique(numbers)

    def counts(self, numbers: Numbers) -> dict[str, int] | None:
        """How many of some of the samples have a twin in training: in all, and by the kind of twin."""
        twins = {kind: flags[self._places(numbers)] for kind, flags in self._twins.items()}
        flags = {"all": np.any(list(twins.values()), axis=0), **twins}
        found = {kind: int(of_kind.sum()) for kind, of_kind in flags.items()}
        return found if found["all"] or self.trained.whole else None

    def learnt(self, numbers: Numbers) -> int:
        """How many of some of the samples are images that the model is known to be trained on."""
        return int(self._twins["bytes"][self._places(numbers)].sum())

    def includes(self, numbers: Numbers) -> bool | None:
        """Whether a source of some samples was trained on: then the test is in-domain, not zero-shot."""
        sources = set(self.tested.take(numbers, ["source"])["source"].to_pylist())
        found = any(sources & training.sources for training in self.trained.trainings)
        return found if found or self.trained.whole else None

    def _places(self, numbers: Numbers) -> Numbers:
        return np.searchsorted(self.numbers, numbers)

    @cached_property
    def _twins(self) -> dict[str, Flags]:
        """Which samples have a training image of the same group, of the same bytes, or near them: [n] each.

        Groups have names of their own in each corpus.
        """
        table = self.tested.take(self.numbers, ["group", "sha256", "phash"])
        phash = _fingerprints(table["phash"])
        found = {kind: np.zeros(len(table), bool) for kind in ("group", "bytes", "near")}
        for training in self.trained.trainings:
            for rows in training.rows(table.column_names):
                if training.corpus is self.tested:
                    found["group"] |= _among(table["group"], rows["group"])
                found["bytes"] |= _among(table["sha256"], rows["sha256"])
                left = np.flatnonzero(~found["near"])
                found["near"][left] = near(phash[left], _fingerprints(rows["phash"]))
        return found


def training_bank(facts: dict[str, Any], corpus: Corpus, run: Path | None) -> Bank | None:
    """The bank of a model's captions: the files that its run's recipe names, else its corpus's; None when unknown."""
    from medweave.corpus.captions.bank import Bank

    files, training = _banks_named(run), training_of(facts.get("trained_on"), corpus)
    if files is None and training is not None:
        files = training.corpus.banks()
    try:
        return None if files is None else Bank.load(files)
    except UserError:
        return None


def prompts_met(prompts: Prompts, case: Case, bank: Bank) -> int:
    """How many distinct prompts of a case are captions of a bank, but for case, outer blanks and final punctuation."""
    asked = {_bare(text) for classes in prompts.values() for texts in classes for text in texts}
    generic = [text for finding in case.classes for text in bank.captions(case.modality, case.anatomy, finding)]
    written = [text for entry in bank.entries.values() for text in entry.captions]
    return len(asked & {_bare(text) for text in (*generic, *written)})


def near(phash: NDArray[np.uint64], others: NDArray[np.uint64]) -> Flags:
    """Whether any of `others` differs from each fingerprint in at most NEAR_BITS bits: [n].

    Two that do agree in one of their pieces, so only those that share a piece are compared.
    """
    found = np.zeros(len(phash), bool)
    for piece in range(PIECES):
        mine, theirs = (hashes >> piece & PIECE for hashes in (phash, others))
        order = np.argsort(theirs)
        first, last = (np.searchsorted(theirs[order], mine, side=side) for side in ("left", "right"))
        for which, place in _pairs(first, np.where(found, first, last)):
            found[which[np.bitwise_count(phash[which] ^ others[order[place]]) <= NEAR_BITS]] = True
    return found


def _pairs(first: Numbers, last: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Each number with every place in its range [first, last), about PAIRS at a time: two [pairs]."""
    counts = last - first
    before = np.cumsum(counts) - counts
    for some in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(before // PAIRS)) + 1):
        which = np.repeat(some, counts[some])
        yield which, first[which] + np.arange(len(which)) - (before[which] - before[some[:1]])


def _banks_named(run: Path | None) -> list[Path] | None:
    """`train.captions.banks` of a run's recipe; None where there is no recipe, or it names none."""
    path = run and run / "recipe.yaml"
    recipe = read_yaml(path) if path and path.is_file() else {}
    banks = ((recipe.get("train") or {}).get("captions") or {}).get("banks")
    return None if banks is None else [Path(bank) for bank in banks]


def _among(values: pa.ChunkedArray, others: pa.Array) -> Flags:
    """Which of the values are among the others: [n]."""
    return np.asarray(pc.is_in(values, value_set=others))


def _fingerprints(column: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    return column.to_numpy(zero_copy_only=False).astype(np.uint64)


def _bare(text: str) -> str:
    return text.strip().casefold().rstrip(" .!?;:,")
