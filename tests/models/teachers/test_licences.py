"""What a student inherits, and what stops it."""

from dataclasses import replace

import pytest

from medweave.errors import RequestError
from medweave.models.teachers.catalogue import UNKNOWN, card
from medweave.models.teachers.licences import continued, inherited, objections, terms_of


def inherits(cards, *args, **options):
    return inherited([terms_of(card, card.name) for card in cards], *args, **options)


def test_open_teachers_need_no_word():
    found = inherits([card("biomedclip"), card("pubmedclip")])
    assert found.licence_class == "open"
    assert found.sentences == (
        "Licence class open: data and teachers allow any use, with attribution where asked.",
        "Learnt from BiomedCLIP (biomedclip; licence MIT, class open).",
        "Learnt from PubMedCLIP (pubmedclip; licence MIT, class open).",
    )
    assert inherits([]).licence_class == "open"


def test_teachers_that_stop_are_named_together_with_their_reasons():
    teachers = [card(name) for name in ("biomedclip", "unimed-clip-b16", "conch", "plip")]
    with pytest.raises(RequestError) as error:
        inherits(teachers, accepted=["plip"])
    said = str(error.value)
    assert "unimed-clip-b16: its licence (CC BY-NC 4.0) is non-commercial" in said
    assert "conch: its licence (CC BY-NC-ND) is no-derivatives, its terms bind models trained on its outputs" in said
    assert "accept: [conch, plip, unimed-clip-b16] under train.teachers" in said
    assert "plip: " not in said and "\n" not in said


def test_what_was_accepted_is_stated():
    teachers = [card(name) for name in ("biomedclip", "unimed-clip-b16", "echo-clip")]
    found = inherits(teachers, accepted=["unimed-clip-b16", "echo-clip"])
    assert found.licence_class == "research"
    assert "allows research only" in found.sentences[0]
    assert found.sentences[2].startswith("Learnt from UniMed-CLIP B/16 (unimed-clip-b16; licence CC BY-NC 4.0, class")
    assert found.sentences[2].endswith("accepted by the recipe.")
    assert inherits([*teachers, card("plip")], [t.name for t in teachers[1:]] + ["plip"]).licence_class == "unknown"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"licence_class": "share-alike"}, []),
        ({"licence_class": "research"}, ["its licence (MIT) is research"]),
        ({"licence_class": "unknown"}, ["its licence is not known"]),
        ({"reaches_models_trained_on_outputs": True}, ["its terms bind models trained on its outputs"]),
        (
            {"reaches_models_trained_on_outputs": "unknown"},
            ["whether its terms bind models trained on its outputs is not known"],
        ),
    ],
)
def test_each_reason(change, said, card_of):
    assert objections(terms_of(card_of(**change), "x")) == said


def test_share_alike_goes_on_without_a_word_and_is_inherited(card_of):
    found = inherits([card_of(licence_class="share-alike"), card("biomedclip")])
    assert found.licence_class == "share-alike" and "same terms" in found.sentences[0]


@pytest.mark.parametrize("kind", ["non-commercial", "no-derivatives", "unknown"])
def test_a_run_on_the_same_data_is_bound_by_these_and_a_stranger_by_its_own_terms(card_of, kind):
    stranger = terms_of(card_of(licence_class=kind), "x")
    run = replace(stranger, same_data=True)
    assert objections(stranger, own=[kind]) and not objections(run, own=[kind]) and objections(run)
    found = inherited([run], own=["research", kind])
    assert "accepted by the recipe" not in found.sentences[1]
    with pytest.raises(RequestError, match=r"accept: \[x\]"):
        inherited([stranger], own=[kind])
    bound = replace(run, reaches_models_trained_on_outputs=UNKNOWN)
    assert objections(bound, own=[kind])


def test_what_a_model_goes_on_from_stays_on_its_card():
    start = {
        "name": "first",
        "licence_class": "non-commercial",
        "binds_students": False,
        "inherits": ["Licence class non-commercial: no.", "Learnt from A (a; licence CC BY-NC, class non-commercial)."],
    }
    found = continued(inherited([]), start)
    assert found.licence_class == "non-commercial" and not found.binds_students
    assert (
        found.sentences[0] == "Licence class non-commercial: a licence of its data or teachers forbids commercial use."
    )
    assert found.sentences[1:] == ("Goes on from first (class non-commercial).", start["inherits"][1])
    assert continued(inherits([card("biomedclip")]), start | {"licence_class": "open"}).licence_class == "open"
    silent = continued(inherited([]), {})
    assert silent.licence_class == "unknown" and silent.binds_students


def test_an_accepted_name_that_is_no_teachers_is_a_mistake():
    with pytest.raises(RequestError, match=r"no teacher of this recipe is called 'plipp'.*did you mean plip"):
        inherits([card("plip")], accepted=["plipp"])
