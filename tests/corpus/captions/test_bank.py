"""Banks of captions: loading, looking up, overriding, and the draw of one caption for an image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medweave.corpus.captions import frames
from medweave.corpus.captions.bank import PROMPT_KINDS, Bank, is_absence, joined, shipped
from medweave.corpus.captions.check import same_words
from medweave.corpus.sample import State
from medweave.errors import RequestError
from medweave.seeds import generator

PRESENT, ABSENT, UNKNOWN = State.PRESENT, State.ABSENT, State.UNKNOWN

PLAIN = """
- modality: xray
  anatomy: chest
  finding: pneumonia
  captions: [One pneumonia here., Pneumonia is seen.]
- modality: xray
  anatomy: [hand, wrist]
  finding: fracture
  captions: [A broken bone.]
- modality: mri
  anatomy: null
  finding: artefact
  captions: [An artefact.]
"""


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank.load()


def written(folder: Path, text: str, name: str = "own.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_an_entry_serves_each_of_its_anatomies_and_null_serves_any(tmp_path: Path) -> None:
    own = Bank.load([written(tmp_path, PLAIN)])
    assert own.captions("xray", "wrist", "fracture") == own.captions("xray", "Hand", "Fracture") == ("A broken bone.",)
    assert own.captions("mri", "spine", "artefact") == ("An artefact.",)
    assert own.places() == [("mri", None), ("xray", "chest"), ("xray", "hand"), ("xray", "wrist")]
    assert own.findings("mri", "spine") == ["artefact"]


def test_unknown_anatomy_finds_the_only_entry_of_a_name(bank: Bank) -> None:
    assert bank.entry("mri", None, "glioma") is bank.entry("mri", "brain", "glioma")
    assert bank.entry("ultrasound", None, "pneumonia") is None
    assert bank.entry("pathology", None, "malignant breast tumor") is not None
    assert bank.entry("ct", None, "normal kidney") is not None
    assert bank.entry("mri", "knee", "glioma") is None


def test_a_later_file_replaces_an_entry_and_adds_others(tmp_path: Path, bank: Bank) -> None:
    both = Bank.load([*shipped(), written(tmp_path, PLAIN)])
    assert both.captions("xray", "chest", "pneumonia") == ("One pneumonia here.", "Pneumonia is seen.")
    assert both.captions("xray", "hand", "fracture") == ("A broken bone.",)
    assert both.captions("mri", "brain", "glioma") == bank.captions("mri", "brain", "glioma")


def test_every_mistake_of_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    text = PLAIN.replace("modality: mri", "modality: mrt").replace("captions: [A broken", "captoins: [A broken")
    with pytest.raises(RequestError) as error:
        Bank.load([written(tmp_path, text)])
    said = str(error.value)
    assert "bank.1.captoins" in said and "did you mean captions" in said
    assert "bank.1.captions: must be given" in said
    assert "bank.2.modality" in said and "own.yaml" in said


@pytest.mark.parametrize("text, what", [("bank: {}", "a list"), (PLAIN + PLAIN, "two entries"), ("- [", "not a YAML")])
def test_a_file_that_is_no_bank_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        Bank.load([written(tmp_path, text)])


def test_every_triplet_that_comes_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        Bank.load([written(tmp_path, PLAIN + PLAIN)])
    named = ["xray, chest, pneumonia", "xray, hand, fracture", "xray, wrist, fracture", "mri, None, artefact"]
    assert [line.strip().split(":")[0] for line in str(error.value).splitlines()[1:]] == [
        f"two entries for {triplet}" for triplet in named
    ]


def test_a_bank_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    assert Bank.load([written(tmp_path, PLAIN)]).captions("xray", "hand", "fracture") == ("A broken bone.",)
    changed = PLAIN.replace("A broken bone.", "A bone broken.")
    assert Bank.load([written(tmp_path, changed)]).captions("xray", "hand", "fracture") == ("A bone broken.",)


def test_a_finding_without_a_bank_gets_generic_sentences_and_is_reported(bank: Bank) -> None:
    lost = ("pet", "brain", "tracer uptake")
    assert bank.missing([lost, ("mri", "brain", "glioma"), ("other", None, "x")]) == [("other", None, "x"), lost]
    texts = [*bank.captions(*lost), *bank.all_prompts(*lost)]
    assert all("tracer uptake" in text and "PET scan of the brain" in text for text in texts)
    assert len({same_words(text) for text in texts}) == len(texts)


def test_prompts_of_an_unknown_set_are_refused(bank: Bank) -> None:
    with pytest.raises(RequestError, match="report"):
        bank.prompts("mri", "brain", "glioma", "reports")


def test_all_prompts_are_the_three_sets(bank: Bank) -> None:
    sets = [bank.prompts("fundus", "eye", "drusen", kind) for kind in PROMPT_KINDS]
    assert PROMPT_KINDS == ("plain", "report", "signs")
    assert bank.all_prompts("fundus", "eye", "drusen") == [text for texts in sets for text in texts]


def test_candidates_of_a_place_hold_no_body_region(bank: Bank) -> None:
    chest = bank.findings("xray", "chest")
    assert {"normal", "pneumonia", "COVID-19 pneumonia"} <= set(chest)
    assert "chest radiograph" not in chest and "glioma" not in chest


def test_one_present_finding_draws_each_of_its_captions_alike(bank: Bank) -> None:
    findings = {"glioma": PRESENT, "meningioma": ABSENT, "hydrocephalus": UNKNOWN}
    captions = bank.captions("mri", "brain", "glioma")
    counts = Counter(bank.draw("mri", "brain", findings, generator(7, i)) for i in range(200 * len(captions)))
    assert set(counts) == set(captions)
    assert min(counts.values()) > 140 and max(counts.values()) < 260


def test_several_present_findings_are_all_told_in_both_orders(bank: Bank) -> None:
    names = ("pneumonia", "pleural effusion")
    pneumonia, effusion = (bank.captions("xray", "chest", name) for name in names)
    one_first = {joined([a, b]) for a in pneumonia for b in effusion}
    other_first = {joined([b, a]) for a in pneumonia for b in effusion}
    findings = dict.fromkeys(names, PRESENT)
    drawn = {bank.draw("xray", "chest", findings, generator(1, i)) for i in range(40)}
    assert drawn <= one_first | other_first
    assert drawn & one_first and drawn & other_first


def test_what_is_only_absent_is_denied_without_double_negation(bank: Bank) -> None:
    findings = {"glioma": ABSENT, "meningioma": ABSENT, "no tumor": ABSENT, "pituitary tumor": UNKNOWN}
    for i in range(30):
        text = bank.draw("mri", "brain", findings, generator(3, i))
        assert text is not None and "pituitary" not in text and "no tumor" not in text
        assert "glioma" in text or "meningioma" in text
        assert any(word in text.lower() for word in ("without", "no ", "negative"))


def test_nothing_known_draws_nothing(bank: Bank) -> None:
    assert bank.draw("mri", "brain", {"glioma": UNKNOWN, "meningioma": State.UNCERTAIN}, generator(0)) is None
    assert bank.draw("xray", "chest", {"chest radiograph": ABSENT, "normal": ABSENT}, generator(0)) is None
    assert bank.draw("mri", "brain", {}, generator(0)) is None


STATES = st.dictionaries(st.sampled_from(["glioma", "hydrocephalus", "meningioma", "strange"]), st.sampled_from(State))


@given(findings=STATES, seed=st.integers(0, 99))
def test_the_draw_depends_on_findings_and_generator_alone(findings: dict[str, State], seed: int) -> None:
    bank, again = Bank.load(), dict(reversed(findings.items()))
    assert bank.draw("mri", "brain", findings, generator(seed)) == bank.draw("mri", "brain", again, generator(seed))


def test_captions_are_joined_as_sentences() -> None:
    assert joined(["a cyst of the kidney", "Stone."]) == "A cyst of the kidney. Stone."


@pytest.mark.parametrize(
    "name, absence", [("normal", True), ("no tumor", True), ("normal kidney", True), ("nodule", False), ("Nova", False)]
)
def test_names_of_absences_are_told_apart(name: str, absence: bool) -> None:
    assert is_absence(name) is absence


def test_generic_sentences_use_the_right_article() -> None:
    assert "an X-ray of the hand of fracture" in frames.prompts("xray", "hand", "fracture", "plain")
    assert "a CT scan of clot" in frames.prompts("ct", None, "clot", "plain")
    assert "normal appearances" in frames.captions("pet", None, "normal")[0]
