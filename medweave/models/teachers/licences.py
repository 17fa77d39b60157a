"""What a student inherits from its teachers' licences. A pure function of cards; imports no torch.

A teacher stops a distillation unless the recipe accepts it by name (`train.teachers.accept: [NAME]`) when its licence
is unknown, forbids commerce or derivatives or anything but research, or binds models that are trained on its outputs.
A run on the student's own corpus is bound by its data, which were accepted when that was built: no word more for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medweave.errors import RequestError, unknown_name
from medweave.models.teachers.catalogue import UNKNOWN, Card, LicenceClass, Maybe, words

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
_WHOLE = "Licence class "
MEANING = {
    "open": "data and teachers allow any use, with attribution where asked",
    "share-alike": "a licence of its data or teachers asks to share what is made from it on the same terms",
    "non-commercial": "a licence of its data or teachers forbids commercial use",
    "research": "a licence of its data or teachers allows research only",
    "no-derivatives": "a licence of its data or teachers allows no adapted copies",
    "unknown": "the terms of some of its data or teachers are not known",
}


@dataclass(frozen=True)
class Terms:
    """What counts here of a teacher. Fields as in its card. same_data: it was trained on the student's own corpus."""

    name: str
    title: str
    licence: Maybe[str]
    licence_class: LicenceClass
    reaches_models_trained_on_outputs: Maybe[bool]
    same_data: bool = False


@dataclass(frozen=True)
class Inherited:
    """What a model card must state. sentences: one on the whole, then one a teacher.

    binds_students: whether some teacher's terms reach models that learn from this student, or may do so.
    """

    licence_class: LicenceClass
    binds_students: bool
    sentences: tuple[str, ...]


def terms_of(card: Card, name: str) -> Terms:
    """The terms of a card, for a teacher that a recipe calls by this name."""
    return Terms(name, card.title, card.licence, card.licence_class, card.reaches_models_trained_on_outputs)


def inherited(
    teachers: Sequence[Terms], accepted: Collection[str] = (), own: Collection[LicenceClass] = ()
) -> Inherited:
    """The licence class of a student, the strictest of its teachers' and its data's, and the sentences of its card.

    own: classes of the data that it is trained on, which were accepted before. Raises RequestError naming the teachers
    that must be accepted, or an accepted name that is no teacher's.
    """
    names = [one.name for one in teachers]
    for name in accepted:
        if name not in names:
            raise unknown_name("teacher of this recipe", name, names, where="train.teachers.accept")
    doubtful = [one for one in teachers if objections(one, own)]
    refused = [f"{one.name}: {', '.join(objections(one, own))}" for one in doubtful if one.name not in accepted]
    if refused:
        names = sorted({*accepted, *(one.name for one in doubtful)})
        raise RequestError(
            f"licences stop this distillation ({'; '.join(refused)})",
            todo=f"if you may use them so, write accept: [{', '.join(names)}] under train.teachers",
        )
    classes: list[LicenceClass] = [*own, *(one.licence_class for one in teachers)]
    strictest: LicenceClass = max(classes, key=ORDER.index, default="open")
    sentences = (_sentence(one, own) for one in teachers)
    binds = any(one.reaches_models_trained_on_outputs is not False for one in teachers)
    return Inherited(strictest, binds, (_whole(strictest), *sentences))


def continued(found: Inherited, start: Mapping[str, Any]) -> Inherited:
    """What a student inherits that goes on from another model. start: facts of that model, as its card states them."""
    earlier: LicenceClass = start.get("licence_class", "unknown")
    strictest: LicenceClass = max((found.licence_class, earlier), key=ORDER.index)
    whole, *teachers = found.sentences
    if strictest != found.licence_class:
        whole = _whole(strictest)
    begun = f"Goes on from {start.get('name') or 'a model without a name'} (class {earlier})."
    before = [sentence for sentence in start.get("inherits", ()) if not sentence.startswith(_WHOLE)]
    binds = found.binds_students or start.get("binds_students", True) is not False
    return Inherited(strictest, binds, (whole, *teachers, begun, *before))


def objections(terms: Terms, own: Collection[LicenceClass] = ()) -> list[str]:
    """What in a teacher's terms stops a distillation; nothing for one that anybody may learn from.

    own: classes of the student's data.
    """
    found = []
    if terms.licence_class not in (*HARMLESS, *(own if terms.same_data else ())):
        known = f"its licence ({words(terms.licence)}) is {terms.licence_class}"
        found.append("its licence is not known" if terms.licence_class == "unknown" else known)
    if terms.reaches_models_trained_on_outputs is True:
        found.append("its terms bind models trained on its outputs")
    elif terms.reaches_models_trained_on_outputs is UNKNOWN:
        found.append("whether its terms bind models trained on its outputs is not known")
    return found


def _whole(strictest: LicenceClass) -> str:
    return f"{_WHOLE}{strictest}: {MEANING[strictest]}."


def _sentence(one: Terms, own: Collection[LicenceClass]) -> str:
    why = "; ".join(objections(one, own))
    terms = f"licence {words(one.licence)}, class {one.licence_class}"
    return f"Learnt from {one.title} ({one.name}; {terms})" + (f": {why}; accepted by the recipe." if why else ".")
