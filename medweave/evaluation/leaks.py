"""What of a test a model has met in training: images of the same group or bytes, near copies of them, and prompts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.errors import UserError
from medweave.evaluation.answer import Prompts
from medweave.evaluation.cases import Case
from medweave.evaluation.parts import numbers_of
from medweave.evaluation.recipe import Part
from medweave.recipe import read_yaml

if TYPE_CHECKING:
    from medweave.corpus.captions.bank import Bank
    from medweave.corpus.store import Corpus

NEAR_BITS = 3  # of 64: more gives false alarms on round fundus images
BLOCK = 4_000_000  # pairs compared at a time


class TrainingImages:
    """The images that a model was trained on: their groups (of the tested corpus only), bytes and fingerprints."""

    def __init__(self, trained: Corpus, part: Part, leave_out: Collection[str], same_corpus: bool) -> None:
        table = trained.take(numbers_of(trained, part, "train"), ["source", "group", "sha256", "phash"])
        table = table.filter(pc.invert(pc.is_in(table["source"], pa.array(leave_out, pa.string()))))
        self.sources = set(table["source"].unique().to_pylist())
        self.groups = set(table["group"].to_pylist()) if same_corpus else set()
        self.sha256 = set(table["sha256"].to_pylist())
        self.phash = np.unique(table["phash"].to_numpy(zero_copy_only=False).astype(np.uint64))

    def met(self, tested: Corpus, numbers: NDArray[np.int64]) -> dict[str, int]:
        """Test images with a twin in training: in all, and by the kind of twin."""
        table = tested.take(numbers, ["group", "sha256", "phash"])
        group = np.array([name in self.groups for name in table["group"].to_pylist()], bool)
        exact = np.array([name in self.sha256 for name in table["sha256"].to_pylist()], bool)
        close = near(table["phash"].to_numpy(zero_copy_only=False).astype(np.uint64), self.phash)
        any_of = group | exact | close
        return {
            name: int(v.sum()) for name, v in (("all", any_of), ("group", group), ("bytes", exact), ("near", close))
        }

    def includes(self, tested: Corpus, numbers: NDArray[np.int64]) -> bool:
        """Whether a source of the test images was trained on: then the test is in-domain, not zero-shot."""
        return bool(self.sources & set(tested.take(numbers, ["source"])["source"].to_pylist()))


def training_images(facts: dict[str, Any], corpus: Corpus) -> TrainingImages | None:
    """The training images of a model; None when unknown. facts: `trained_on: {corpus: hash, path, part, leave_out}`."""
    trained = _trained_corpus(facts, corpus)
    if trained is None:
        return None
    trained_on = facts["trained_on"]
    part, leave_out = Part.model_validate(trained_on.get("part") or {}), trained_on.get("leave_out") or []
    return TrainingImages(trained, part, leave_out, same_corpus=trained is corpus)


def training_bank(facts: dict[str, Any], corpus: Corpus, run: Path | None) -> Bank | None:
    """The bank of a model's captions: the files that its run's recipe names, else its corpus's; None when unknown."""
    from medweave.corpus.captions.bank import Bank

    files, trained = _banks_named(run), _trained_corpus(facts, corpus)
    if files is None and trained is not None:
        files = trained.banks()
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


def near(phash: NDArray[np.uint64], others: NDArray[np.uint64], bits: int = NEAR_BITS) -> NDArray[np.bool_]:
    """Whether any of `others` differs from each fingerprint in at most `bits` bits: [n]."""
    found = np.zeros(len(phash), bool)
    step = max(1, BLOCK // max(1, len(phash)))
    for start in range(0, len(others), step):
        found |= (np.bitwise_count(phash[:, None] ^ others[None, start : start + step]) <= bits).any(1)
    return found


def _trained_corpus(facts: dict[str, Any], corpus: Corpus) -> Corpus | None:
    """The corpus that a model was trained on: the given one, or the one at its path; None when it is not at hand."""
    from medweave.corpus.store import corpus_at

    trained_on = facts.get("trained_on")
    if not trained_on or trained_on["corpus"] == corpus.hash:
        return corpus if trained_on else None
    other = corpus_at(trained_on.get("path"))
    return other if other is not None and other.hash == trained_on["corpus"] else None


def _banks_named(run: Path | None) -> list[Path] | None:
    """`train.captions.banks` of a run's recipe; None where there is no recipe, or it names none."""
    path = run and run / "recipe.yaml"
    recipe = read_yaml(path) if path and path.is_file() else {}
    banks = ((recipe.get("train") or {}).get("captions") or {}).get("banks")
    return None if banks is None else [Path(bank) for bank in banks]


def _bare(text: str) -> str:
    return text.strip().casefold().rstrip(" .!?;:,")
