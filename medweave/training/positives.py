"""Which texts of a batch are right for which images, told by labels instead of by pairing alone.

Two samples with the same (modality, anatomy) and the same findings are positives of each other; where findings overlap
in part the target is soft (Jaccard index); where a label is not known the pair takes no part at all. Label-made pairs
are otherwise false negatives by construction (UniCL, arXiv 2204.03610, for single labels).
B samples of the global batch, S distinct label sets among them plus one that stands for "no labels".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medweave.corpus.known import LabelSet


@dataclass(frozen=True)
class Positives:
    """Targets of a batch, held as a small table over distinct label sets.

    sets: [B] int64, the label set of each sample; the last set, S - 1, means "no labels: own text only".
    likeness: [S, S] float32 in [0, 1]; its last row and column are 0. ignored: [S, S] bool (image's set, text's set).
    """

    sets: Tensor
    likeness: Tensor
    ignored: Tensor

    def text_targets(self, text: Tensor) -> Tensor:
        """For each image the mean of its right texts, weighted by likeness. text: [B, D] -> [B, D]."""
        return self._mean_of(text, self.likeness)

    def image_targets(self, image: Tensor) -> Tensor:
        """For each text the mean of its right images, weighted by likeness. image: [B, D] -> [B, D]."""
        return self._mean_of(image, self.likeness.T)

    def weighted_sum_of_pairs(self, image: Tensor, text: Tensor) -> Tensor:
        """Sum over all pairs of target x (image · text), targets not normalised. Returns a scalar."""
        alone = self.sets == len(self.likeness) - 1
        own = (image[alone] * text[alone]).sum()
        return own + (self._sum_by_set(image) * (self.likeness @ self._sum_by_set(text))).sum()

    @property
    def entropy(self) -> Tensor:
        """Mean entropy of the images' targets over texts and of the texts' over images: no cross-entropy is less."""
        return (self._entropy(self.likeness) + self._entropy(self.likeness.T)) / 2

    def _entropy(self, likeness: Tensor) -> Tensor:
        weights, counts = self._weights(likeness)
        each = -(torch.special.xlogy(weights, weights) @ counts)
        return each[self.sets].mean()

    def _weights(self, likeness: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of a sample of each set in each set's targets, [S, S], and how many samples sets have, [S]."""
        counts = torch.bincount(self.sets, minlength=len(likeness)).to(likeness)
        return likeness / (likeness @ counts).clamp_min(1e-12)[:, None], counts

    def _mean_of(self, rows: Tensor, likeness: Tensor) -> Tensor:
        weights, _ = self._weights(likeness)
        means = (weights.to(rows) @ self._sum_by_set(rows))[self.sets]
        alone = self.sets == len(likeness) - 1
        return torch.where(alone[:, None], rows, means)

    def _sum_by_set(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(len(self.likeness), rows.shape[1]).index_add(0, self.sets, rows)


def positives_of(labels: Sequence[LabelSet | None], device: torch.device | str = "cpu") -> Positives:
    """The targets of a batch from its samples' labels; None or nothing present: own text only."""
    distinct = {
        label: place for place, label in enumerate(dict.fromkeys(x for x in labels if x is not None and x.present))
    }
    last = len(distinct)
    sets = torch.tensor([distinct.get(label, last) if label is not None else last for label in labels])
    likeness, ignored = torch.zeros(last + 1, last + 1), torch.zeros(last + 1, last + 1, dtype=torch.bool)
    by_key: dict[tuple[str, str | None], list[LabelSet]] = {}
    for label in distinct:
        by_key.setdefault(label.key, []).append(label)
    for members in by_key.values():
        places = torch.tensor([distinct[label] for label in members])
        likeness[places[:, None], places], ignored[places[:, None], places] = _compared(members)
    return Positives(sets.to(device), likeness.to(device), ignored.to(device))


def _compared(members: list[LabelSet]) -> tuple[Tensor, Tensor]:
    """How right each one's text is for each one's image, in [0, 1], and where it cannot be told: two [m, m].

    Members share a key. A text claims its findings; a claim that the image's labels neither confirm nor deny cannot be
    judged, unless another claim is denied.
    """
    names = sorted(frozenset().union(*(label.present | label.absent for label in members)))
    column = {name: place for place, name in enumerate(names)}
    present, absent = torch.zeros(len(members), len(names)), torch.zeros(len(members), len(names))
    for row, label in enumerate(members):
        present[row, [column[name] for name in label.present]] = 1
        absent[row, [column[name] for name in label.absent]] = 1
    claims = present.sum(1)
    confirmed, denied = present @ present.T, absent @ present.T
    untold = (denied == 0) & (claims - confirmed > 0)
    likeness = confirmed / (claims[:, None] + claims - confirmed)
    return likeness.masked_fill_(untold, 0), untold
