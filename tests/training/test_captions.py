from collections import Counter

import pytest

from medweave.corpus.build import build
from medweave.corpus.captions import frames
from medweave.corpus.recipe import CaptionShares
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.training.captions import bank_hash, bank_of, captions_of
from medweave.training.recipe import CaptionsRecipe

OWN = "The owner's words."
FIELDS = {
    "source": "lungs",
    "modality": "xray",
    "anatomy": "chest",
    "texts": [{"kind": "caption", "text": OWN}],
    "findings": {"pneumonia": "present"},
}


def captions(corpus_recipe, **recipe):
    return captions_of(open_corpus(corpus_recipe.path), CaptionsRecipe.model_validate(recipe), seed=3)


def test_the_same_step_and_sample_draw_the_same_text(corpus_recipe):
    one, other = captions(corpus_recipe), captions(corpus_recipe)
    drawn = [one.draw(step, 5, FIELDS) for step in range(30)]
    assert drawn == [other.draw(step, 5, FIELDS) for step in range(30)]
    assert len(set(drawn)) > 5
    assert drawn != [one.draw(step, 6, FIELDS) for step in range(30)]


def test_own_and_bank_texts_keep_their_shares(corpus_recipe):
    drawn = captions(corpus_recipe, sources={"lungs": {"own": 0.25, "bank": 0.75}})
    kinds = Counter(drawn.draw(step, 0, FIELDS).kind for step in range(2000))
    assert set(kinds) == {"own", "bank"}
    assert abs(kinds["own"] / 2000 - 0.25) < 0.04
    assert all((c.text == OWN) == (c.kind == "own") for c in (drawn.draw(s, 0, FIELDS) for s in range(50)))


def test_shares_are_those_that_the_corpus_was_built_with(corpus_recipe):
    assert captions(corpus_recipe).shares["lungs"] == CaptionShares(own=0.25, bank=0.75)


def test_where_nothing_is_known_a_bare_sentence_is_counted_as_other(corpus_recipe):
    caption = captions(corpus_recipe).draw(0, 0, {**FIELDS, "texts": [], "findings": {}})
    assert caption.kind == "other" and caption.text


def test_only_the_first_captions_of_a_finding():
    recipe = CaptionsRecipe(banks=[], most=2)
    bank = bank_of([], recipe)
    generic = list(frames.captions("xray", "chest", "pneumonia"))
    assert list(bank.captions("xray", "chest", "pneumonia")) == generic[:2]
    assert bank_hash(bank) != bank_hash(bank_of([], CaptionsRecipe(banks=[])))


def test_own_banks_of_the_corpus_are_trained_on(corpus_recipe, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("- {modality: xray, anatomy: chest, finding: pneumonia, captions: [Pneumonia in our words.]}\n")
    recipe = corpus_recipe.model_copy(update={"path": tmp_path / "corpus", "banks": [own]})
    build(recipe)
    drawn = captions(recipe, sources={"lungs": {"own": 0, "bank": 1}})
    assert {drawn.draw(step, 5, FIELDS)[:2] for step in range(20)} == {("Pneumonia in our words.", "bank")}
    assert bank_hash(drawn.bank) != bank_hash(captions(corpus_recipe).bank)


def test_an_unknown_source_is_named(corpus_recipe):
    with pytest.raises(RequestError, match="did you mean lungs"):
        captions(corpus_recipe, sources={"lung": CaptionShares()})
