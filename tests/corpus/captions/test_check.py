"""The checks of banks find planted faults; the shipped banks have none and cover all that is needed."""

from __future__ import annotations

from typing import Any

import pytest

from medweave.corpus import vocabulary
from medweave.corpus.captions.bank import Bank, Entry, Prompts
from medweave.corpus.captions.check import check, normalised, same_words
from medweave.corpus.vocabulary import Entry as Name

NAMES = [
    Name(name="normal", synonyms=("no finding", "clear chest"), modality=("xray",), anatomy=("chest",)),
    Name(name="opacity", modality=("xray",), anatomy=("chest",)),
    Name(name="pneumonia", parent="opacity", synonyms=("lung infection",), modality=("xray",), anatomy=("chest",)),
    Name(name="viral pneumonia", parent="pneumonia", modality=("xray",), anatomy=("chest",)),
    Name(name="effusion", synonyms=("pleural fluid",), modality=("xray",), anatomy=("chest",)),
]
PROMPTS = Prompts(
    plain=("pneumonia number one", "pneumonia number two", "pneumonia number three"),
    report=("pneumonia, read as four", "pneumonia, read as five", "pneumonia, read as six"),
    signs=("hepatised lung, seven", "hepatised lung, eight", "hepatised lung, nine"),
)


def entry(*captions: str, **fields: Any) -> Entry:
    """Ten good captions of pneumonia with `captions` in the place of the first ones."""
    good = [f"A chest with pneumonia of kind {letter}." for letter in "abcdefghij"]
    known: dict[str, Any] = {"finding": "pneumonia", "signs": ("hepatised",), "prompts": PROMPTS, **fields}
    return Entry(modality="xray", anatomy="chest", captions=(*captions, *good[len(captions) :]), **known)


def faults(*entries: Entry) -> list[str]:
    return [problem.what for problem in check(Bank(entries), NAMES)]


def test_a_good_entry_has_no_fault() -> None:
    assert faults(entry()) == []


@pytest.mark.parametrize(
    "caption",
    [
        "Pneumonia without any effusion or viral pneumonia.",
        "Pneumonia; no pleural fluid is seen.",
        "Pneumonia, and an effusion is not seen.",
        "An opacity in keeping with pneumonia.",
        "The lung is hepatised on this film.",
        "LUNG INFECTION, chest X-ray.",
    ],
)
def test_true_captions_pass(caption: str) -> None:
    assert faults(entry(caption)) == []


@pytest.mark.parametrize(
    "caption, what",
    [
        ("The chest of a patient.", "names neither"),
        ("There is no pneumonia here.", "denies its own"),
        ("Pneumonia is not seen here.", "denies its own"),
        ("Pneumonia with an effusion.", "claims effusion"),
        ("Pneumonia and several effusions.", "claims effusion"),
        ("No nodule. Pneumonia, pleural fluid.", "claims effusion"),
        ("No nodule but effusion and pneumonia.", "claims effusion"),
        ("A viral pneumonia of the chest.", "claims viral pneumonia"),
        ("Pneumonia, else a clear chest.", "claims normal"),
        ("Pneumonia of the left lung.", "says 'left'"),
        ("Severe pneumonia of the chest.", "says 'severe'"),
        ("Just pneumonia.", "2 words"),
        ("pneumonia " * 31, "31 words"),
        ("Pneumonia number two!", "said twice"),
        ("A chest, with pneumonia of kind J.", "said twice"),
    ],
)
def test_a_planted_fault_is_found(caption: str, what: str) -> None:
    found = faults(entry(caption))
    assert found and all(fault.startswith(what) for fault in found), found


def test_too_few_texts_are_found() -> None:
    few = Prompts(plain=PROMPTS.plain[:2], report=PROMPTS.report, signs=PROMPTS.signs)
    short = Entry(modality="xray", anatomy="chest", finding="pneumonia", captions=("A case of pneumonia.",))
    assert faults(entry(prompts=few, signs=("hepatised",))) == ["fewer than 3 plain prompts"]
    assert faults(short) == ["1 captions, at least 10 are needed", "no prompts"]


def test_a_finding_outside_the_vocabulary_is_found() -> None:
    (fault,) = faults(entry(finding="pneumonitis"))
    assert fault.startswith("not in the findings vocabulary; nearest: pneumonia")
    elsewhere = entry().model_copy(update={"anatomy": "Chest"})
    assert faults(elsewhere) == ["no finding of the vocabulary is seen there; nearest anatomy: chest"]


def test_the_same_text_for_two_findings_is_found() -> None:
    twin = "Pneumonia is shown, viral pneumonia is not."
    other = entry(twin, finding="viral pneumonia", signs=("pneumonia",), prompts=None)
    assert "the same text as for pneumonia" in faults(entry(twin), other)


def test_own_entries_may_be_few_and_are_the_only_ones_checked() -> None:
    said = "Effusion is shown, pneumonia is not."
    shipped = entry(said, "Pneumonia of the left lung.")
    few = Entry(modality="xray", anatomy="chest", finding="effusion", captions=("An effusion of the chest.",))
    assert check(Bank([shipped, few]), NAMES, [few]) == []
    twin = few.model_copy(update={"captions": (said, "There is no effusion.")})
    found = [problem.what for problem in check(Bank([shipped, twin]), NAMES, [twin])]
    assert found == ["the same text as for pneumonia", "denies its own finding"]


