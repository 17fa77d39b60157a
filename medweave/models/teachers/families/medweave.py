"""Models of our own: a run, or the model folder of one."""

from __future__ import annotations

from pathlib import Path

from medweave.models.public import open_whole
from medweave.models.teachers.catalogue import Card
from medweave.models.two_towers import DualModel


def open_teacher(card: Card, folder: Path) -> DualModel:
    """The model of a run folder or model folder."""
    return open_whole(str(folder))
