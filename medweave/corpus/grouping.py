"""Groups: what must stay together. Groups -> sides of a split, or folds, so that each class gets its share everywhere.

n samples, g groups, c classes, k sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from medweave.seeds import generator, seed_of


def components(count: int, edges: np.ndarray) -> np.ndarray:
    """The connected component of each of `count` nodes, int64 [n] from 0 in order of first nodes. edges: int [e,2]."""
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def same_value(values: np.ndarray) -> np.ndarray:
    """Edges int64 [e,2] that chain together the nodes of equal value. values: int [n], negative for none."""
    nodes = np.flatnonzero(values >= 0)
    nodes = nodes[np.argsort(values[nodes], kind="stable")]
    equal = values[nodes[1:]] == values[nodes[:-1]]
    return np.stack([nodes[:-1][equal], nodes[1:][equal]], axis=1)


def deal(
    groups: np.ndarray, classes: np.ndarray, shares: Sequence[float], seed: int, fixed: np.ndarray | None = None
) -> np.ndarray:
    """A side in 0..k-1 for each sample, int64 [n]; a group is never divided.

    groups, classes: int [n] from 0. shares [k] sum to 1. fixed: int [n], the side that a group already has, or -1.
    From the rarest class on, each class's groups come in seeded order (those larger than the smallest quota first) to
    the side that lacks most of the class; the last ones are kept for sides that have none. So no side gets a class's
    quota exceeded by more than one group, as far as groups hold one class each.
    """
    hands = _Hands(groups, classes, shares, fixed)
    for one in hands.rarest_first():
        waiting = hands.waiting(one)
        order = generator(seed, "deal", int(one)).permutation(len(waiting))
        large = hands.table[waiting, one].toarray().ravel() > hands.smallest_quota(one)
        for place, group in enumerate(waiting[order[np.argsort(~large[order], kind="stable")]]):
            hands.give(int(group), int(one), left=len(waiting) - place)
    return hands.side[groups]


class _Hands:
    """What each side holds already, and which groups still wait. side: int64 [g], -1 while a group waits."""

    def __init__(
        self, groups: np.ndarray, classes: np.ndarray, shares: Sequence[float], fixed: np.ndarray | None
    ) -> None:
        count, kinds = int(groups.max(initial=-1)) + 1, int(classes.max(initial=-1)) + 1
        self.shares = np.asarray(shares, float)
        ones = np.ones(len(groups), np.int64)
        self.table: csr_matrix = coo_matrix((ones, (groups, classes)), shape=(count, kinds)).tocsr()
        self.table.sum_duplicates()
        self.by_class = self.table.tocsc()
        self.quota = np.bincount(classes, minlength=kinds)[:, None] * self.shares
        self.missing = self.quota.copy()
        self.seats = np.zeros((kinds, len(self.shares)), np.int64)
        self.total = self.shares * len(groups)
        self.side = np.full(count, -1)
        if fixed is not None:
            for group, side in zip(*np.unique(np.stack([groups, fixed])[:, fixed >= 0], axis=1), strict=True):
                self._put(int(group), int(side))

    def rarest_first(self) -> np.ndarray:
        """Classes by their number of groups."""
        return np.argsort(np.diff(self.by_class.indptr), kind="stable")

    def waiting(self, one: int) -> np.ndarray:
        """The groups of a class that have no side yet."""
        groups = np.sort(self.by_class.indices[self.by_class.indptr[one] : self.by_class.indptr[one + 1]])
        return groups[self.side[groups] < 0]

    def smallest_quota(self, one: int) -> float:
        """The smallest share of a class that any side wants, in samples."""
        return float(self.quota[one][self.shares > 0].min())

    def give(self, group: int, one: int, left: int) -> None:
        """Put a group where its class is missed most. left: groups of the class that still wait, this one included."""
        empty = np.flatnonzero((self.seats[one] == 0) & (self.shares > 0))
        sides = empty if 0 < len(empty) >= left else np.flatnonzero(self.shares > 0)
        best = max(sides, key=lambda side: (self.missing[one, side], self.total[side]))
        self._put(group, int(best))

    def _put(self, group: int, side: int) -> None:
        some = slice(self.table.indptr[group], self.table.indptr[group + 1])
        kinds, count = self.table.indices[some], self.table.data[some]
        self.side[group] = side
        self.missing[kinds, side] -= count
        self.seats[kinds, side] += 1
        self.total[side] -= count.sum()


def deal_by_hash(names: Sequence[str], shares: Sequence[float], seed: int) -> np.ndarray:
    """A side in 0..k-1 for each group by its name alone, int64 [g]: what else is in the corpus does not matter."""
    ends = np.cumsum(shares)
    points = np.array([seed_of(seed, "split", name) / 2.0**63 for name in names])
    return np.minimum(np.searchsorted(ends, points, side="right"), np.flatnonzero(np.asarray(shares) > 0)[-1])


def deal_folds(
    groups: np.ndarray, classes: np.ndarray, count: int, seed: int, fixed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(fold in 0..count-1, inner in 0..9), int64 [n] each: inner divides each fold once more in the same way.

    fixed: int [n,2], the fold and inner part that a group already has, or -1.
    """
    fold = deal(groups, classes, [1 / count] * count, seed, None if fixed is None else fixed[:, 0])
    inner = np.zeros(len(groups), np.int64)
    for one in range(count):
        some = fold == one
        own = np.unique(groups[some], return_inverse=True)[1]
        inner[some] = deal(own, classes[some], [0.1] * 10, seed + 1 + one, None if fixed is None else fixed[some, 1])
    return fold, inner
