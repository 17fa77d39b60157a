import numpy as np
import pytest

from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.training.mix import mix_of
from medweave.training.recipe import TrainRecipe


@pytest.fixture
def corpus(corpus_recipe):
    return open_corpus(corpus_recipe.path)


def settings(**changes) -> TrainRecipe:
    return TrainRecipe.model_validate({"run": "r", "steps": 1, **changes})


def test_strata_hold_exactly_the_training_samples(corpus):
    mix = mix_of(corpus, settings())
    splits = np.array(corpus.index(["split"])["split"].to_pylist())
    assert set(mix.names) == {"lungs", "heads"}
    found = np.sort(np.concatenate([ranges.numbers() for ranges in mix.ranges]))
    assert np.array_equal(found, np.flatnonzero(splits == "train"))
    sources = np.array(corpus.index(["source"])["source"].to_pylist())
    for name, ranges in zip(mix.names, mix.ranges, strict=True):
        assert set(sources[ranges.numbers()]) == {name}


def test_a_fold_is_trained_on_without_its_test_and_validation_part(corpus):
    mix = mix_of(corpus, settings(data={"overlay": "folds", "fold": 1}))
    folds = {row["id"]: (row["fold"], row["inner"]) for row in corpus.overlay("folds").to_pylist()}
    ids = corpus.index(["id"])["id"].to_pylist()
    numbers = {number for ranges in mix.ranges for number in ranges.numbers().tolist()}
    assert numbers == {n for n, name in enumerate(ids) if folds[name][0] != 1 and folds[name][1] != 0}


def test_weights_follow_the_sizes_or_the_recipe(corpus):
    natural, equal = (mix_of(corpus, settings(mix={"alpha": alpha})) for alpha in (1, 0))
    assert natural.weights == [len(r) for r in natural.ranges]
    assert equal.weights == [1, 1]
    only = mix_of(corpus, settings(mix={"weights": {"lungs": 0, "heads": 3}}))
    assert only.names == ["heads"] and only.weights == [3]
    by_modality = mix_of(corpus, settings(mix={"by": "modality"}))
    assert set(by_modality.names) == {"xray", "ct"}


def test_a_source_can_be_left_out(corpus):
    assert mix_of(corpus, settings(leave_out=["heads"])).names == ["lungs"]


def test_a_specialist_has_its_modalities_only(corpus):
    for by in ("source", "modality"):
        mix = mix_of(corpus, settings(modalities=["ct"], mix={"by": by}))
        assert mix.sources == ["heads"] and len(mix.names) == 1
        assert mix.samples == len(mix_of(corpus, settings(leave_out=["lungs"])).ranges[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modalities": ["cta"]}, "no modality of the corpus is called 'cta'.*did you mean ct"),
        ({"leave_out": ["head"]}, "did you mean heads"),
        ({"leave_out": ["heads", "lungs"]}, "no sample is in the training part"),
        ({"mix": {"weights": {"lungs": 1}}}, "no weight for heads"),
        ({"mix": {"weights": {"lungs": 1, "heads": 1, "feet": 1}}}, "no training source is called 'feet'"),
        ({"mix": {"weights": {"lungs": 0, "heads": 0}}}, "every stratum has weight 0"),
    ],
)
def test_mistakes_are_named(corpus, change, reason):
    with pytest.raises(RequestError, match=reason):
        mix_of(corpus, settings(**change))


def test_fewer_samples_than_a_batch_is_an_error(corpus):
    mix = mix_of(corpus, settings())
    with pytest.raises(RequestError, match=f"{mix.samples} training samples are fewer than a batch of 500"):
        mix.order(500, seed=0)
