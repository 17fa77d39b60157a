import pytest

from medweave.corpus.recipe import CorpusRecipe, SourceRecipe
from medweave.errors import RequestError
from medweave.recipe import as_data, check, kind_of, kinds

SOURCE = {"kind": "folder", "path": "images", "modality": "ct"}


def recipe(**fields):
    return check({"path": "corpus", "sources": [SOURCE]} | fields, CorpusRecipe, where="test")


def test_every_field_of_every_source_is_described():
    sections = [CorpusRecipe] + [
        kind_of("medweave.corpus.sources", k, "SourceRecipe") for k in kinds("medweave.corpus.sources")
    ]
    seen = set()
    while sections:
        section = sections.pop()
        for name, field in section.model_fields.items():
            assert name == "kind" or field.description, f"{section.__name__}.{name}"
            inner = type(field.default)
            if hasattr(inner, "model_fields") and inner not in seen:
                seen.add(inner)
                sections.append(inner)


def test_a_recipe_survives_being_written():
    first = recipe(folds={"count": 4}, groups={"sources": {"eyes": {"correlation": 0.7}}})
    assert check(as_data(first), CorpusRecipe, where="test") == first
    assert isinstance(first.sources[0], SourceRecipe) and first.sources[0].kind == "folder"


def test_three_mistakes_are_three_lines():
    with pytest.raises(RequestError) as caught:
        recipe(sources=[{"kind": "foldr"}], split={"train": 0.9}, shards=10)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("3 mistakes")
    said = "\n".join(lines[1:])
    assert "sources.0: no kind 'foldr'; did you mean folder" in said
    assert "split: train + validation + test must be 1" in said
    assert "shards: no such key; did you mean shard" in said


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a|b"])
def test_a_source_name_must_fit_a_file_name(name):
    with pytest.raises(RequestError, match="no blanks"):
        recipe(sources=[SOURCE | {"name": name}])


def test_a_source_without_a_path_lies_where_the_one_before_it_lies():
    sources = [{"kind": "folder", "path": "a"}, {"kind": "folder", "name": "b"}, {"kind": "folder", "path": "c"}]
    assert [str(source.path) for source in recipe(sources=sources).sources] == ["a", "a", "c"]
    with pytest.raises(RequestError, match=r"sources.0.*path"):
        recipe(sources=sources[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"image": {"window": [40, 0]}}, r"image\.window\.1"), ({"sources": [{"kind": ["a"]}]}, r"no kind \['a'\]")],
)
def test_values_that_mean_nothing_are_refused(change, words):
    with pytest.raises(RequestError, match=words):
        recipe(**change)
