"""The findings of every sample, for label targets: any process looks up the labels of any batch without pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medweave.corpus.known import Known, LabelSet, known_of
from medweave.corpus.order import Ranges
from medweave.corpus.store import Corpus


class Labels:
    """known: what is known of every sample of the corpus."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._told = [labels if labels.told else None for labels in known.sets]

    @property
    def sets(self) -> list[LabelSet]:
        """The distinct label sets in which a finding is known."""
        return [labels for labels in self._told if labels is not None]

    def of(self, numbers: NDArray[np.int64]) -> list[LabelSet | None]:
        """The labels of some samples, [k]; None where no finding is known."""
        return [self._told[code] for code in self.known.codes[numbers].tolist()]

    def modalities(self, numbers: NDArray[np.int64]) -> list[str]:
        """The modalities of some samples, [k]."""
        return [self.known.sets[code].key[0] for code in self.known.codes[numbers].tolist()]

    def among(self, ranges: Ranges) -> list[LabelSet]:
        """The distinct label sets of the samples in these ranges."""
        return [self.known.sets[code] for code in np.flatnonzero(self.known.counts(ranges))]


def labels_of(corpus: Corpus) -> Labels:
    """The labels of all samples of a corpus."""
    return Labels(known_of(corpus))
