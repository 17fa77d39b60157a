"""Rotations: orthogonal at every width, and variances made equal."""

import numpy as np
import pytest
import scipy.linalg

from medweave.features.rotation import equaliser, gathered, hadamard, spread

WIDTHS = (1, 2, 7, 50, 128, 384, 512, 768, 1280)


@pytest.mark.parametrize("width", WIDTHS)
def test_spread_is_a_rotation_and_gathered_its_inverse(width):
    rows = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
    turned = spread(rows)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, atol=1e-4 * width)
    np.testing.assert_allclose(gathered(turned), rows, atol=1e-5)
    if width <= 50:
        matrix = spread(np.eye(width, dtype=np.float32))
        turn, signs = np.arange(width), matrix[:, 0] * np.sqrt(width)
        angle = 2 * np.pi * np.outer(turn, turn) / width
        np.testing.assert_allclose(matrix, signs[:, None] * (np.cos(angle) + np.sin(angle)) / np.sqrt(width), atol=1e-6)


@pytest.mark.parametrize("width", [384, 768])
def test_one_large_number_is_spread_over_all(width):
    for place in (0, 1, width // 2, width - 1):
        turned = spread(np.eye(width, dtype=np.float32)[place : place + 1])
        assert np.abs(turned).max() <= 1.42 / np.sqrt(width)


@pytest.mark.parametrize("width", [1, 2, 4, 12, 20, 28, 36, 40, 96, 384, 512, 640, 768, 1024, 1152, 1280, 1536])
def test_hadamard_matrices_are_what_they_say(width):
    matrix = hadamard(width)
    assert set(np.unique(matrix)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(matrix @ matrix.T, width * np.eye(width))


def test_hadamard_where_there_is_none_and_where_a_formula_gives_one():
    assert hadamard(3) is hadamard(6) is hadamard(50) is None
    np.testing.assert_array_equal(np.abs(hadamard(64)), np.abs(scipy.linalg.hadamard(64)))


@pytest.mark.parametrize("width", [3, 7, 12, 50, 92, 384, 768])
@pytest.mark.parametrize("rank", [1.0, 0.2])
def test_every_direction_gets_the_same_variance(width, rank):
    variances = np.sort(np.random.default_rng(width).lognormal(0, 3, width))[::-1].copy()
    variances[max(1, int(rank * width)) :] = 0
    rotation = equaliser(variances)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose((rotation * variances @ rotation.T).diagonal() / variances.mean(), 1, atol=1e-9)


def test_variances_that_are_equal_already_stay_so():
    np.testing.assert_allclose(equaliser(np.ones(5)), np.eye(5))
