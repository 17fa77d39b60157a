"""Intervals against naive loops, scipy and planted truth."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medweave.evaluation import scoring, statistics
from medweave.evaluation.metrics import auroc, average_precision
from medweave.evaluation.predictions import Predictions


def area(score, present, metric=auroc):
    """The statistic "AUROC of these scores" in one fold."""
    fold = np.zeros(len(score), np.int64)
    return lambda weights: {"a": metric(score, present, weights, fold)}


def mean_of(values):
    return lambda weights: {"a": weights @ values / weights.sum(1)}


def one_draw_each(groups, strata, draws=50, seed=0):
    return np.concatenate(list(statistics.weights(groups, strata, draws, seed)))


@given(st.lists(st.integers(0, 8), min_size=4, max_size=40), st.integers(1, 3))
def test_draws_take_whole_groups_and_keep_the_strata(member, classes):
    groups = np.array(member)
    strata = groups % classes
    weights = one_draw_each(groups, strata, draws=20)
    assert weights.shape == (20, len(groups))
    names, first = np.unique(groups, return_index=True)
    for group, at in zip(names, first, strict=True):
        assert (weights[:, groups == group] == weights[:, [at]]).all()
    assert (weights[:, first].sum(1) == len(names)).all()
    sizes = np.bincount(strata[first])
    for stratum in np.flatnonzero(sizes >= 2):
        if (sizes >= 2).sum() == (sizes > 0).sum():
            assert (weights[:, first[strata[first] == stratum]].sum(1) == sizes[stratum]).all()


def test_draws_depend_on_the_seed_and_not_on_order_or_chunks(monkeypatch):
    groups = np.array([f"g{n % 13}" for n in range(60)])
    strata = np.array([int(g[1:]) % 2 for g in groups])
    whole = one_draw_each(groups, strata)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_array_equal(one_draw_each(groups[order], strata[order]), whole[:, order])
    assert (one_draw_each(groups, strata, seed=1) != whole).any()
    monkeypatch.setattr(statistics, "CELLS", 600)
    assert one_draw_each(groups, strata).shape == whole.shape


def test_the_first_draws_of_many_are_those_of_few():
    groups, strata = np.arange(30) // 2, np.arange(30) // 2 % 3
    many = one_draw_each(groups, strata, draws=2500)
    assert many.shape == (2500, 30)
    np.testing.assert_array_equal(many[:1000], one_draw_each(groups, strata, draws=1000))


def test_bootstrap_is_the_naive_one():
    random = np.random.default_rng(0)
    groups = random.integers(0, 25, 80)
    present = random.random(80) < 0.5
    score = random.random(80) + 0.4 * present
    strata = np.zeros(80, int)
    drawn = statistics.bootstrap(area(score, present), groups, strata, 40, 7)["a"]
    naive = []
    for weights in one_draw_each(groups, strata, 40, 7):
        rows = np.repeat(np.arange(80), weights.astype(int))
        naive.append(sk.roc_auc_score(present[rows], score[rows]))
    np.testing.assert_allclose(drawn, np.array(naive) - np.mean(naive) + sk.roc_auc_score(present, score))


def test_intervals_of_average_precision_hold_although_draws_repeat_images():
    everything = np.random.default_rng(99)
    present = everything.random(200_000) < 0.1
    score = everything.standard_normal(200_000) + 0.5 * present
    truth = sk.average_precision_score(present, score)
    covered, worlds = 0, 200
    for world in range(worlds):
        sick = np.arange(150) < 15
        found = np.random.default_rng(world).standard_normal(150) + 0.5 * sick
        drawn = statistics.bootstrap(area(found, sick, average_precision), np.arange(150), sick, 300, world)
        low, high = statistics.limits(drawn["a"], 15)
        assert low <= sk.average_precision_score(sick, found) <= high
        covered += low <= truth <= high
    assert 0.88 <= covered / worlds <= 0.99


def test_interval_is_scipys_where_every_image_is_its_own_group():
    correct = np.random.default_rng(1).random(150) < 0.7
    drawn = statistics.bootstrap(mean_of(correct), np.arange(150), np.zeros(150, int), 4000, 0)
    low, high = statistics.interval(drawn["a"])
    reference = scipy.stats.bootstrap((correct,), np.mean, n_resamples=4000, method="percentile", rng=0)
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.012)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.012)


@pytest.mark.parametrize("patients", [40, 80])
def test_intervals_cover_the_truth_where_images_of_a_patient_are_alike(patients):
    """Planted: 4 images a patient share most of their error; a bootstrap over images would be far too sure."""
    truth = scipy.stats.norm.cdf(1.0 / np.sqrt(2))
    covered = {"groups": 0, "images": 0}
    worlds = 200
    for world in range(worlds):
        random = np.random.default_rng(world)
        sick = np.arange(patients) % 2 == 0
        own = random.standard_normal(patients) * np.sqrt(0.8)
        score = np.repeat(own + sick, 4) + random.standard_normal(4 * patients) * np.sqrt(0.2)
        present, group = np.repeat(sick, 4), np.repeat(np.arange(patients), 4)
        for kind, groups in (("groups", group), ("images", np.arange(len(score)))):
            drawn = statistics.bootstrap(area(score, present), groups, present, 300, world)
            low, high = statistics.interval(drawn["a"])
            covered[kind] += low <= truth <= high
    assert 0.89 <= covered["groups"] / worlds <= 0.99
    assert covered["images"] / worlds < 0.8


def test_paired_difference_finds_a_planted_one_and_no_other():
    random = np.random.default_rng(0)
    n = 200
    present, groups = np.arange(n) % 2 == 0, np.arange(n)
    shared = random.standard_normal(n)
    good, bad = (present * strength + shared + 0.2 * random.standard_normal(n) for strength in (1.0, 0.6))

    def drawn(score):
        return statistics.bootstrap(area(score, present), groups, present, 1000, 5)["a"]

    assert statistics.p_value(drawn(good) - drawn(bad)) < 0.01
    assert statistics.p_value(drawn(good) - drawn(good)) == 1.0
    low, high = statistics.interval(drawn(good) - drawn(bad))
    alone = statistics.interval(drawn(good))
    assert high - low < 0.7 * (alone[1] - alone[0])


def test_p_values_are_uniform_when_there_is_no_difference():
    found = []
    for world in range(300):
        difference = np.random.default_rng(world).standard_normal(60)
        drawn = statistics.bootstrap(mean_of(difference), np.arange(60), np.zeros(60, int), 200, world)
        found.append(statistics.p_value(drawn["a"]))
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.11
    assert 0.4 < np.mean(found) < 0.6


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


@pytest.mark.parametrize("tests", [1, 25, 26, 48, 500])
def test_the_least_draws_are_those_whose_least_p_is_significant(tests):
    def least_p(draws):
        return statistics.p_value(np.ones(draws)) * tests

    assert least_p(statistics.least_draws(tests)) < statistics.SIGNIFICANT <= least_p(statistics.least_draws(tests) - 1)


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_plain_and_bonferronis(p):
    corrected = np.array(statistics.holm(p))
    assert (corrected >= np.array(p) - 1e-12).all()
    assert (corrected <= np.minimum(1, np.array(p) * len(p)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= -1e-12).all()


def test_no_interval_where_it_would_lie():
    def truth(*counts):
        return np.eye(len(counts), dtype=np.int8)[np.repeat(np.arange(len(counts)), counts)]

    both = np.array([0, 1])
    assert statistics.why_no_interval(truth(10, 10), np.arange(20), both) is None
    assert "19 images" in statistics.why_no_interval(truth(10, 9), np.arange(19), both)
    assert "9 groups" in statistics.why_no_interval(truth(10, 10), np.arange(20) % 9, both)
    assert "4 images of each class" in statistics.why_no_interval(truth(30, 4), np.arange(34), both)
    assert statistics.why_no_interval(truth(30, 10, 4), np.arange(44), both) is None


def test_classes_with_fewer_than_three_groups_are_not_counted():
    truth = np.eye(3, dtype=np.int8)[[0, 0, 0, 1, 1, 1, 2, 2, 2]]
    groups = np.array([1, 2, 3, 4, 4, 5, 6, 7, 8])
    assert statistics.counted_classes(truth, groups).tolist() == [0, 2]


def test_a_class_that_all_images_show_but_two_counts_where_each_shows_one():
    truth = np.eye(2, dtype=np.int8)[[0] * 60 + [1] * 2]
    groups = np.arange(62)
    assert statistics.counted_classes(truth, groups).tolist() == [0]
    assert statistics.smallest_class(truth, groups, np.array([0])) == 60
    assert statistics.why_no_interval(truth, groups, np.array([0])) is None


def labels(*absent, images=61):
    """Truth of labels that a few images lack and all others show: [images, labels]."""
    return np.array([[int(n >= few) for few in absent] for n in range(images)], np.int8)


def test_of_several_labels_those_that_lack_one_count_as_those_that_show_it():
    groups = np.arange(61)
    truth = labels(1, 20, 30)
    assert statistics.counted_classes(truth, groups).tolist() == [1, 2]
    assert statistics.counted_classes(1 - truth, groups).tolist() == [1, 2]
    assert statistics.counted_classes(labels(20, 30), groups // 10).tolist() == [1], "20 images of two groups"
    assert statistics.smallest_class(truth, groups, np.array([1, 2])) == 20
    assert statistics.why_no_interval(truth, groups, np.array([1, 2])) is None
    few = labels(4, 20)
    assert "4 images of each class" in statistics.why_no_interval(few, groups, np.array([0, 1]))
    unknown = np.where(np.arange(61)[:, None] < 18, np.int8(-1), truth)
    assert statistics.counted_classes(unknown, groups).tolist() == [2], "what is not known is not absent"


def perfect(truth, multi=False, groups=None):
    """Figures of a model that ranks and names every image right."""
    names = np.array([f"{n:03d}" for n in range(len(truth))])
    groups, classes = names if groups is None else groups, list("abcdef")[: truth.shape[1]]
    told = Predictions(classes, multi, names, groups, np.zeros(len(names), int), truth, {"all": truth * 3.0})
    return scoring.numbers(told, 200, 0)


def test_a_class_of_one_image_has_figures_without_interval_and_others_their_own_limit():
    found = perfect(np.eye(3, dtype=np.int8)[[0] * 40 + [1] * 30 + [2]])["per_class"]
    assert found["c"]["auroc"] == found["c"]["recall"] == {"value": 1.0, "low": None, "high": None}
    for label, groups in (("a", 40), ("b", 30)):
        low = scipy.stats.binomtest(groups, groups).proportion_ci().low
        assert found[label]["recall"] == {"value": 1.0, "low": pytest.approx(low), "high": 1.0}


def test_a_ranking_rests_on_the_fewer_of_those_that_show_a_class_and_those_that_do_not():
    one = perfect(np.eye(2, dtype=np.int8)[[0] * 60 + [1]])["per_class"]["a"]
    assert one["auroc"]["low"] is None and one["recall"]["low"] is not None
    some = perfect(np.eye(2, dtype=np.int8)[[0] * 60 + [1] * 10])["per_class"]["a"]
    assert some["auroc"]["low"] == pytest.approx(0.025 ** (1 / 10))
    assert some["recall"]["low"] == pytest.approx(0.025 ** (1 / 60))
    patients = np.array([f"{n}" for n in range(60)] + ["x"] * 5 + ["y"] * 5)
    two = perfect(np.eye(2, dtype=np.int8)[[0] * 60 + [1] * 10], groups=patients)["per_class"]["b"]
    assert two["n"] == 10 and two["recall"] == {"value": 1.0, "low": None, "high": None}, "ten images of two groups"


def test_a_label_that_one_image_lacks_is_in_no_average_and_has_no_interval():
    found = perfect(labels(1, 20, 30), multi=True)
    assert found["not_counted"] == ["a"] and found["no_interval"] is None
    for metric in ("auroc", "ap"):
        assert found["per_class"]["a"][metric]["low"] is None
        assert found["per_class"]["b"][metric]["low"] == pytest.approx(0.025 ** (1 / 20))
    assert found["metrics"]["macro_auroc"]["low"] == pytest.approx(0.025 ** (1 / 20))


def test_the_stratum_of_a_group_is_its_rarest_class():
    truth = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0], [1, 0]], np.int8)
    groups = np.array(["a", "a", "b", "c", "d", "b"])
    assert statistics.strata_of(truth, groups).tolist() == [0, 0, 1, 1, 2, 1]


def test_interval_of_mostly_undefined_draws_is_none():
    assert statistics.interval(np.array([np.nan, np.nan, 0.5])) == (None, None)
    assert statistics.interval(np.zeros(0)) == (None, None)


def test_a_perfect_score_is_not_certain():
    ones = np.ones(100)
    assert statistics.limits(ones, 20) == (pytest.approx(scipy.stats.binomtest(20, 20).proportion_ci().low), 1.0)
    assert statistics.limits(ones - 1, 20) == (0.0, pytest.approx(scipy.stats.binomtest(0, 20).proportion_ci().high))
    assert statistics.limits(ones / 2, 20) == (0.5, 0.5)
