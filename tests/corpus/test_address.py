from pathlib import Path

import pytest

from medweave.corpus.address import address, folder
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.recipe import as_data, check
from medweave.training.recipe import Recipe

URL = "s3://bucket/corpora/own"


@pytest.mark.parametrize("given", ["corpora/own", Path("corpora/own"), "corpora/own/", "/data/own", "."])
def test_a_folder_is_a_path(given):
    assert address(given) == Path(given)


@pytest.mark.parametrize("given", [URL, URL + "/", "https://host:8000/own", "memory://a/b", "gs://a"])
def test_a_url_stays_as_it_is(given):
    assert address(given) == given.rstrip("/")


def recipe(**changes):
    tree = {"train": {"run": "r", "steps": 1, "corpus": URL}, "evaluate": {"corpus": URL + "/"}}
    return check({name: {**part, **changes.get(name, {})} for name, part in tree.items()}, Recipe, "here")


def test_recipes_keep_urls_and_read_back_as_themselves():
    found = recipe()
    assert found.train.corpus == found.evaluate.corpus == URL
    assert check(as_data(found), Recipe, "again") == found
    assert recipe(train={"corpus": "corpora/own"}).train.corpus == Path("corpora/own")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"run": URL}}, "train.run: is written to"),
        ({"evaluate": {"out": URL}}, "evaluate.out: is written to"),
        ({"train": {"corpus": "https://me:secret@host/own"}}, "train.corpus: a URL with a password"),
    ],
)
def test_what_a_url_cannot_be_is_a_mistake_of_the_recipe(changes, words):
    with pytest.raises(RequestError, match=words):
        recipe(**changes)


def test_a_corpus_is_not_built_behind_a_url():
    with pytest.raises(ValueError, match="copy the folder there"):
        folder(URL)
    with pytest.raises(RequestError, match=r"corpus.path: is written to, so it must be a folder"):
        check({"corpus": {"path": URL, "sources": []}}, Recipe, "here")


def test_a_password_is_refused_before_it_is_kept():
    with pytest.raises(RequestError, match="by the environment") as error:
        open_corpus("https://me:secret@host/own")
    assert "secret" not in str(error.value)
