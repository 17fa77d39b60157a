"""The menu: all findings that training images may show, with captions of each, drawn anew at every step.

In a batch over many sources an image meets few texts of its own source, so that telling sources apart is most of what
contrast inside the batch asks. The menu puts every finding of every place beside each image: what is hard is then what
a reader finds hard. With a frozen text tower it costs next to nothing, for its captions were embedded before.
B samples of a batch, K findings of the menu, c captions of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from medweave.corpus.captions.bank import Bank, Triplet
from medweave.corpus.known import LabelSet
from medweave.seeds import generator

PRESENT, ABSENT, UNKNOWN = 1, 0, -1


class Menu:
    """triplets: [K] (modality, anatomy, finding). each: c."""

    def __init__(self, triplets: Sequence[Triplet], bank: Bank, seed: int, each: int = 1) -> None:
        self.triplets, self.bank, self.seed, self.each = triplets, bank, seed, each
        self._known: dict[LabelSet, Tensor] = {}

    def __len__(self) -> int:
        return len(self.triplets)

    def texts(self, step: int) -> list[str]:
        """Captions of each finding, [K c], those of one beside each other; the same for the same seed and step."""
        draw = generator(self.seed, "menu", step)
        captions = [self.bank.captions(*triplet) for triplet in self.triplets]
        return [of_one[at] for of_one in captions for at in draw.integers(len(of_one), size=self.each).tolist()]

    def truth(self, labels: Sequence[LabelSet | None]) -> Tensor:
        """[B, K] int8: PRESENT, ABSENT (what is of another place is), UNKNOWN; all UNKNOWN where nothing is present."""
        return torch.stack([self._row(of_one) for of_one in labels])

    def near(self, modalities: Sequence[str]) -> Tensor:
        """[B, K] bool: which findings are of the modality of each image."""
        own = {name: torch.tensor([name == modality for modality, _, _ in self.triplets]) for name in set(modalities)}
        return torch.stack([own[name] for name in modalities])

    def _row(self, labels: LabelSet | None) -> Tensor:
        if labels is None or not labels.present:
            return torch.full((len(self),), UNKNOWN, dtype=torch.int8)
        if labels not in self._known:
            states = [_state(labels, triplet) for triplet in self.triplets]
            self._known[labels] = torch.tensor(states, dtype=torch.int8)
        return self._known[labels]


def findings_of(sets: Iterable[LabelSet]) -> list[Triplet]:
    """Every finding that is present in one of the sets, once, in sorted order."""
    found = {(*labels.key, finding) for labels in sets for finding in labels.present}
    return sorted(found, key=lambda triplet: (triplet[0], triplet[1] or "", triplet[2]))


def _state(labels: LabelSet, triplet: Triplet) -> int:
    modality, anatomy, finding = triplet
    if (modality, anatomy) == labels.key:
        return PRESENT if finding in labels.present else ABSENT if finding in labels.absent else UNKNOWN
    same_place_perhaps = modality == labels.key[0] and None in (anatomy, labels.key[1])
    return UNKNOWN if same_place_perhaps else ABSENT
