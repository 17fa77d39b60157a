import pytest

from medweave.corpus.licences import MEANING, licence_class
from medweave.corpus.sample import LICENCE_CLASSES


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("CC0-1.0", "open"),
        ("CC BY 4.0 (owner: somebody, research hospital)", "open"),
        ("Creative Commons Attribution 4.0", "open"),
        ("CC BY-NC 4.0", "non-commercial"),
        ("cc-by-nc-sa-3.0", "non-commercial"),
        ("CC BY-NC-ND 4.0", "no-derivatives"),
        ("CC BY-SA 4.0 (owner: MedNIST; not restated in this repository)", "share-alike"),
        ("GPL-3.0 (repository licence)", "share-alike"),
        ("research use only, no licence file", "research"),
        ("not stated beyond research use (owner: a challenge)", "research"),
        ("no licence text; owners offer it freely to AI researchers", "research"),
        ("not stated (figures of papers and preprints, research use)", "unknown"),
        ("not verified (owner: a library; public)", "unknown"),
        ("permitted", "unknown"),
        ("share-alike", "share-alike"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_owners_words(words, expected):
    assert licence_class(words) == expected


def test_every_class_is_explained():
    assert set(MEANING) == set(LICENCE_CLASSES)
