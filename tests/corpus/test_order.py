from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from medweave.corpus.order import PERIOD, Order, Ranges, permute, power_weights
from medweave.errors import RequestError

runs = st.sets(st.integers(0, 300), min_size=1, max_size=120)


def consecutive(*sizes):
    ends = np.cumsum(sizes)
    return [Ranges(np.array([end - size]), np.array([end])) for size, end in zip(sizes, ends, strict=True)]


def drawn(order, steps):
    return np.concatenate([order.numbers(step) for step in steps])


@given(runs, st.sets(st.integers(0, 310), max_size=60))
def test_ranges_hold_exactly_their_numbers(numbers, gone):
    ranges = Ranges.of(np.array(list(numbers)))
    assert ranges.numbers().tolist() == sorted(numbers)
    assert len(ranges) == len(numbers)
    assert ranges.without(gone).numbers().tolist() == sorted(numbers - gone)


def test_ranges_of_nothing():
    empty = Ranges.of([])
    assert len(empty) == 0 and empty.numbers().tolist() == [] and len(empty.without([3])) == 0


@given(st.integers(1, 500), st.integers(0, 2**63))
def test_permute_is_a_permutation(size, key):
    image = permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    assert sorted(image) == list(range(size))


@pytest.mark.parametrize("size", [1, 2**20 - 1, 2**31 + 11, 2**40])
def test_permute_stays_inside_large_domains(size):
    positions = np.unique(np.linspace(0, size - 1, 1000).astype(np.int64))
    image = permute(positions, np.full_like(positions, size), np.full(len(positions), 7, np.uint64))
    assert len(set(image)) == len(positions) and image.min() >= 0 and image.max() < size


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_order_of_a_small_stratum_is_equally_likely(size):
    draws = 60 * len(list(permutations(range(size))))
    keys = np.random.default_rng(0).integers(0, 2**63, draws).astype(np.uint64)
    images = permute(np.tile(np.arange(size), draws), np.full(draws * size, size), np.repeat(keys, size))
    counts = Counter(map(tuple, images.reshape(draws, size)))
    assert chisquare([counts[p] for p in permutations(range(size))]).pvalue > 1e-3


@pytest.mark.parametrize("size", [7, 12, 23])
def test_every_pair_comes_first_equally_often(size):
    keys = np.arange(40 * size * size).astype(np.uint64)
    first, second = (permute(np.full(len(keys), p), np.full(len(keys), size), keys) for p in (0, 1))
    counts = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    assert chisquare(counts[~np.eye(size, dtype=bool)]).pvalue > 1e-3


def test_first_positions_are_uniform():
    size, keys = 100, 20_000
    first = permute(np.zeros(keys, np.int64), np.full(keys, size), np.arange(keys).astype(np.uint64))
    assert chisquare(np.bincount(first, minlength=size)).pvalue > 1e-3