def test_an_entry_for_any_anatomy_may_name_what_some_anatomy_has() -> None:
    anywhere = Entry(modality="xray", anatomy=None, finding="effusion", captions=("An effusion is seen.",))
    assert check(Bank([anywhere]), NAMES, [anywhere]) == []
    wrong = anywhere.model_copy(update={"captions": ("An effusion, a pneumonia.",)})
    assert [problem.what for problem in check(Bank([wrong]), NAMES, [wrong])] == ["claims pneumonia"]


def test_a_normal_must_deny_others_and_never_itself() -> None:
    good = ("Clear chest without effusion.", "No finding, no pneumonia.", "A normal chest, pneumonia is absent.")
    captions = [f"Normal chest film {letter}." for letter in "abcdefg"]
    normal = entry(*good, *captions, finding="normal", role="normal", prompts=None)
    assert faults(normal) == ["no prompts"]
    assert "claims effusion" in faults(entry("Normal but for effusion.", finding="normal", role="normal"))


def test_punctuation_ends_clauses_but_makes_no_difference_between_texts() -> None:
    assert normalised("Clear; no X-ray sign. COVID-19!") == "clear . no x ray sign . covid 19"
    assert same_words("Clear: no sign") == same_words("clear, NO sign.")
    assert same_words("Pleuraerguß, groß") != same_words("Pleuraergüsse, groß")


def test_shipped_banks_have_no_fault() -> None:
    assert [str(problem) for problem in check(Bank.load(), vocabulary.load())] == []


def test_shipped_banks_are_rich() -> None:
    for one in Bank.load().entries.values():
        assert len(one.captions) >= 12, one.finding
        assert len({text.split()[0] for text in one.captions}) >= 4, one.finding
        lengths = [len(text.split()) for text in one.captions]
        assert max(lengths) - min(lengths) >= 5, one.finding


LABELS = """
xray chest: normal, pneumonia, COVID-19 pneumonia, other pneumonia, no finding, chest radiograph, pleural effusion
xray chest: cardiomegaly, pneumothorax
xray knee: no knee osteoarthritis (Kellgren-Lawrence grade 0), doubtful knee osteoarthritis (Kellgren-Lawrence grade 1)
xray knee: mild knee osteoarthritis (Kellgren-Lawrence grade 2), severe knee osteoarthritis (Kellgren-Lawrence grade 4)
xray knee: moderate knee osteoarthritis (Kellgren-Lawrence grade 3)
xray hand: hand radiograph
ct chest: COVID-19 pneumonia, no COVID-19 pneumonia, chest CT
ct head: intracranial hemorrhage, no hemorrhage, head CT
ct kidney: normal kidney, kidney cyst, kidney stone, kidney tumor
ct abdomen: abdominal CT, normal, liver lesion, kidney stone, ascites
mri brain: glioma, meningioma, no tumor, pituitary tumor, normal, white matter lesions, hydrocephalus
mri breast: breast MRI
ultrasound breast: benign breast tumor, malignant breast tumor, normal breast, normal, cyst, malignant mass
ultrasound lung: COVID-19 pneumonia, bacterial pneumonia, normal lung, viral pneumonia
mammography breast: benign breast abnormality, malignant breast abnormality
pathology colon: normal, adenocarcinoma, inflammation, necrosis
pathology lung: benign lung tissue, lung adenocarcinoma, lung squamous cell carcinoma
pathology breast: benign breast tumor, malignant breast tumor
pathology bone: no tumor, non-viable (necrotic) osteosarcoma, viable osteosarcoma
cytology cervix: carcinoma in situ, mild squamous dysplasia, moderate squamous dysplasia, severe squamous dysplasia
cytology cervix: normal columnar epithelial cell, normal intermediate squamous cell, normal superficial squamous cell
microscopy blood: eosinophil, lymphocyte, monocyte, neutrophil
microscopy blood: malaria-parasitized red blood cell, uninfected red blood cell
fundus eye: normal, age-related macular degeneration, cataract, diabetic retinopathy, drusen, epiretinal membrane
fundus eye: glaucoma, hypertensive retinopathy, myelinated nerve fibers, normal fundus, pathological myopia
fundus eye: diabetic macular edema, no diabetic retinopathy
fundus eye: non-proliferative diabetic retinopathy, proliferative diabetic retinopathy
oct macula: diabetic macular edema, no diabetic retinopathy
oct macula: non-proliferative diabetic retinopathy, proliferative diabetic retinopathy
dermoscopy skin: actinic keratosis or intraepithelial carcinoma, basal cell carcinoma, benign keratosis
dermoscopy skin: dermatofibroma, melanocytic nevus, melanoma, vascular lesion, seborrhoeic keratosis
endoscopy colon: multiple colorectal polyps, single colorectal polyp, normal, polyp, ulcer
"""


@pytest.mark.parametrize("line", LABELS.strip().splitlines())
def test_labels_of_known_sets_have_written_captions(line: str) -> None:
    place, labels = line.split(": ", 1)
    modality, anatomy = place.split()
    names, bank = vocabulary.load(), Bank.load()
    for label in labels.split(", "):
        finding = names.canonical(label, modality, anatomy)
        assert finding is not None, label
        assert bank.missing([(modality, anatomy, finding)]) == []
