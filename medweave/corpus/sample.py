"""What one pair is: an image, its texts, its findings and the facts about it. A value that is not known is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MODALITIES = (
    "xray",
    "ct",
    "mri",
    "ultrasound",
    "mammography",
    "pathology",
    "cytology",
    "microscopy",
    "fundus",
    "oct",
    "dermoscopy",
    "endoscopy",
    "pet",
    "other",
)
TEXT_KINDS = ("caption", "findings", "impression", "keywords")
NOBODY = {"unknown", "nan", "na", "n/a", "none", "null", "-", "?", "anonymous", "anonymized", "anonymised"}  # patients
LICENCE_CLASSES = ("open", "non-commercial", "share-alike", "no-derivatives", "research", "unknown")


class State(StrEnum):
    """What is known of one finding in one image."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"
    UNKNOWN = "unknown"


STATES = tuple(map(str, State))


@dataclass(frozen=True)
class Text:
    """One text of a sample, in the owner's words. kind: one of TEXT_KINDS."""

    kind: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One pair as a source describes it, without its pixels.

    id: source + "/" + the owner's own name. place: how the source finds the pixels again.
    findings: name -> State; a name that is not a key is unknown (the plan makes owners' names canonical).
    patient: unique in patient_scope, or in the source if that is None. split: the owner's, if the recipe asks for it.
    """

    id: str
    source: str
    place: str
    modality: str
    anatomy: str | None = None
    texts: Sequence[Text] = ()
    findings: Mapping[str, State] = field(default_factory=dict)
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    licence: str | None = None
    licence_class: str = "unknown"
    extra: Mapping[str, Any] = field(default_factory=dict)
    patient_scope: str | None = None


def somebody(patient: object) -> str | None:
    """A patient's name as text; None where it is empty, or a word that stands for nobody."""
    name = str(patient or "").strip()
    return None if not name or name.lower() in NOBODY else name
