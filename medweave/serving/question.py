"""What is asked of images: where they are from, the candidates with their prompts, and the calibration of answers.

What is not said is taken from the places a model was trained on: {modality, anatomy, findings: name -> its prompts}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medweave.corpus import vocabulary
from medweave.corpus.captions.bank import Bank, shipped
from medweave.corpus.sample import MODALITIES
from medweave.corpus.store import corpus_at
from medweave.corpus.vocabulary import Vocabulary
from medweave.errors import RequestError, unknown_name
from medweave.serving.calibration import Calibration, calibration_of

if TYPE_CHECKING:
    from medweave.models.load import Encoder

Prompts = dict[str, list[str]]
Place = tuple[str, str | None]


@dataclass(frozen=True)
class Question:
    """Candidates with their prompts. place: modality and anatomy, None where texts of the user's own were enough."""

    prompts: Prompts
    place: Place | None = None
    calibration: Calibration | None = None

    @property
    def certainty(self) -> str:
        """Whether probabilities are calibrated, and on what, in a few words."""
        if self.calibration is None:
            return "not calibrated: no evaluation has fitted a temperature for these candidates"
        return f"calibrated on {self.calibration.images} validation images of {', '.join(self.calibration.sources)}"


def question(
    encoder: Encoder,
    modality: str | None = None,
    anatomy: str | None = None,
    findings: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Question:
    """What is asked of a model: the findings named and NAME=TEXT classes; all that it was trained on if none is.

    Names and prompts are those of its corpus where that lies on this machine, else the shipped ones.
    Raises RequestError for a name that model, banks and vocabulary do not know, and for a place that stays open.
    """
    own = own_prompts(texts)
    if own and not findings:
        return Question(own)
    places = encoder.facts.get("places") or []
    path = str((encoder.facts.get("trained_on") or {}).get("path") or "")
    corpus = None if "://" in path else corpus_at(path)
    bank = Bank.load([*shipped(), *(corpus.banks() if corpus else ())])
    names = corpus.vocabulary() if corpus else vocabulary.load()
    place = place_of([(p["modality"], p["anatomy"]) for p in places], bank, modality, anatomy, names)
    trained: Prompts = next((p["findings"] for p in places if (p["modality"], p["anatomy"]) == place), {})
    prompts = prompts_for(bank, *place, findings, trained, names)
    return Question(prompts | own, place, None if own else calibration_of(encoder, *place))


def own_prompts(texts: Sequence[str]) -> Prompts:
    """NAME=TEXT, each a prompt of a class; a name that comes again gets one more. Raises RequestError."""
    prompts: Prompts = {}
    for text in texts:
        name, _, prompt = (part.strip() for part in text.partition("="))
        if not name or not prompt:
            raise RequestError(f"{text!r} is no class of your own", todo='write it as "NAME=TEXT"')
        prompts.setdefault(name, []).append(prompt)
    return prompts


def prompts_for(
    bank: Bank,
    modality: str,
    anatomy: str | None,
    findings: Sequence[str] = (),
    trained: Mapping[str, Sequence[str]] | None = None,
    names: Vocabulary | None = None,
) -> Prompts:
    """The prompts of the named findings, or of all that were trained on, or else of all that the bank knows here.

    trained: findings that the model was trained on in this place, with their prompts. names: None for the shipped.
    Raises RequestError for a name that neither these nor the bank nor the vocabulary knows, with the nearest names.
    """
    trained = trained or {}
    wanted = [_known(name, bank, modality, anatomy, trained, names or vocabulary.load()) for name in findings]
    wanted = wanted or list(trained) or bank.findings(modality, anatomy)
    if not wanted:
        raise RequestError(
            f"no finding is known for {_shown((modality, anatomy))}", todo=f"known: {_listed(bank.places())}"
        )
    return {name: list(trained.get(name) or bank.all_prompts(modality, anatomy, name)) for name in wanted}


def place_of(
    trained: Sequence[Place], bank: Bank, modality: str | None, anatomy: str | None, names: Vocabulary | None = None
) -> Place:
    """The place that is meant: as named, completed by the only place the model was trained on that fits.

    Raises RequestError for a name that is not known, and when none or several places fit.
    """
    if modality is not None and modality not in MODALITIES:
        raise unknown_name("modality", modality, MODALITIES)
    anatomy = anatomy and _anatomy(trained, bank, modality, anatomy, names or vocabulary.load())
    fits = [(m, a) for m, a in trained if modality in (None, m) and anatomy in (None, a)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise RequestError(
            "the model was trained on several places", todo=f"give --modality, --anatomy: {_listed(fits)}"
        )
    if modality is None:
        raise RequestError("what kind of images are these?", todo=f"give --modality: {', '.join(MODALITIES)}")
    return modality, anatomy


def _anatomy(trained: Sequence[Place], bank: Bank, modality: str | None, anatomy: str, names: Vocabulary) -> str:
    """An anatomy in the spelling of those who know it."""
    places = [*(place for entry in names for place in entry.places), *bank.places(), *trained]
    known = {a.casefold(): a for m, a in places if a is not None and modality in (None, m)}
    if anatomy.casefold() not in known:
        raise unknown_name("anatomy", anatomy, known.values(), where=modality)
    return known[anatomy.casefold()]


def _known(
    name: str, bank: Bank, modality: str, anatomy: str | None, trained: Mapping[str, Any], names: Vocabulary
) -> str:
    """A finding by its canonical name."""
    spelt = {known.casefold(): known for known in (*bank.findings(modality, anatomy), *trained)}
    found = spelt.get(name.casefold()) or names.canonical(name, modality, anatomy)
    if found is None:
        near = [*spelt.values(), *names.nearest(name, modality, anatomy)]
        raise unknown_name("finding", name, near, where=_shown((modality, anatomy)))
    return found


def _shown(place: Place) -> str:
    return "/".join(part for part in place if part)


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(map(_shown, places))
