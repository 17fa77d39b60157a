"""Temperature scaling finds a planted temperature."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from medweave.evaluation.calibration import fit_temperature
from medweave.evaluation.metrics import ece


def test_a_planted_temperature_is_found():
    random = np.random.default_rng(0)
    honest = random.standard_normal((4000, 3)) * 2
    labels = (softmax(honest, axis=1).cumsum(1) > random.random((4000, 1))).argmax(1)
    truth = np.eye(3, dtype=np.int8)[labels]
    found = fit_temperature(5 * honest, truth, np.arange(4000), False)
    assert found["temperature"] == pytest.approx(5, rel=0.05)

    def error(logits):
        share = softmax(logits, axis=1)
        return ece(share.max(1), share.argmax(1) == labels, np.ones((1, 4000)))[0]

    assert error(5 * honest / found["temperature"]) < 0.03 < error(5 * honest)


def test_a_few_images_do_not_make_a_model_certain():
    logits = 4 * np.eye(3)[np.arange(24) % 3]
    right = np.eye(3, dtype=np.int8)[np.arange(24) % 3]
    assert 0.5 < fit_temperature(logits, right, np.arange(24), False)["temperature"] < 1


def test_on_few_images_it_is_no_worse_than_the_models_own_word_and_on_bad_ones_better():
    random = np.random.default_rng(3)

    def loss(logits, labels):
        return -np.log(softmax(logits, axis=1)[np.arange(len(labels)), labels]).mean()

    for factor in (1, 4):  # an honest model, and one that is far too sure
        before, after = [], []
        for _ in range(100):
            honest = random.standard_normal((2022, 3)) * 3
            labels = (softmax(honest, axis=1).cumsum(1) > random.random((2022, 1))).argmax(1)
            few, logits = np.eye(3, dtype=np.int8)[labels[:22]], factor * honest
            found = fit_temperature(logits[:22], few, np.arange(22), False)["temperature"]
            before.append(loss(logits[22:], labels[22:]))
            after.append(loss(logits[22:] / found, labels[22:]))
        assert np.mean(after) < np.mean(before) + 0.02 if factor == 1 else np.mean(after) < 0.7 * np.mean(before)


def test_multi_label_and_unknown_labels():
    random = np.random.default_rng(1)
    honest = random.standard_normal((3000, 2)) * 2
    truth = (expit(honest) > random.random((3000, 2))).astype(np.int8)
    truth[::2, 0] = -1
    assert fit_temperature(honest / 3, truth, np.arange(3000), True)["temperature"] == pytest.approx(1 / 3, rel=0.1)


def test_a_patient_with_many_images_has_one_voice():
    random = np.random.default_rng(2)
    logits = random.standard_normal((100, 2)) * 3
    truth = np.eye(2, dtype=np.int8)[logits.argmax(1)]
    truth[::4] = truth[::4, ::-1]
    repeat = np.r_[np.arange(100), np.zeros(500, int)]
    alone = fit_temperature(logits, truth, np.arange(100), False)["temperature"]
    often = fit_temperature(logits[repeat], truth[repeat], repeat, False)["temperature"]
    assert often == pytest.approx(alone, rel=1e-3)


def test_too_few_images_give_a_reason():
    found = fit_temperature(np.zeros((15, 2)), np.eye(2, dtype=np.int8)[np.arange(15) % 2], np.arange(15), False)
    assert found["temperature"] is None and "too few" in found["reason"]