def test_neighbours_are_torn_apart():
    size = 10_000
    image = permute(np.arange(size), np.full(size, size), np.full(size, 5, np.uint64))
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 0.05


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), st.sampled_from([1, 4, 64]))
def test_each_pass_gives_every_sample_once(size, batch, seed, block):
    order = Order(consecutive(size), [1.0], batch, seed, block)
    numbers = drawn(order, range(-(-3 * size // batch)))
    counts = np.bincount(numbers, minlength=size)
    assert counts.max() - counts.min() <= 1 and counts.sum() == len(numbers)
    assert order.asked(17).tolist() == [17 * batch]


def test_each_stratum_is_a_chain_of_passes():
    strata = [Ranges.of([0, 1, 2, 9, 11]), Ranges.of(range(20, 37)), Ranges.of([5])]
    order = Order(strata, [1, 2, 1], batch=8, seed=3)
    steps = [order.numbers(step) for step in range(40)]
    for index, ranges in enumerate(strata):
        own = set(ranges.numbers())
        batches = [[n for n in step if n in own] for step in steps]
        taken = order.asked(40)[index]
        seen = Counter(n for b in batches for n in b)
        assert sum(seen.values()) == taken
        assert max(seen.values()) - min(seen[n] for n in own) <= 1


mixes = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=25)


@settings(max_examples=30, deadline=None)
@given(mixes, st.sampled_from([1, 2, 5, 64, 1000]))
def test_shares_are_kept_in_every_batch_and_in_every_count(weights, batch):
    order = Order(consecutive(*[10] * len(weights)), weights, batch, seed=0)
    asked = np.array([order.asked(step) for step in range(PERIOD + 1)])
    ideal = np.arange(PERIOD + 1)[:, None] * batch * order.shares
    assert (asked.sum(axis=1) == np.arange(PERIOD + 1) * batch).all()
    assert np.abs(asked - ideal).max() < 1
    each, share = np.diff(asked, axis=0), batch * order.quotas / order.quotas.sum()
    assert (each >= np.floor(share)).all() and (each <= np.ceil(share)).all()
    assert asked[PERIOD].tolist() == order.quotas.tolist() and order.quotas.min() >= 1
    wanted = np.array(weights) / sum(weights)
    assert np.abs(order.shares - wanted).max() <= len(weights) / (batch * PERIOD)


def test_explicit_shares_are_exact():
    order = Order(consecutive(1000, 1000), [3, 1], batch=8, seed=0)
    assert order.shares.tolist() == [0.75, 0.25]
    assert [(order.numbers(step) < 1000).sum() for step in range(5)] == [6] * 5


def test_a_stratum_smaller_than_its_quota_repeats():
    order = Order(consecutive(1, 3, 1000), [1, 1, 1], batch=30, seed=0)
    counts = Counter(order.numbers(0).tolist())
    assert counts[0] == 10 and sorted(counts[n] for n in (1, 2, 3)) == [3, 3, 4]
    assert order.repeated(0, 1).tolist() == [9, 7, 0]
    assert order.passes(1).tolist() == [10, 10 / 3, 0.01]


def test_numbers_are_a_pure_function_of_seed_and_step():
    strata = consecutive(100, 50)
    there = [Order(strata, [1, 1], 16, seed=4).numbers(step) for step in (900, 3, 10**9)]
    order = Order(strata, [1, 1], 16, seed=4)
    assert all((order.numbers(step) == n).all() for step, n in zip((900, 3, 10**9), there, strict=True))
    assert (Order(strata, [1, 1], 16, seed=5).numbers(3) != there[1]).any()


def test_passes_differ_from_each_other():
    order = Order(consecutive(64), [1.0], 64, seed=0)
    assert (order.numbers(0) != order.numbers(1)).any()
    assert sorted(order.numbers(0)) == sorted(order.numbers(1))


def test_repeated_equals_a_count_by_hand():
    order = Order(consecutive(10, 40), [1, 1], 8, seed=0)
    before = drawn(order, range(5))
    later = drawn(order, range(5, 12))
    seen = set(before)
    by_hand = [0, 0]
    for number in later:
        by_hand[int(number >= 10)] += number in seen
        seen.add(number)
    assert order.repeated(5, 12).tolist() == by_hand


def visits(numbers, block):
    """The blocks that a chain of samples goes through, one after the other."""
    blocks = np.asarray(numbers) // block
    return blocks[np.flatnonzero(np.append(True, np.diff(blocks)))].tolist()


@settings(max_examples=30, deadline=None)
@given(runs, st.integers(0, 5), st.integers(2, 70))
def test_blocks_are_gone_through_whole_and_in_any_order(numbers, seed, block):
    held = sorted(numbers)
    order = Order([Ranges.of(numbers)], [1.0], 1, seed, block)
    for epoch in range(2):
        chain = np.concatenate([order.numbers(epoch * len(held) + step) for step in range(len(held))])
        assert sorted(chain) == held
        assert sorted(visits(chain, block)) == sorted({number // block for number in held})


def test_blocks_and_what_is_in_them_are_shuffled():
    order = Order(consecutive(64 * 50 + 5), [1.0], 64 * 50 + 5, seed=0, block=64)
    passes = [order._at(np.zeros(3205, np.int64), np.arange(start, start + 3205)) for start in (0, 3205)]
    ways = [visits(chain, 64) for chain in passes]
    assert ways[0] != sorted(ways[0]) and ways[0] != ways[1]
    inside = [chain[chain // 64 == 7].tolist() for chain in passes]
    assert inside[0] != sorted(inside[0]) and inside[0] != inside[1]


def test_blocks_leave_mixing_and_purity_as_they_are():
    strata = [Ranges.of([*range(40, 130), *range(140, 200)]), Ranges.of(range(300, 340))]
    with_blocks, without = (Order(strata, [3, 1], 16, seed=1, block=block) for block in (8, 1))
    for step in (900, 3, 0, 10**6, 3):
        numbers = with_blocks.numbers(step)
        assert (numbers == Order(strata, [3, 1], 16, seed=1, block=8).numbers(step)).all()
        assert (numbers >= 300).sum() == (without.numbers(step) >= 300).sum() == 4


def test_weights_by_size():
    strata = consecutive(100, 10_000)
    assert power_weights(strata, 0.5) == [10, 100]
    assert power_weights(strata, 0) == [1, 1]


@pytest.mark.parametrize(
    ("sizes", "weights", "batch", "says"),
    [
        ((3, 0), (1, 1), 4, "empty"),
        ((3, 3), (1,), 4, "2 strata and 1 weights"),
        ((3, 3), (1, 0), 4, "above 0"),
        ((3,), (float("nan"),), 4, "above 0"),
        ((3,), (1,), 0, "too small"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(sizes, weights, batch, says):
    with pytest.raises(RequestError, match=says):
        Order(consecutive(*sizes), weights, batch, seed=0)
