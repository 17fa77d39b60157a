"""Owners' words -> ours: what everybody calls a modality, a split or a state, and what a recipe adds."""

from __future__ import annotations

from collections.abc import Mapping

from medweave.corpus.sample import State
from medweave.corpus.vocabulary import plain

MODALITY_WORDS = {
    "xray": "x-ray, x ray, xr, radiograph, radiography, plain film, cr, dx, rx",
    "ct": "computed tomography, cat scan, ct scan",
    "mri": "mr, magnetic resonance, magnetic resonance imaging, mr imaging",
    "ultrasound": "us, sonography, echography, echocardiography",
    "mammography": "mg, mammogram",
    "pathology": "histopathology, histology, h&e, sm, whole slide, whole-slide image",
    "cytology": "cytopathology, pap smear",
    "microscopy": "light microscopy, gm",
    "fundus": "fundus photography, fundus photograph, colour fundus photography, color fundus photography, cfp, op",
    "oct": "optical coherence tomography, opt",
    "dermoscopy": "dermatoscopy, dermatoscopic",
    "endoscopy": "es, colonoscopy, gastroscopy",
    "pet": "pt, positron emission tomography",
    "other": "unknown",
}
SPLIT_WORDS = {
    "train": "training",
    "validation": "val, valid, dev, development",
    "test": "testing, holdout, held-out",
}
STATE_WORDS = {
    State.PRESENT: "1, 1.0, true, yes, t, y",
    State.ABSENT: "0, 0.0, false, no, f, n",
    State.UNCERTAIN: "-1, -1.0, uncertain, u",
    State.UNKNOWN: "nan",
}
STATES = {word: state for state, words in STATE_WORDS.items() for word in words.split(", ")} | {"": State.UNKNOWN}


def state_of(cell: object) -> State | None:
    """What a cell in the column of a label says of it; None for a word that says nothing known."""
    return STATES.get("" if cell is None else str(cell).strip().lower())


def _by_word(table: Mapping[str, str]) -> dict[str, str | None]:
    return {word: name for name, words in table.items() for word in (name, *words.split(", "))}


BUILT_IN = {"modality": _by_word(MODALITY_WORDS), "split": _by_word(SPLIT_WORDS)}


class Words:
    """The maps of values of one recipe, above the built-in ones. Case and blanks do not matter."""

    def __init__(self, values: Mapping[str, Mapping[str, str | None]]) -> None:
        self.maps = {name: dict(words) for name, words in BUILT_IN.items()}
        for name, words in values.items():
            self.maps.setdefault(name, {}).update({plain(word): ours for word, ours in words.items()})

    def ours(self, field: str, own: str) -> str | None:
        """The owner's word for a field in our words: itself where no map has it, None where it means nothing."""
        known = self.maps.get(field)
        return (known.get(plain(own), own) if known else own) or None
