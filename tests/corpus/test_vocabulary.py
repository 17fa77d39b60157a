from collections import Counter

import pytest

from medweave.corpus.sample import MODALITIES
from medweave.corpus.vocabulary import Entry, Vocabulary, load, plain, with_own
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


def entry(name, anatomy="chest", **fields):
    return Entry(**{"name": name, "modality": "xray", "anatomy": anatomy, **fields})


def test_own_findings_are_added_and_their_words_win():
    both = Vocabulary(with_own(SMALL, [entry("silicosis", synonyms=["no_finding", "dust lung"], parent="pneumonia")]))
    assert both.canonical("Dust lung", "xray", "chest") == both.canonical("no finding", "xray", "chest") == "silicosis"
    assert both.canonical("normal", "xray", "chest") == "normal"
    assert both.ancestors("silicosis", "xray", "chest") == ["pneumonia"]
    assert both.canonical("silicosis", "ct", "chest") is None
    assert both.canonical("viral pneumonia", "xray", "chest") == "viral pneumonia"
    assert both.nearest("silicosys", "xray", "chest")[0] == "silicosis"
    assert both.nearest("pneumonai", "xray", "chest")[0] == "pneumonia"


def test_an_own_entry_of_a_known_name_keeps_what_it_does_not_say():
    viral = Vocabulary(with_own(SMALL, [entry("viral pneumonia", synonyms=["flu lung"])]))
    assert viral.canonical("flu lung", "xray", "chest") == "viral pneumonia"
    assert viral.ancestors("viral pneumonia", "xray", "chest") == ["pneumonia"]
    alone = Vocabulary(with_own(SMALL, [entry("viral pneumonia", parent=None)]))
    assert alone.ancestors("viral pneumonia", "xray", "chest") == []
    normal = Vocabulary(with_own(SMALL, [entry("normal", synonyms=["all clear"])]))
    assert {normal.canonical(w, "xray", "chest") for w in ("all clear", "no finding", "Normal")} == {"normal"}


def test_a_known_finding_may_get_another_name():
    both = Vocabulary(with_own(SMALL, [entry("lung infection", synonyms=["pneumonia"])]))
    assert both.canonical("pneumonia", "xray", "chest") == "lung infection"
    assert both.ancestors("viral pneumonia", "xray", "chest") == ["lung infection"]
    assert both.canonical("pneumonia", "ct", "chest") == "pneumonia"
    one = Vocabulary(with_own(SMALL, [entry("shadow", synonyms=["pneumonia", "normal"])]))
    assert {one.canonical(w, "xray", "chest") for w in ("pneumonia", "no finding", "shadow")} == {"shadow"}


def test_an_own_finding_of_any_anatomy_wins_everywhere():
    both = Vocabulary(with_own(SMALL, [entry("broken bone", None, synonyms=["fracture"])]))
    for anatomy in ("chest", "knee", None):
        assert both.canonical("fracture", "xray", anatomy) == "broken bone"
    assert both.canonical("rib fracture", "xray", "chest") == "rib fracture"


def test_the_shipped_findings_under_none_of_one_s_own_are_themselves():
    again = Vocabulary(with_own(load(), []))
    assert again.changes(load()) == load().changes(again) == []


WRONG = """
- {name: grit lung, modality: xray, anatomy: [chest, knee], synonyms: [dust, Grit_Lung]}
- {name: soot lung, modality: xray, anatomy: chest, synonyms: [DUST], parent: grid lung}
- {name: soot lung, modality: ct, anatomy: chest, parent: tar lung}
- {name: tar lung, modality: ct, anatomy: chest, parent: soot lung}
- {name: coal lung, modality: ct, anatomy: chest}
- {name: coal lung, modality: ct, anatomy: chest}
"""


def test_every_mistake_of_own_findings_is_a_line(tmp_path):
    (tmp_path / "own.yaml").write_text(WRONG)
    with pytest.raises(RequestError) as error:
        load(tmp_path / "own.yaml")
    first, *lines = str(error.value).splitlines()
    assert first == f"5 mistakes in {tmp_path / 'own.yaml'}"
    assert lines[:2] == [
        "  xray / chest: 'dust' is a word of 'grit lung' and 'soot lung'",
        "  ct / chest: 'coal lung' is a word of two entries",
    ]
    assert lines[2].startswith(
        "  xray / chest: the parent 'grid lung' of 'soot lung' is no name here; nearest: grit lung"
    )
    assert lines[3:] == [f"  ct / chest: '{name} lung' is a parent of its own parent" for name in ("soot", "tar")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a, modality: xrya}\n", r"findings\.0\.modality: must be one of xray, ct"),
        ("- {name: '', modality: xray}\n", r"findings\.0\.name"),
        ("name: a\n", "a vocabulary is a YAML list"),
        ("", "a vocabulary is a YAML list"),
        ("- [", "not a YAML file"),
    ],
)
def test_own_findings_that_are_none_are_refused(tmp_path, text, said):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RequestError, match=said):
        load(tmp_path / "own.yaml")


def test_changes_tell_words_and_parents_but_not_what_is_added():
    grown = [*SMALL, entry("silicosis", synonyms=["dust lung"])]
    assert Vocabulary(grown).changes(SMALL) == []
    assert Vocabulary(grown[1:]).changes(SMALL) == [
        f"xray / chest: {word!r} was 'normal', now unknown" for word in ("normal", "no finding")
    ]
    other = with_own(SMALL, [entry("viral pneumonia", parent=None), entry("clear", synonyms=["normal"])])
    assert Vocabulary(other).changes(SMALL) == [
        "xray / chest: 'normal' was 'normal', now 'clear'",
        "xray / chest: 'no finding' was 'normal', now 'clear'",
        "xray / chest: 'viral pneumonia' has other parents",
    ]
