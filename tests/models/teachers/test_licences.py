"""What a student inherits, and what stops it."""

import pytest

from medweave.errors import RequestError
from medweave.models.teachers.catalogue import card
from medweave.models.teachers.licences import inherited, objections


def test_open_teachers_need_no_word():
    found = inherited([card("biomedclip"), card("pubmedclip")])
    assert found.licence_class == "open"
    assert found.sentences == (
        "Licence class open: data and teachers allow any use, with attribution where asked.",
        "Learnt from BiomedCLIP (biomedclip; licence MIT, class open).",
        "Learnt from PubMedCLIP (pubmedclip; licence MIT, class open).",
    )
    assert inherited([]).licence_class == "open"


def test_teachers_that_stop_are_named_together_with_their_reasons():
    teachers = [card(name) for name in ("biomedclip", "unimed-clip-b16", "conch", "plip")]
    with pytest.raises(RequestError) as error:
        inherited(teachers, accepted=["plip"])
    said = str(error.value)
    assert "unimed-clip-b16: its licence (CC BY-NC 4.0) is non-commercial" in said
    assert "conch: its licence (CC BY-NC-ND) is no-derivatives, its terms bind models trained on its outputs" in said
    assert "accept: [conch, plip, unimed-clip-b16] under train.teachers" in said
    assert "plip: " not in said and "\n" not in said


def test_what_was_accepted_is_stated():
    teachers = [card(name) for name in ("biomedclip", "unimed-clip-b16", "echo-clip")]
    found = inherited(teachers, accepted=["unimed-clip-b16", "echo-clip"])
    assert found.licence_class == "research"
    assert "allows research only" in found.sentences[0]
    assert found.sentences[2].startswith("Learnt from UniMed-CLIP B/16 (unimed-clip-b16; licence CC BY-NC 4.0, class")
    assert found.sentences[2].endswith("accepted by the recipe.")
    assert inherited([*teachers, card("plip")], [t.name for t in teachers[1:]] + ["plip"]).licence_class == "unknown"


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
    assert objections(card_of(**change)) == said


def test_share_alike_goes_on_without_a_word_and_is_inherited(card_of):
    found = inherited([card_of(licence_class="share-alike"), card("biomedclip")])
    assert found.licence_class == "share-alike" and "same terms" in found.sentences[0]


def test_what_binds_the_data_already_needs_no_word_more(card_of):
    teacher = card_of(licence_class="non-commercial")
    assert objections(teacher) and not objections(teacher, own=["non-commercial"])
    found = inherited([teacher], own=["research", "non-commercial"])
    assert found.licence_class == "research" and "accepted by the recipe" not in found.sentences[1]
    assert objections(card_of(licence_class="unknown", reaches_models_trained_on_outputs="unknown"), own=["unknown"])


def test_an_accepted_name_that_is_no_teachers_is_a_mistake():
    with pytest.raises(RequestError, match=r"no teacher of this recipe is called 'plipp'.*did you mean plip"):
        inherited([card("plip")], accepted=["plipp"])
