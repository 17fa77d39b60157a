"""(seed, step) -> which samples: a pure function, so that resuming, any number of ranks and mixing need no state.

Every stratum is an endless chain of seeded permutations of its samples, and takes a fixed share of each batch. A
permutation is a Feistel network on the smallest grid that holds the stratum (Black and Rogaway 2002, "Ciphers with
arbitrary finite domains"), so memory does not grow with the data. From afar, blocks of neighbours are permuted, then
the samples of each, so that what one read brings is used together; memory then holds a few numbers a block. Shares are
met by proportionate-fair scheduling (Srinivasan and Anderson 2002, PD2): each batch holds the floor or the ceiling of a
stratum's share of it, and the running count never strays from the share by a whole sample.

S strata, B samples a batch, K steps a period.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medweave.errors import RequestError
from medweave.seeds import seed_of

Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

PERIOD = 4096  # steps after which the quotas repeat; the least share of a stratum is one sample a period
ROUNDS = 10
GOLDEN = 0x9E3779B97F4A7C15
STRETCH = 2**20  # samples whose numbers are held at a time


@dataclass(frozen=True)
class Ranges:
    """Sample numbers as runs [start, stop), in ascending order. starts, stops: int64 [runs]."""

    starts: Numbers
    stops: Numbers

    @classmethod
    def of(cls, numbers: Iterable[int] | Numbers) -> Ranges:
        """The ranges that hold exactly `numbers`, in any order."""
        numbers = np.unique(np.fromiter(numbers, np.int64) if not isinstance(numbers, np.ndarray) else numbers)
        cuts = np.flatnonzero(np.diff(numbers) != 1)
        ends = np.append(numbers[cuts], numbers[-1:])
        return cls(np.append(numbers[:1], numbers[cuts + 1]).astype(np.int64), ends.astype(np.int64) + 1)

    @classmethod
    def of_run(cls, start: int, stop: int) -> Ranges:
        """The one range [start, stop)."""
        return cls(np.array([start]), np.array([stop]))

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> Ranges:
        """The ranges of the samples that are True. mask: [samples]."""
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
        return cls(edges[::2], edges[1::2])

    @classmethod
    def joined(cls, parts: Sequence[Ranges]) -> Ranges:
        """The ranges of parts that follow each other; runs that touch become one."""
        starts = np.concatenate([np.empty(0, np.int64), *(part.starts for part in parts)])
        stops = np.concatenate([np.empty(0, np.int64), *(part.stops for part in parts)])
        apart = starts[1:] != stops[:-1]
        return cls(starts[np.append(True, apart)[: len(starts)]], stops[np.append(apart, True)[: len(stops)]])

    def __len__(self) -> int:
        return int((self.stops - self.starts).sum())

    def numbers(self) -> Numbers:
        """Every sample number, ascending: int64 [n]."""
        lengths = self.stops - self.starts
        return np.arange(len(self)) + np.repeat(self.stops - np.cumsum(lengths), lengths)

    def pieces(self) -> Iterator[Numbers]:
        """Every sample number, ascending, those of one stretch of the corpus at a time."""
        first, last = (int(self.starts[0]), int(self.stops[-1])) if len(self.starts) else (0, 0)
        for start in range(first, last, STRETCH):
            yield self.within(start, start + STRETCH).numbers()

    def mask(self, samples: int) -> NDArray[np.bool_]:
        """Which of the first `samples` samples are in these ranges, that lie among them: [samples]."""
        inside = np.zeros(samples + 1, np.int8)
        inside[self.starts] += 1
        inside[self.stops] -= 1
        return np.cumsum(inside[:-1], dtype=np.int8).view(bool)

    def within(self, start: int, stop: int) -> Ranges:
        """The part of these ranges that lies in [start, stop)."""
        here = slice(np.searchsorted(self.stops, start, side="right"), np.searchsorted(self.starts, stop))
        return Ranges(np.maximum(self.starts[here], start), np.minimum(self.stops[here], stop))

    def without(self, numbers: Iterable[int]) -> Ranges:
        """These ranges less `numbers`. The work grows with the runs and the numbers, not with the samples."""
        gone = np.unique(np.fromiter(numbers, np.int64))
        run = np.searchsorted(self.starts, gone, side="right") - 1
        gone = gone[(run >= 0) & (gone < self.stops[run])] if len(self.starts) else gone[:0]
        starts = np.sort(np.concatenate([self.starts, gone + 1]))
        stops = np.sort(np.concatenate([self.stops, gone]))
        return Ranges(starts[starts < stops], stops[starts < stops])


def power_weights(strata: Sequence[Ranges], alpha: float) -> list[float]:
    """Weights n^alpha: 1 is the natural mix, 0 gives every stratum the same share."""
    return [len(ranges) ** alpha for ranges in strata]


class Order:
    """Which samples each step takes, mixed by weights.

    block: sample numbers are cut at multiples of it, and what lies between two cuts is visited together (remote data).
    """

    def __init__(
        self, strata: Sequence[Ranges], weights: Sequence[float], batch: int, seed: int, block: int = 1
    ) -> None:
        _check(strata, weights, batch)
        self.batch, self.seed, self.block = batch, seed, block
        self.sizes = np.array([len(ranges) for ranges in strata], np.int64)
        self.quotas = _quotas(np.asarray(weights, np.float64), batch)
        self._sums = _schedule(self.quotas, batch)
        self._keys = np.array([seed_of(seed, "order", s) for s in range(len(strata))], np.uint64)
        starts, stops = (np.concatenate([getattr(r, side) for r in strata]) for side in ("starts", "stops"))
        self._run_ends = np.cumsum(stops - starts)
        self._run_shift = stops - self._run_ends
        self._bases = np.cumsum(self.sizes) - self.sizes
        self._blocks = [_edges(ranges, block) for ranges in strata] if block > 1 else []
        self._passes: dict[int, tuple[int, Numbers, Numbers]] = {}

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each stratum in the long run: [S], sums to 1."""
        return self.quotas / self.quotas.sum()

    def asked(self, step: int) -> Numbers:
        """How many samples each stratum has given before `step`: int64 [S], sums to step x batch."""
        periods, rest = divmod(step, PERIOD)
        return periods * self.quotas + self._sums[rest]

    def passes(self, step: int) -> NDArray[np.float64]:
        """How often each stratum has been gone through before `step`: [S]. Above 1, samples are repeated."""
        return self.asked(step) / self.sizes

    def repeated(self, step_from: int, step_to: int) -> Numbers:
        """Of the samples that steps [step_from, step_to) give, how many an earlier step gave too: int64 [S]."""
        before, after = self.asked(step_from), self.asked(step_to)
        return np.maximum(after - self.sizes, 0) - np.maximum(before - self.sizes, 0)

    def numbers(self, step: int) -> Numbers:
        """The sample numbers of one batch: int64 [B], strata mixed."""
        before, after = self.asked(step), self.asked(step + 1)
        counts = after - before
        stratum = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(self.batch) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = self._at(stratum, before[stratum] + rank)
        places = np.arange(self.batch)
        key = np.full(self.batch, seed_of(self.seed, "batch", step), np.uint64)
        return numbers[permute(places, np.full_like(places, self.batch), key)]

    def _at(self, stratum: Numbers, position: Numbers) -> Numbers:
        """The sample numbers at positions of the strata's endless chains."""
        size = self.sizes[stratum]
        epoch, position = np.divmod(position, size)
        key = _mix(self._keys[stratum] + epoch.astype(np.uint64) * np.uint64(GOLDEN))
        place = self._in_blocks(stratum, epoch, position, key) if self._blocks else permute(position, size, key)
        flat = self._bases[stratum] + place
        return flat + self._run_shift[np.searchsorted(self._run_ends, flat, side="right")]

    def _in_blocks(self, stratum: Numbers, epoch: Numbers, position: Numbers, key: Hashes) -> Numbers:
        """Each position's image when the blocks of its stratum are permuted, and then the samples of each block."""
        block, inner, first, size = (np.empty_like(position) for _ in range(4))
        for s, e in np.unique(np.stack([stratum, epoch]), axis=1).T.tolist():
            here = np.flatnonzero((stratum == s) & (epoch == e))
            blocks, starts = self._pass(s, e, key[here[:1]])
            turn = np.searchsorted(starts, position[here], side="right") - 1
            block[here], edges = blocks[turn], self._blocks[s]
            inner[here], first[here] = position[here] - starts[turn], edges[blocks[turn]]
            size[here] = edges[blocks[turn] + 1] - first[here]
        return first + permute(inner, size, _mix(key ^ _mix(block.astype(np.uint64))))

    def _pass(self, stratum: int, epoch: int, key: Hashes) -> tuple[Numbers, Numbers]:
        """The blocks of one pass in their order, and the position of the first sample of each: two [blocks].

        The last pass of each stratum is kept.
        """
        kept = self._passes.get(stratum)
        if kept is None or kept[0] != epoch:
            sizes = np.diff(self._blocks[stratum])
            count = np.full(len(sizes), len(sizes))
            blocks = permute(np.arange(len(sizes)), count, key.repeat(len(sizes)))
            kept = self._passes[stratum] = epoch, blocks, np.cumsum(sizes[blocks]) - sizes[blocks]
        return kept[1:]


