import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medweave.corpus.grouping import components, deal, deal_by_hash, deal_folds, same_value

SHARES = st.sampled_from([(0.8, 0.1, 0.1), (0.7, 0.0, 0.3), (0.2,) * 5, (0.1,) * 10])
GROUPED = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=80)


def arrays(pairs):
    groups = np.unique([g for g, _ in pairs], return_inverse=True)[1]
    classes = np.unique([c for _, c in pairs], return_inverse=True)[1]
    return groups, classes


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_components_are_those_of_a_naive_flood(edges):
    label = list(range(20))
    for _ in range(20):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    found = components(20, np.array(edges, np.int64).reshape(-1, 2))
    assert [[a == b for b in label] for a in label] == (found[:, None] == found).tolist()


def test_same_value_chains_equal_values_and_leaves_out_none():
    edges = same_value(np.array([3, -1, 3, 5, -1, 3]))
    assert components(6, edges).tolist() == [0, 1, 0, 2, 3, 0]


@given(GROUPED, SHARES, st.integers(0, 5))
def test_a_group_is_never_divided_and_the_deal_repeats(pairs, shares, seed):
    groups, classes = arrays(pairs)
    side = deal(groups, classes, shares, seed)
    assert all(len(set(side[groups == g])) == 1 for g in groups)
    assert all(shares[s] > 0 for s in side)
    assert (side == deal(groups, classes, shares, seed)).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=40), SHARES, st.integers(0, 5))
def test_no_side_exceeds_a_class_quota_by_more_than_one_group(sizes, shares, seed):
    """Groups of one class each: (class, size)."""
    groups = np.repeat(np.arange(len(sizes)), [size for _, size in sizes])
    classes = np.unique([c for c, size in sizes for _ in range(size)], return_inverse=True)[1]
    side = deal(groups, classes, shares, seed)
    for one in np.unique(classes):
        count = np.bincount(side[classes == one], minlength=len(shares))
        largest = np.bincount(groups[classes == one]).max()
        assert (count < np.array(shares) * (classes == one).sum() + largest + 1e-9).all()


@given(st.integers(3, 40), st.integers(0, 5))
def test_a_class_of_three_groups_or_more_is_on_every_side(count, seed):
    side = deal(np.arange(count), np.zeros(count, int), (0.8, 0.1, 0.1), seed)
    assert set(side) == {0, 1, 2}


def test_large_numbers_meet_their_quotas():
    rng = np.random.default_rng(0)
    groups = np.unique(rng.integers(0, 3000, 10_000), return_inverse=True)[1]
    classes = rng.choice(6, 10_000, p=[0.02, 0.08, 0.1, 0.2, 0.3, 0.3])
    side = deal(groups, classes, (0.8, 0.1, 0.1), 0)
    for one in range(6):
        share = np.bincount(side[classes == one]) / (classes == one).sum()
        assert np.abs(share - (0.8, 0.1, 0.1)).max() < 0.02


@given(GROUPED, st.integers(0, 5), st.data())
def test_settled_groups_stay(pairs, seed, data):
    groups, classes = arrays(pairs)
    count = int(groups.max()) + 1
    settled = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count)))
    side = deal(groups, classes, (0.8, 0.1, 0.1), seed, settled[groups])
    assert (side[settled[groups] >= 0] == settled[groups][settled[groups] >= 0]).all()


def test_hash_split_depends_on_the_name_alone():
    names = [f"source/{number}" for number in range(20_000)]
    side = deal_by_hash(names, (0.8, 0.1, 0.1), 0)
    assert (deal_by_hash(names[500:], (0.8, 0.1, 0.1), 0) == side[500:]).all()
    assert np.abs(np.bincount(side) / len(names) - (0.8, 0.1, 0.1)).max() < 0.01
    assert (deal_by_hash(names, (0.8, 0.1, 0.1), 1) != side).any()
    assert set(deal_by_hash(names[:100], (1.0, 0.0, 0.0), 0)) == {0}


@settings(max_examples=30)
@given(GROUPED, st.integers(2, 5))
def test_folds_and_inner_parts_keep_groups_whole(pairs, count):
    groups, classes = arrays(pairs)
    fold, inner = deal_folds(groups, classes, count, seed=3)
    for g in groups:
        assert len(set(zip(fold[groups == g], inner[groups == g], strict=True))) == 1
    assert fold.min() >= 0 and fold.max() < count and inner.min() >= 0 and inner.max() < 10


def test_folds_are_balanced_by_class():
    classes = np.repeat([0, 1], [40, 100])
    fold, inner = deal_folds(np.arange(140), classes, 5, seed=0)
    for one, size in ((0, 8), (1, 20)):
        assert (np.bincount(fold[classes == one]) == size).all()
    assert np.bincount(inner[fold == 2], minlength=10).max() <= 4
