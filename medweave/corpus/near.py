"""Near-duplicates: pairs of pictures that show the same thing, also re-encoded, resized, rotated or mirrored.

Candidates come from perceptual hashes by multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012): two hashes within 7
bits agree up to 1 bit in one of four parts of 16 bits, so looking up 17 keys a part finds them all (and most within
10 bits) without comparing every pair. A candidate is proved by the correlation of its fine detail, evened in local
contrast and without the black around the picture: round fundus images of two people share an outline, not vessels.
n pictures, eight turns, p pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from medweave.corpus.fingerprint import TURNS, distance
from medweave.progress import track

SIDE = 64
PARTS, PART_BITS = 4, 16
CLOSEST = 64  # candidates that a picture keeps in each turn
BLOCK = 2048  # pictures looked up, or pairs proved, at once
PROBES = 4_000_000  # table entries compared at once
BLACK = 16  # grey level up to which a pixel is background
SMOOTH = 2.0  # pixels; what is smoother than this is not fine detail
FLOOR = 2.0  # grey levels; weaker detail is noise


Thumbs = Callable[[np.ndarray], np.ndarray]


def near_pairs(eight: np.ndarray, thumbs: Thumbs, bits: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The near-duplicate pairs, int64 [p,2] with left < right, in order.

    eight: uint64 [n,8], from `fingerprint.hashes`. thumbs: numbers [m] of pictures -> uint8 [m,64,64].
    bits, least: [n], the largest distance and the least correlation that count for each picture; of the two in a pair
    the stricter holds.
    """
    blocks = track(candidates(eight, bits), f"near-duplicates, {BLOCK} images at a time", -(-len(eight) // BLOCK))
    found = [
        pairs[_proved(thumbs, pairs, turns, np.maximum(least[pairs[:, 0]], least[pairs[:, 1]]))]
        for pairs, turns in blocks
    ]
    return np.unique(np.concatenate([np.empty((0, 2), np.int64), *found]), axis=0)


def candidates(eight: np.ndarray, bits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (pairs int64 [p,2], turn int64 [p] that brings the left picture onto the right one)."""
    table = _Table(eight[:, 0])
    for start in range(0, len(eight), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(eight)))
        pairs, turns = [], []
        for turn in range(len(TURNS)):
            left, right = table.look_up(eight[rows, turn], int(bits.max()))
            left = rows[left]
            apart = distance(eight[left, turn], eight[right, 0])
            kept = (left < right) & (apart <= np.minimum(bits[left], bits[right]))
            kept[kept] = _closest(left[kept], apart[kept])
            pairs.append(np.stack([left[kept], right[kept]], axis=1))
            turns.append(np.full(kept.sum(), turn))
        yield np.concatenate(pairs), np.concatenate(turns)


class _Table:
    """Hashes by the value of each of their parts."""

    def __init__(self, hashes: np.ndarray) -> None:
        parts = _parts(hashes)
        self.order = np.argsort(parts, axis=1, kind="stable")
        self.sorted = hashes[self.order]
        ends = np.arange(2**PART_BITS + 1)
        self.starts = np.stack([np.searchsorted(p[o], ends) for p, o in zip(parts, self.order, strict=True)])

    def look_up(self, hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """(query, entry) numbers, each pair once, that agree up to one bit in a part and differ in `bits` at most."""
        found = [np.empty(0, np.int64)]
        for part, values in enumerate(_parts(hashes)):
            for query, place in self._same(part, values):
                near = distance(hashes[query], self.sorted[part][place]) <= bits
                found.append(query[near] * self.order.shape[1] + self.order[part][place[near]])
        return np.divmod(np.unique(np.concatenate(found)), self.order.shape[1])

    def _same(self, part: int, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of (query, place in the sorted part) that agree up to one bit in it. values: int64 [queries]."""
        flips = np.append(0, 1 << np.arange(PART_BITS))
        keys = (values[:, None] ^ flips).ravel()
        low, count = self.starts[part][keys], self.starts[part][keys + 1] - self.starts[part][keys]
        for some in _slices(count, PROBES):
            probe = np.repeat(np.arange(some.start, some.stop), count[some])
            offset = np.arange(len(probe)) - np.repeat(np.cumsum(count[some]) - count[some], count[some])
            yield probe // len(flips), low[probe] + offset


def _parts(hashes: np.ndarray) -> np.ndarray:
    """uint64 [n] -> int64 [4,n]: every fourth bit makes one part, so that each holds coarse and fine ones."""
    bits = np.unpackbits(hashes.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.stack([bits[:, part::PARTS] @ (1 << np.arange(PART_BITS)) for part in range(PARTS)])


def _slices(counts: np.ndarray, most: int) -> Iterator[slice]:
    """Slices of `counts` that sum to about `most` each."""
    ends = np.searchsorted(np.cumsum(counts), np.arange(most, counts.sum() + most, most)) + 1
    start = 0
    for end in np.unique(np.minimum(ends, len(counts))):
        yield slice(start, int(end))
        start = int(end)


def _closest(left: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Which of the candidates are among the CLOSEST of their left picture: bool [p]."""
    order = np.lexsort((apart, left))
    first = np.searchsorted(left[order], left[order], side="left")
    kept = np.empty(len(left), bool)
    kept[order] = np.arange(len(left)) - first < CLOSEST
    return kept


def _proved(thumbs: Thumbs, pairs: np.ndarray, turns: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Which pairs are the same picture: bool [p]."""
    kept = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), BLOCK):
        some = slice(start, start + BLOCK)
        kept[some] = correlation(thumbs, pairs[some], turns[some]) >= least[some]
    return kept


def correlation(thumbs: Thumbs, pairs: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """How well the fine detail of two pictures agrees where neither is black, in [-1, 1]: float32 [p]."""
    pictures, where = np.unique(pairs, return_inverse=True)
    detail, inside = fine_detail(thumbs(pictures))
    result = np.zeros(len(pairs), np.float32)
    for turn in np.unique(turns):
        some = turns == turn
        left, right = where.reshape(-1, 2)[some].T
        both = _turned(inside[left], turn) & inside[right]
        result[some] = _correlation(_turned(detail[left], turn), detail[right], both)
    return result


def fine_detail(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(detail float32, inside bool), both [n,64,64]: smooth parts removed, contrast evened, black left out."""
    around = np.ones((1, 3, 3), bool)
    inside = binary_erosion(thumbs > BLACK, around, iterations=2, border_value=1)
    weight = inside.astype(np.float32)
    grey = thumbs.astype(np.float32)
    mass = np.maximum(_smooth(weight), 1e-3)
    rough = (grey - _smooth(grey * weight) / mass) * weight
    return rough / (np.sqrt(_smooth(rough * rough) / mass) + FLOOR), inside


def _smooth(values: np.ndarray) -> np.ndarray:
    return gaussian_filter(values, (0, SMOOTH, SMOOTH))


def _turned(pictures: np.ndarray, turn: int) -> np.ndarray:
    """[n,y,x] mirrored up-down and left-right, then transposed, as `fingerprint.TURNS` says."""
    transposed, up, left = TURNS[turn]
    pictures = pictures[:, ::-1] if up else pictures
    pictures = pictures[:, :, ::-1] if left else pictures
    return pictures.swapaxes(1, 2) if transposed else pictures


def _correlation(left: np.ndarray, right: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """[p,y,x] -> [p]; 0 where fewer than a tenth of the pixels count."""
    count = inside.sum((1, 2))
    a, b = (_centred(values, inside, count) for values in (left, right))
    product = np.einsum("pyx,pyx->p", a, b)
    norms = np.sqrt(np.einsum("pyx,pyx->p", a, a) * np.einsum("pyx,pyx->p", b, b))
    return np.where(count >= SIDE * SIDE // 10, product / np.maximum(norms, 1e-6), 0)


def _centred(values: np.ndarray, inside: np.ndarray, count: np.ndarray) -> np.ndarray:
    values = values * inside
    return (values - (values.sum((1, 2)) / np.maximum(count, 1))[:, None, None]) * inside