def permute(position: Numbers, size: Numbers, key: Hashes) -> Numbers:
    """Each position's image under the permutation of [0, size) that its key names. All: [n]; size at least 1.

    The grid of rows x columns is at most one row larger than the stratum: an image outside is permuted again.
    """
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = -(-size // rows.astype(np.int64)).astype(np.uint64)
    image = position.astype(np.uint64)
    open_ = np.arange(len(image))
    while len(open_):
        image[open_] = _feistel(image[open_], rows[open_], columns[open_], key[open_])
        open_ = open_[image[open_] >= size[open_].astype(np.uint64)]
    return image.astype(np.int64)


def _feistel(position: Hashes, rows: Hashes, columns: Hashes, key: Hashes) -> Hashes:
    row, column = np.divmod(position, columns)
    for turn in range(ROUNDS):
        turned = _mix(key + np.uint64(turn))
        if turn % 2:
            row = (row + _mix(column + turned) % rows) % rows
        else:
            column = (column + _mix(row + turned) % columns) % columns
    return row * columns + column


def _edges(ranges: Ranges, block: int) -> Numbers:
    """How many samples of the ranges lie before each block that has any, and in all: int64 [blocks + 1]."""
    first, last = ranges.starts // block, (ranges.stops - 1) // block
    run = np.repeat(np.arange(len(first)), last - first + 1)
    number = first[run] + np.arange(len(run)) - np.searchsorted(run, run)
    held = np.minimum(ranges.stops[run], (number + 1) * block) - np.maximum(ranges.starts[run], number * block)
    new = np.flatnonzero(np.diff(number)) + 1
    return np.concatenate([[0], np.cumsum(held)[new - 1], [held.sum()]])


def _mix(value: Hashes) -> Hashes:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    value = value + np.uint64(GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _quotas(weights: NDArray[np.float64], batch: int) -> Numbers:
    """Samples of each stratum in a period: int64 [S], at least 1, sums to batch x PERIOD (largest remainders)."""
    exact = weights / weights.sum() * batch * PERIOD
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: batch * PERIOD - quotas.sum()]] += 1
    quotas[np.argmax(quotas)] -= np.count_nonzero(quotas == 0)
    return np.maximum(quotas, 1)


