"""Ranges against sets of numbers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medweave.corpus import order
from medweave.corpus.order import Ranges

SAMPLES = 300
some = st.sets(st.integers(0, SAMPLES - 1), max_size=120)


@given(some)
def test_a_mask_and_back(numbers):
    mask = np.isin(np.arange(SAMPLES), sorted(numbers))
    ranges = Ranges.of_mask(mask)
    assert ranges.numbers().tolist() == sorted(numbers)
    assert np.array_equal(ranges.mask(SAMPLES), mask)
    assert (ranges.starts[1:] > ranges.stops[:-1]).all(), "as few runs as can be"


@given(some, st.integers(0, SAMPLES), st.integers(1, SAMPLES))
def test_what_lies_within(numbers, start, length):
    within = Ranges.of(numbers).within(start, start + length)
    assert within.numbers().tolist() == [n for n in sorted(numbers) if start <= n < start + length]
    assert (within.starts < within.stops).all()


@given(some, st.lists(st.integers(1, SAMPLES), max_size=5))
def test_parts_that_follow_each_other_are_joined_to_as_few_runs_as_can_be(numbers, cuts):
    whole = Ranges.of(numbers)
    edges = sorted({0, SAMPLES, *cuts})
    joined = Ranges.joined([whole.within(*edge) for edge in pairwise(edges)])
    assert np.array_equal(joined.starts, whole.starts) and np.array_equal(joined.stops, whole.stops)


@pytest.mark.parametrize("numbers", [[], [0], [3, 4, 5, 90, 91, 299]])
def test_pieces_are_the_numbers(numbers, monkeypatch):
    monkeypatch.setattr(order, "STRETCH", 50)
    pieces = list(Ranges.of(numbers).pieces())
    assert [n for piece in pieces for n in piece.tolist()] == numbers
    assert all(len(piece) == 0 or piece[-1] - piece[0] < 50 for piece in pieces)
