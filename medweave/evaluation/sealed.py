"""The seal on test labels: a task sees which images are tested, never their truth.

The harness breaks it after the task has answered and its choices are written; every opening is counted in a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medweave.files import canonical_json, hash_of

if TYPE_CHECKING:
    from medweave.evaluation.cases import Items


class Sealed:
    """Test images whose truth is locked away. numbers, ids, groups: [n] as of `Items`."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self.numbers, self.ids, self.groups, self.sha256 = items.numbers, items.ids, items.groups, items.sha256

    def __len__(self) -> int:
        return len(self._items)

    @property
    def data_hash(self) -> str:
        """Hash of the test images: ids and bytes, in any order."""
        return hash_of(sorted(zip(self.ids.tolist(), self.sha256.tolist(), strict=True)))

    @property
    def labels_hash(self) -> str:
        """Hash of the truth of each image, in any order."""
        return hash_of(sorted(zip(self.ids.tolist(), self._items.truth.tolist(), strict=True)))

    def open(self, choices: dict[str, Any], ledger: Ledger) -> NDArray[np.int8]:
        """Write down the choices, count the opening, and hand out the truth [n, C]."""
        ledger.write(self.data_hash, choices)
        return self._items.truth


class Ledger:
    """How often each test part was opened, and with which choices (their hash): one line an opening, never removed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, data_hash: str, choices: dict[str, Any]) -> None:
        """Add one opening."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(canonical_json({"test": data_hash, "choices": hash_of(choices)}) + b"\n")

    def count(self, data_hash: str) -> int:
        """Openings of a test part so far."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return sum(json.loads(line)["test"] == data_hash for line in lines)
