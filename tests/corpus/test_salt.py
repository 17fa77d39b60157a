"""Salts: drawn once a corpus, kept from others, never mixed."""

import re

import pydicom
import pytest
from pydicom.data import get_testdata_file

from medweave.corpus.plan import make_plan
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.salt import FILE, hash_of_salt, hashes_of_salts, salt_in, with_salts
from medweave.errors import RequestError
from medweave.recipe import as_data, check


@pytest.fixture
def scans(tmp_path):
    """A folder of two DICOM files of one patient."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("CT_small", "MR_small"):
        data = pydicom.dcmread(get_testdata_file(f"{name}.dcm"))
        data.PatientID = "Jane"
        data.save_as(folder / f"{name}.dcm")
    return folder


def recipe_of(path, folder, **fields) -> CorpusRecipe:
    sources = [{"kind": "folder", "path": str(folder), "name": "scans", **fields}, {"kind": "phantoms"}]
    return check({"path": str(path), "sources": sources, "accept": ["unknown"]}, CorpusRecipe, where="test")


def facts_of(recipe):
    """What corpus.json says of the recipe and of its salts."""
    return {"recipe": as_data(recipe), "salts": hashes_of_salts(recipe)}


def patients(recipe) -> set[str]:
    return set(make_plan(recipe.model_copy(update={"sources": recipe.sources[:1]})).table["patient"].to_pylist())


def test_a_salt_is_drawn_when_it_is_needed_and_read_ever_after(tmp_path, scans):
    path = tmp_path / "corpus"
    first = with_salts(recipe_of(path, scans))
    assert not (path / FILE).exists() and hashes_of_salts(first) == [None, None]
    found = patients(first)
    assert (path / FILE).stat().st_mode & 0o777 == 0o600
    assert len(found) == 1 and patients(with_salts(recipe_of(path, scans))) == found
    assert patients(with_salts(recipe_of(tmp_path / "other", scans))).isdisjoint(found)


def test_what_is_told_of_a_salt_is_its_hash(tmp_path, scans):
    salted = with_salts(recipe_of(tmp_path, scans))
    secret = salt_in(tmp_path / FILE)
    own, none = hashes_of_salts(salted)
    assert own == hash_of_salt(secret) and re.fullmatch("[0-9a-f]{32}", own) and none is None
    assert secret not in str(as_data(salted)) and FILE not in str(as_data(salted)["sources"])
    assert hash_of_salt("pepper") != own


def test_a_given_salt_wins(tmp_path, scans):
    salt_in(tmp_path / FILE)
    given = with_salts(recipe_of(tmp_path, scans, salt="pepper"))
    assert hashes_of_salts(given) == [hash_of_salt("pepper"), None]
    assert patients(given) == patients(with_salts(recipe_of(tmp_path / "other", scans, salt="pepper")))
    salt_in(tmp_path / "mine")
    named = with_salts(recipe_of(tmp_path, scans, salt_file=str(tmp_path / "mine")))
    assert hashes_of_salts(named) == [hash_of_salt(salt_in(tmp_path / "mine")), None]


def test_looking_keeps_nothing(tmp_path, scans):
    patients(with_salts(recipe_of(tmp_path / "corpus", scans), keep=False))
    assert not (tmp_path / "corpus" / FILE).exists()


def test_no_image_is_added_under_another_salt(tmp_path, scans):
    path = tmp_path / "corpus"
    recipe = recipe_of(path, scans)
    secret = salt_in(path / FILE)
    facts = facts_of(with_salts(recipe))
    assert hashes_of_salts(with_salts(recipe, facts)) == facts["salts"]
    assert hashes_of_salts(with_salts(recipe_of(path, scans, salt=secret), facts)) == facts["salts"]
    with pytest.raises(RequestError, match="not the salt that scans was built with"):
        with_salts(recipe_of(path, scans, salt="pepper"), facts)
    (path / FILE).unlink()
    with pytest.raises(RequestError, match=r"put \.salt back"):
        with_salts(recipe, facts)
    assert not (path / FILE).exists()


def test_a_new_source_may_have_its_own_salt(tmp_path, scans):
    first = with_salts(recipe_of(tmp_path, scans, salt="pepper"))
    new = recipe_of(tmp_path, scans, anatomy="head").sources[0]
    more = first.model_copy(update={"sources": [new, *first.sources]})
    salt_in(tmp_path / FILE)
    drawn, *before = hashes_of_salts(with_salts(more, facts_of(first)))
    assert before == facts_of(first)["salts"] and drawn not in before


def test_a_corpus_from_before_salts_were_kept_stays_without(tmp_path, scans):
    old = {"recipe": as_data(recipe_of(tmp_path, scans))}
    added = with_salts(recipe_of(tmp_path, scans), old)
    assert hashes_of_salts(added) == [hash_of_salt(""), None]
    assert hashes_of_salts(with_salts(recipe_of(tmp_path, scans), facts_of(added))) == [hash_of_salt(""), None]
    assert len(patients(added)) == 1 and not (tmp_path / FILE).exists()


def test_an_empty_file_is_no_salt(tmp_path):
    (tmp_path / FILE).write_text("\n")
    with pytest.raises(RequestError, match="the file of the salt is empty"):
        salt_in(tmp_path / FILE)
