"""Metrics against scikit-learn and naive loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medweave.evaluation import metrics
from medweave.evaluation.metrics import Scored


def folds(n):
    return np.zeros(n, np.int64)


@st.composite
def ranked(draw):
    """Few distinct scores (so that there are ties), both classes present, integer weights."""
    n = draw(st.integers(2, 40))
    score = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), float) / 7
    present = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), float)
    return score, present, weights


@given(ranked())
def test_auroc_and_ap_are_scikit_learns(case):
    score, present, weights = case
    area = metrics.auroc(score, present, weights[None], folds(len(score)))[0]
    precision = metrics.average_precision(score, present, weights[None], folds(len(score)))[0]
    if weights[present].sum() == 0:
        assert np.isnan(area) and np.isnan(precision)
        return
    assert precision == pytest.approx(sk.average_precision_score(present, score, sample_weight=weights))
    if weights[~present].sum() > 0:
        assert area == pytest.approx(sk.roc_auc_score(present, score, sample_weight=weights))
    else:
        assert np.isnan(area)


@given(ranked(), st.integers(1, 4))
def test_auroc_ranks_within_folds_only(case, count):
    score, present, weights = case
    fold = np.arange(len(score)) % count
    better = pairs = 0.0
    for i in np.flatnonzero(present):
        for j in np.flatnonzero(~present):
            if fold[i] == fold[j]:
                pairs += weights[i] * weights[j]
                better += weights[i] * weights[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    found = metrics.auroc(score, present, weights[None], fold)[0]
    assert np.isnan(found) if pairs == 0 else found == pytest.approx(better / pairs)
    moved = metrics.auroc(score + 100 * fold, present, weights[None], fold)[0]
    np.testing.assert_allclose(found, moved)


def test_ap_of_folds_is_their_mean_by_positives():
    random = np.random.default_rng(0)
    score, present, fold = random.random(60), random.random(60) < 0.4, np.arange(60) % 3
    each = [sk.average_precision_score(present[fold == f], score[fold == f]) for f in range(3)]
    positives = [present[fold == f].sum() for f in range(3)]
    found = metrics.average_precision(score, present, np.ones((1, 60)), fold)[0]
    assert found == pytest.approx(np.average(each, weights=positives))


@pytest.mark.parametrize("seed", range(5))
def test_single_label_metrics_are_scikit_learns(seed):
    random = np.random.default_rng(seed)
    n, classes = 200, 4
    labels = random.integers(0, classes, n)
    logits = random.standard_normal((n, classes)) + 1.5 * np.eye(classes)[labels]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weights = random.integers(0, 3, (3, n)).astype(float)
    truth = np.eye(classes, dtype=np.int8)[labels]
    scored = Scored(list("abcd"), truth, probability, probability, folds(n), False, np.arange(classes))
    found = metrics.measure(scored, weights)
    guess = probability.argmax(1)
    for d in range(3):
        w = weights[d]
        area = sk.roc_auc_score(labels, probability, multi_class="ovr", average="macro", sample_weight=w)
        assert found["macro_auroc"][d] == pytest.approx(area)
        assert found["balanced_accuracy"][d] == pytest.approx(
            sk.balanced_accuracy_score(labels, guess, sample_weight=w)
        )
        assert found["accuracy"][d] == pytest.approx(sk.accuracy_score(labels, guess, sample_weight=w))
        assert found["macro_f1"][d] == pytest.approx(sk.f1_score(labels, guess, average="macro", sample_weight=w))
        assert found["recall:b"][d] == pytest.approx(sk.recall_score(labels == 1, guess == 1, sample_weight=w))


def test_weights_are_repetitions():
    random = np.random.default_rng(3)
    score, present = random.random(50).round(1), random.random(50) < 0.5
    weights = random.integers(0, 4, 50)
    repeated = np.repeat(np.arange(50), weights)
    correct = random.random(50) < 0.7
    for metric, args in ((metrics.auroc, (score, present)), (metrics.average_precision, (score, present))):
        one = metric(*args, weights[None].astype(float), folds(50))
        other = metric(*(a[repeated] for a in args), np.ones((1, len(repeated))), folds(len(repeated)))
        np.testing.assert_allclose(one, other)
    one = metrics.ece(score, correct, weights[None].astype(float))
    np.testing.assert_allclose(one, metrics.ece(score[repeated], correct[repeated], np.ones((1, len(repeated)))))


def test_ece_by_a_naive_loop():
    random = np.random.default_rng(1)
    confidence, correct = random.random(300), random.random(300) < 0.5
    confidence[0] = 1.0
    expected = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | (b == 14))
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert metrics.ece(confidence, correct, np.ones((1, 300)))[0] == pytest.approx(expected)


def test_multi_label_masks_what_is_unknown():
    random = np.random.default_rng(2)
    truth = random.integers(-1, 2, (120, 3)).astype(np.int8)
    score = random.random((120, 3))
    scored = Scored(list("abc"), truth, score, score, folds(120), True, np.arange(3))
    found = metrics.measure(scored, np.ones((1, 120)))
    each = [sk.roc_auc_score(truth[truth[:, c] >= 0, c], score[truth[:, c] >= 0, c]) for c in range(3)]
    assert found["macro_auroc"][0] == pytest.approx(np.mean(each))
    assert found["auroc:c"][0] == pytest.approx(each[2])
    assert "balanced_accuracy" not in found and "accuracy" not in found


def test_macro_averages_leave_uncounted_classes_out():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    truth = np.eye(3, dtype=np.int8)[labels]
    guess = np.eye(3)[np.where(labels == 2, 0, labels)]
    scored = Scored(list("abc"), truth, guess, None, folds(21), False, np.array([0, 1]))
    found = metrics.measure(scored, np.ones((1, 21)))
    assert found["balanced_accuracy"][0] == 1.0
    assert found["accuracy"][0] == pytest.approx(20 / 21)
    alone = Scored(list("abc"), truth, guess, None, folds(21), False, np.array([0]))
    assert np.isnan(metrics.measure(alone, np.ones((1, 21)))["balanced_accuracy"][0])
