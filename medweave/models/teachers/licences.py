"""What a student inherits from its teachers' licences. A pure function of cards; imports no torch.

A teacher stops a distillation unless the recipe accepts it by name (`accept_teachers: [NAME]`) when its licence is
unknown, forbids commerce or derivatives or anything but research, or binds models that are trained on its outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medweave.errors import RequestError, unknown_name
from medweave.models.teachers.catalogue import UNKNOWN, Card, LicenceClass, words

# From what allows most to what allows least; what is not known may be worse than all of them.
ORDER: tuple[LicenceClass, ...] = (
    "open",
    "share-alike",
    "non-commercial",
    "research",
    "no-derivatives",
    "unknown",
)
HARMLESS = ("open", "share-alike")
MEANING = {
    "open": "its teachers' licences allow any use, with attribution where asked",
    "share-alike": "a teacher's licence asks to share what is made from it on the same terms",
    "non-commercial": "a teacher's licence forbids commercial use",
    "research": "a teacher's licence allows research only",
    "no-derivatives": "a teacher's licence allows no adapted copies",
    "unknown": "the terms of a teacher are not known",
}


@dataclass(frozen=True)
class Inherited:
    """What a model card must state. sentences: one on the whole, then one a teacher."""

    licence_class: LicenceClass
    sentences: tuple[str, ...]


def inherited(cards: Sequence[Card], accepted: Collection[str] = ()) -> Inherited:
    """The licence class of a student, the strictest of its teachers', and the sentences of its card.

    Raises RequestError naming the teachers that must be accepted, or an accepted name that is no teacher's.
    """
    names = [card.name for card in cards]
    for name in accepted:
        if name not in names:
            raise unknown_name("teacher of this recipe", name, names, where="accept_teachers")
    doubtful = [card for card in cards if objections(card)]
    refused = [f"{card.name}: {', '.join(objections(card))}" for card in doubtful if card.name not in accepted]
    if refused:
        raise RequestError(
            f"licences stop this distillation ({'; '.join(refused)})",
            todo=f"if you may use them so, write accept_teachers: [{', '.join(card.name for card in doubtful)}]",
        )
    classes: list[LicenceClass] = [card.licence_class for card in cards]
    strictest: LicenceClass = max(classes, key=ORDER.index, default="open")
    return Inherited(strictest, (f"Licence class {strictest}: {MEANING[strictest]}.", *map(_sentence, cards)))


def objections(card: Card) -> list[str]:
    """What in a teacher's terms stops a distillation; nothing for one that anybody may learn from."""
    found = []
    if card.licence_class == "unknown":
        found.append("its licence is not known")
    elif card.licence_class not in HARMLESS:
        found.append(f"its licence ({words(card.licence)}) is {card.licence_class}")
    if card.reaches_models_trained_on_outputs is True:
        found.append("its terms bind models trained on its outputs")
    elif card.reaches_models_trained_on_outputs is UNKNOWN:
        found.append("whether its terms bind models trained on its outputs is not known")
    return found


def _sentence(card: Card) -> str:
    why = "; ".join(objections(card))
    terms = f"licence {words(card.licence)}, class {card.licence_class}"
    return f"Learnt from {card.title} ({card.name}; {terms})" + (f": {why}; accepted by the recipe." if why else ".")
