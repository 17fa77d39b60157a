"""What is asked: the model's own places and findings, names that are known, and classes in one's own words."""

import pytest

from medweave.corpus.build import build
from medweave.corpus.captions.bank import Bank
from medweave.corpus.recipe import CorpusRecipe
from medweave.errors import RequestError
from medweave.serving.question import own_prompts, place_of, prompts_for, question

CHEST = {"modality": "xray", "anatomy": "chest", "findings": {"pneumonia": ["pus"], "flurbosis": ["flurbs"]}}
BRAIN = {"modality": "mri", "anatomy": "Brain", "findings": {"glioma": ["a glioma"]}}
TRAINED = [("xray", "chest"), ("xray", "knee"), ("mri", "Brain")]
FITTED = {"modality": "xray", "anatomy": "chest", "source": "clinic", "temperature": 1.5, "images": 30}


def test_a_run_s_own_place_and_findings_are_asked_when_nothing_is_said(colours):
    asked = question(colours(places=[CHEST]))
    assert asked.place == ("xray", "chest") and asked.prompts == CHEST["findings"]
    asked = question(colours(places=[CHEST, BRAIN]), anatomy="brain")
    assert asked.place == ("mri", "Brain") and asked.prompts == BRAIN["findings"]
    assert list(question(colours(places=[CHEST]), findings=["Flurbosis"]).prompts) == ["flurbosis"]


def test_a_place_that_stays_open_is_asked_for():
    bank = Bank.load()
    assert place_of(TRAINED, bank, "mri", None) == ("mri", "Brain")
    assert place_of(TRAINED, bank, None, "KNEE") == ("xray", "knee")
    assert place_of(TRAINED, bank, "ct", None) == ("ct", None)
    with pytest.raises(RequestError, match=r"several places.*xray/chest, xray/knee$"):
        place_of(TRAINED, bank, "xray", None)
    with pytest.raises(RequestError, match="give --modality"):
        place_of([], bank, None, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"modality": "xrya"}, "no modality is called 'xrya'.*xray"),
        ({"modality": "xray", "anatomy": "chets"}, "no anatomy is called 'chets'.*chest"),
        ({"findings": ["pnuemonia"]}, "no finding is called 'pnuemonia'.*pneumonia"),
        ({"findings": ["flurbosi"]}, "flurbosis"),
        ({"texts": ["flurbs"]}, "NAME=TEXT"),
    ],
)
def test_a_misspelt_name_is_one_line_with_the_nearest(colours, words, said):
    with pytest.raises(RequestError, match=said) as error:
        question(colours(places=[CHEST]), **words)
    assert "\n" not in str(error.value)


def test_bank_and_vocabulary_name_findings_too():
    bank = Bank.load()
    everything = prompts_for(bank, "dermoscopy", "skin")
    assert {"melanoma", "melanocytic nevus"} <= everything.keys()
    assert all(len(prompts) >= 9 for prompts in everything.values())
    assert list(prompts_for(bank, "dermoscopy", "skin", ["melanoma"])) == ["melanoma"]
    assert list(prompts_for(bank, "xray", "chest", ["No Finding"])) == ["normal"]
    with pytest.raises(RequestError, match="xray"):
        prompts_for(bank, "xray", "tail")


OWN_BANK = """
- modality: xray
  anatomy: chest
  finding: scurvy
  captions: [Scurvy of the chest.]
  prompts: {plain: [a chest with scurvy], report: [Read as scurvy.], signs: [signs of scurvy]}
"""
OWN_NAMES = "- {name: scurvy, modality: xray, anatomy: chest, synonyms: [sailors' lung]}\n"


def test_a_model_knows_the_own_words_of_its_corpus_where_that_is_at_hand(colours, folder, tmp_path):
    (tmp_path / "bank.yaml").write_text(OWN_BANK)
    (tmp_path / "names.yaml").write_text(OWN_NAMES)
    source = {"kind": "folder", "path": str(folder), "modality": "xray", "anatomy": "chest", "licence": "CC0"}
    tree = {"path": tmp_path / "corpus", "sources": [source], "workers": 1}
    tree |= {"banks": [tmp_path / "bank.yaml"], "findings": tmp_path / "names.yaml"}
    corpus = build(CorpusRecipe.model_validate(tree))
    model = colours(places=[CHEST], trained_on={"corpus": corpus.hash, "path": str(corpus.path)})
    asked = question(model, findings=["Sailors' Lung", "pneumonia"])
    assert asked.prompts["scurvy"] == ["a chest with scurvy", "Read as scurvy.", "signs of scurvy"]
    moved = colours(places=[CHEST], trained_on={"corpus": corpus.hash, "path": str(tmp_path / "gone")})
    with pytest.raises(RequestError, match="no finding is called"):
        question(moved, findings=["sailors' lung"])


def test_classes_in_one_s_own_words_need_no_place_and_are_not_calibrated(colours):
    texts = ["red=a red spot", "red = more red", "blue=a = b"]
    assert own_prompts(texts) == {"red": ["a red spot", "more red"], "blue": ["a = b"]}
    model = colours(places=[CHEST], calibration={"weights": "w", "cases": [FITTED]})
    assert question(model, texts=texts).place is None
    both = question(model, findings=["pneumonia"], texts=texts)
    assert list(both.prompts) == ["pneumonia", "red", "blue"] and both.calibration is None
    assert question(model, findings=["pneumonia"]).calibration.temperature == 1.5
