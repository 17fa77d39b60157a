import numpy as np
import pytest
from PIL import Image

from medweave.corpus.fingerprint import TURNS, distance, hashes
from medweave.corpus.near import candidates, correlation, near_pairs


def scene(seed, side=64):
    """A smooth random picture with fine structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return (0.6 * np.asarray(coarse) + 0.35 * np.asarray(fine) + 12).astype(np.uint8)


def eye(seed):
    """A bright disc with vessels of its own: all eyes share the outline."""
    y, x = np.mgrid[:64, :64] - 31.5
    disc = (x * x + y * y < 29**2) * (150 - (x * x + y * y) / 20)
    rng = np.random.default_rng(seed)
    vessels = np.zeros((64, 64))
    for angle, bend in zip(rng.uniform(0, 7, 9), rng.uniform(-0.08, 0.08, 9), strict=True):
        r = np.arange(27)
        rows, columns = 31 + r * np.sin(angle + bend * r), 31 + r * np.cos(angle + bend * r)
        vessels[rows.astype(int), columns.astype(int)] = 60
    return np.clip(disc - vessels, 0, 255).astype(np.uint8)


def prints(thumbs):
    return hashes(np.rint(thumbs.reshape(len(thumbs), 32, 2, 32, 2).mean((2, 4))))


def pairs_of(thumbs, bits=10, least=0.5):
    count = len(thumbs)
    found = near_pairs(prints(thumbs), lambda some: thumbs[some], np.full(count, bits), np.full(count, least))
    return [tuple(pair) for pair in found.tolist()]


def turned(picture, turn):
    transposed, up, left = TURNS[turn]
    picture = picture[::-1] if up else picture
    picture = picture[:, ::-1] if left else picture
    return picture.T if transposed else picture


def test_candidates_within_seven_bits_are_all_found():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, n % 12, replace=False)) for n in range(300)], np.uint64)
    first = np.concatenate([base, base ^ flips])
    eight = np.concatenate([first[:, None], rng.integers(0, 2**63, (600, 7), dtype=np.uint64)], axis=1)
    found = {
        (int(a), int(b), int(turn))
        for pairs, turns in candidates(eight, np.full(600, 10))
        for (a, b), turn in zip(pairs, turns, strict=True)
    }
    for turn in range(8):
        apart = distance(eight[:, None, turn], eight[None, :, 0])
        upper = np.arange(600)[:, None] < np.arange(600)
        naive = {(int(a), int(b), turn) for a, b in zip(*np.nonzero((apart <= 7) & upper), strict=True)}
        assert naive <= found
    assert all(distance(eight[a, turn], eight[b, 0]) <= 10 for a, b, turn in found)


@pytest.mark.parametrize("turn", range(8))
def test_a_copy_is_found_under_every_rotation_and_flip(turn):
    thumbs = np.stack([scene(1), scene(2), turned(scene(1), turn), scene(3)])
    assert pairs_of(thumbs) == [(0, 2)]


def test_copies_that_were_brightened_recompressed_and_resized_are_found():
    def again(picture):
        image = Image.fromarray((picture * 0.8 + 20).astype(np.uint8)).resize((150, 150)).resize((64, 64))
        return np.asarray(image)

    thumbs = np.stack([scene(n) for n in range(5)] + [again(scene(n)) for n in range(5)])
    assert pairs_of(thumbs) == [(n, n + 5) for n in range(5)]


def test_two_eyes_share_an_outline_but_are_no_pair():
    thumbs = np.stack([eye(n) for n in range(12)])
    candidate_pairs = sum(len(pairs) for pairs, _ in candidates(prints(thumbs), np.full(12, 20)))
    assert candidate_pairs > 12
    assert pairs_of(thumbs, bits=20) == []


def test_the_stricter_of_two_thresholds_holds():
    thumbs = np.stack([scene(1), scene(1)])
    eight = prints(thumbs)
    found = near_pairs(eight, lambda some: thumbs[some], np.array([10, 10]), np.array([0.5, 1.01]))
    assert len(found) == 0


def test_correlation_is_one_for_the_same_picture_and_none_for_blank_ones():
    thumbs = np.stack([scene(1), scene(1), np.zeros((64, 64), np.uint8), np.full((64, 64), 200, np.uint8)])
    pairs = np.array([[0, 1], [2, 2], [0, 2], [3, 3]])
    found = correlation(lambda some: thumbs[some], pairs, np.zeros(4, int))
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert np.abs(found[1:]).max() < 1e-3
