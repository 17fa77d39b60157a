"""Zero-shot figures in the middle of training, on validation images: no files, no intervals, a second or two.

Not for a test part: the labels it reads are not sealed. n images, C classes, P prompts, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medweave.evaluation.answer import BankLike
from medweave.evaluation.benchmark import Benchmark, load
from medweave.evaluation.cases import Broken, cases_by_role
from medweave.evaluation.metrics import Scored, measure
from medweave.evaluation.parts import NONE, ROLES, Roles
from medweave.evaluation.predictions import one_against_rest
from medweave.evaluation.tasks.zero_shot import logits, mean_rows, prompts_of

if TYPE_CHECKING:
    from medweave.corpus.known import Known
    from medweave.corpus.store import Corpus
    from medweave.evaluation.cache import EncoderLike

Rows = NDArray[np.float32]
Figures = dict[str, Any]
NAMES = ("macro_auroc", "balanced_accuracy")


class QuickZeroShot:
    """Everything about a set of validation images that does not change while the model does.

    numbers: the sample numbers whose rows are wanted, [n]; texts: the prompts whose rows are wanted, [P]. known: what
    is known of the corpus's samples, read from it if not given.
    """

    def __init__(
        self,
        corpus: Corpus,
        numbers: NDArray[np.int64],
        bank: BankLike,
        benchmark: Benchmark | None = None,
        known: Known | None = None,
    ) -> None:
        benchmark = benchmark or load("corpus-zero-shot")
        codes = np.full(len(corpus), NONE, np.int8)
        codes[numbers] = ROLES.index("validation")
        found = cases_by_role(benchmark, corpus, Roles(codes), sealed=False, known=known)
        self._cases = [case for case in found if not isinstance(case, Broken) and len(case.validation)]
        prompts = [prompts_of(benchmark, case, bank) for case in self._cases]
        self._prompts = [
            [[p for s in sets.values() for p in s[c]] for c in range(len(case.classes))]
            for case, sets in zip(self._cases, prompts, strict=True)
        ]
        self.numbers = np.unique(
            np.concatenate([[], *(case.validation.numbers for case in self._cases)]).astype(np.int64)
        )
        self.texts = sorted({p for case in self._prompts for of_class in case for p in of_class})

    def figures(self, images: Rows, texts: Rows, scale: float) -> Figures:
        """Mean over sources of macro_auroc and balanced_accuracy, and each source's own under `sources`.

        images: unit rows of `numbers`, [n, d]; texts: unit rows of `texts`, [P, d]; scale: of the head.
        """
        place = {text: at for at, text in enumerate(self.texts)}
        sources: dict[str, dict[str, float]] = {}
        for case, prompts in zip(self._cases, self._prompts, strict=True):
            classes = mean_rows([texts[[place[p] for p in of_class]] for of_class in prompts])
            rows = images[np.searchsorted(self.numbers, case.validation.numbers)]
            sources[case.source] = score_rows(rows, classes, case.validation.truth, case.multi, scale)
        return {name: _mean([f[name] for f in sources.values() if name in f]) for name in NAMES} | {"sources": sources}


def quick_zero_shot(encoder: EncoderLike, corpus: Corpus, numbers: NDArray[np.int64], bank: BankLike) -> Figures:
    """Figures of an encoder on validation samples, everything embedded anew (see `QuickZeroShot.figures`)."""
    quick = QuickZeroShot(corpus, numbers, bank)
    if not len(quick.numbers):
        return dict.fromkeys(NAMES) | {"sources": {}}
    images = encoder.embed_images([corpus.read(int(number)) for number in quick.numbers])
    return quick.figures(images, encoder.embed_texts(quick.texts), encoder.head.scale)


def score_rows(images: Rows, classes: Rows, truth: NDArray[np.int8], multi: bool, scale: float) -> dict[str, float]:
    """Figures of unit rows against unit class rows: macro_auroc, and balanced_accuracy (single-label) in [0, 1].

    images: [n, d]; classes: [C, d]; truth: [n, C] 1, 0, -1. Classes that are missing here are in no average.
    """
    scores = logits(images, classes, scale, 0.0)
    present = np.flatnonzero((truth == 1).any(0))
    scored = Scored(
        classes=[str(c) for c in range(truth.shape[1])],
        truth=truth,
        ranking=scores if multi else one_against_rest(scores),
        probability=None,
        folds=np.zeros(len(truth), np.int64),
        multi=multi,
        counted=present,
    )
    found = measure(scored, np.ones((1, len(truth))))
    return {name: float(found[name][0]) for name in NAMES if name in found}


def _mean(values: Sequence[float]) -> float | None:
    """Mean of what is defined; None when nothing is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