def _schedule(quotas: Numbers, batch: int) -> Numbers:
    """Samples that each stratum has given before each step of a period: int64 [K, S]; row k sums to k x batch.

    Every batch holds the whole part of each share; the `free` places left go to strata by PD2: earliest deadline
    first, then those whose windows overlap, then the latest group deadline.
    """
    every, rest = np.divmod(quotas, PERIOD)
    free = batch - int(every.sum())
    sums = np.zeros((PERIOD, len(quotas)), np.int64)
    given = np.zeros_like(rest)
    for step in range(PERIOD - 1):
        if free:
            given[_due(given, rest, step)[:free]] += 1
        sums[step + 1] = (step + 1) * every + given
    return sums


def _due(given: Numbers, rest: Numbers, step: int) -> Numbers:
    """The strata that may have one more place at `step`, most urgent first. given, rest: [S]; shares rest / K."""
    may = np.flatnonzero(given * PERIOD < (step + 1) * rest)
    subtask, weight = (given[may] + 1) * PERIOD, rest[may]
    deadline = -(-subtask // weight)
    overlaps = subtask % weight != 0
    idle = PERIOD - weight
    group = np.where(2 * weight >= PERIOD, -(-(-(-deadline * idle // PERIOD) * PERIOD) // idle), 0)
    return may[np.lexsort((-group, ~overlaps, deadline))]


def _check(strata: Sequence[Ranges], weights: Sequence[float], batch: int) -> None:
    if not strata or len(strata) != len(weights):
        raise RequestError(f"{len(strata)} strata and {len(weights)} weights", todo="give one weight a stratum")
    if any(len(ranges) == 0 for ranges in strata):
        raise RequestError("a stratum is empty", todo="leave it out of the mix")
    if not all(np.isfinite(w) and w > 0 for w in weights):
        raise RequestError("weights of the mix must be above 0", todo="leave out what should not be trained on")
    if batch < 1 or batch * PERIOD < 2 * len(strata):
        raise RequestError(f"a batch of {batch} is too small for {len(strata)} strata", todo="take a larger batch")
