"""Twins of test images in training."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medweave.evaluation import leaks


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=12),
    st.lists(st.integers(0, 2**64 - 1), max_size=12),
    st.integers(0, 40),
)
def test_near_is_the_naive_loop(one, other, bits):
    expected = [any((a ^ b).bit_count() <= bits for b in other) for a in one]
    assert leaks.near(np.array(one, np.uint64), np.array(other, np.uint64), bits).tolist() == expected


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    one, other = random.integers(0, 2**16, 50, np.uint64), random.integers(0, 2**16, 300, np.uint64)
    whole = leaks.near(one, other)
    assert whole.sum() > 0
    monkeypatch.setattr(leaks, "BLOCK", 100)
    np.testing.assert_array_equal(leaks.near(one, other), whole)


def test_an_unknown_training_set_gives_none(world):
    world.fill("chest", ["alphoma", "betosis"], each=5)
    assert leaks.training_images({}, world) is None
    assert leaks.training_images({"trained_on": {"corpus": "other", "path": "/nowhere"}}, world) is None
