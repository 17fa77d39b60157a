from collections import Counter

import pytest

from medweave.corpus.sample import MODALITIES
from medweave.corpus.vocabulary import Entry, Vocabulary, load, plain
from medweave.errors import RequestError

SMALL = Vocabulary(
    [
        Entry(name="normal", synonyms=("no finding",), modality=("xray",), anatomy=("chest",)),
        Entry(name="pneumonia", modality=("xray", "ct"), anatomy=("chest",)),
        Entry(name="viral pneumonia", parent="pneumonia", modality=("xray",), anatomy=("chest",)),
        Entry(name="fracture", modality=("xray",)),
        Entry(name="rib fracture", synonyms=("fracture",), modality=("xray",), anatomy=("chest",)),
    ]
)


def test_names_and_synonyms_whatever_their_spelling():
    assert SMALL.canonical("No_Finding", "xray", "chest") == "normal"
    assert SMALL.canonical("  PNEUMONIA ", "ct", "chest") == "pneumonia"
    assert SMALL.canonical("pneumonia", "mri", "chest") is None
    assert SMALL.canonical("pneumonia", "xray", "knee") is None


def test_the_entry_of_this_anatomy_comes_before_the_one_for_any():
    assert SMALL.canonical("fracture", "xray", "chest") == "rib fracture"
    assert SMALL.canonical("fracture", "xray", "knee") == "fracture"


def test_without_an_anatomy_a_label_must_have_one_meaning():
    assert SMALL.canonical("no finding", "xray", None) == "normal"
    assert SMALL.canonical("fracture", "xray", None) is None


def test_ancestors_and_nearest():
    assert SMALL.ancestors("viral pneumonia", "xray", "chest") == ["pneumonia"]
    assert SMALL.nearest("pneumonai", "xray", "chest")[0] == "pneumonia"
    assert SMALL.nearest("no findings", "xray", "chest")[0] == "normal"


def test_the_shipped_vocabulary_is_sound():
    words, names = Counter(), set()
    for entry in load():
        for modality in entry.modality:
            assert modality in MODALITIES
            for anatomy in entry.anatomy or (None,):
                words.update((modality, anatomy, word) for word in {plain(entry.name), *map(plain, entry.synonyms)})
                names.add((modality, anatomy, entry.name))
    assert [word for word, count in words.items() if count > 1] == []
    for entry in load():
        places = [(m, a) for m in entry.modality for a in entry.anatomy or (None,)]
        assert entry.parent is None or all((*place, entry.parent) in names for place in places)
        for modality, anatomy in places:
            assert entry.name not in load().ancestors(entry.name, modality, anatomy)


def test_a_wrong_file_is_one_clear_error(tmp_path):
    (tmp_path / "findings.yaml").write_text("- {nam: normal, modality: xray}\n")
    with pytest.raises(RequestError, match=r"did you mean name"):
        load(tmp_path / "findings.yaml")
