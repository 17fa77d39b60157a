"""Perceptual hashes: the same for the same picture in other clothes, the eight turns derived from one."""

from __future__ import annotations

import io

import numpy as np
import scipy.fft
from PIL import Image

from medweave.corpus.fingerprint import TURNS, distance, hashes, thumbnail


def picture(seed: int, height: int = 200, width: int = 260) -> np.ndarray:
    seeds = np.random.default_rng(seed).integers(0, 256, (9, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC))


def turned(array: np.ndarray, transposed: bool, up: bool, left: bool) -> np.ndarray:
    array = array[::-1] if up else array
    array = array[:, ::-1] if left else array
    return array.T if transposed else array


def eight_of(array: np.ndarray) -> np.ndarray:
    return hashes(thumbnail(array)[None])[0]


def test_the_hash_is_the_dct_hash() -> None:
    thumb = thumbnail(picture(0))
    low = scipy.fft.dctn(thumb.astype(float))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    expected = sum(1 << place for place in range(1, 64) if bits[place])
    # type-II coefficients of the lowest row and column carry the same sign whatever the norm
    assert bin(int(eight_of(picture(0))[0]) ^ expected).count("1") <= 2


def test_eight_hashes_are_those_of_the_eight_turned_pictures() -> None:
    for seed in range(20):
        array = picture(seed)
        eight = eight_of(array)
        assert eight.dtype == np.uint64
        for place, turn in enumerate(TURNS):
            assert distance(eight[place], eight_of(turned(array, *turn))[0]) <= 2


def test_other_clothes_and_other_pictures() -> None:
    for seed in range(20):
        array = picture(seed)
        file = io.BytesIO()
        Image.fromarray(array).resize((130, 100)).save(file, "JPEG", quality=50)
        again = np.asarray(Image.open(file))
        brighter = (array * 0.8 + 30).astype(np.uint8)
        own = eight_of(array)[0]
        for other in (again, brighter, np.repeat(array[..., None], 3, axis=2)):
            assert distance(own, eight_of(other)[0]) <= 4
        assert distance(own, eight_of(picture(seed + 100))[0]) >= 12


def test_many_at_once_equals_one_by_one() -> None:
    thumbs = [thumbnail(picture(seed)) for seed in range(5)]
    assert np.array_equal(hashes(np.stack(thumbs)), np.stack([hashes(thumb[None])[0] for thumb in thumbs]))
    assert all(thumb.shape == (32, 32) and thumb.dtype == np.uint8 for thumb in thumbs)


def test_blank_and_tiny_pictures_have_a_fingerprint() -> None:
    for array in (np.zeros((1, 1), np.uint8), np.full((5, 300, 3), 255, np.uint8)):
        assert eight_of(array).shape == (8,)
