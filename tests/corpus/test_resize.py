"""Resizing: close to open_clip's own transform, whatever the shape."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medweave.corpus.resize import placed, resize, scaled

MODES = {"crop": "shortest", "pad": "longest", "squash": "squash"}


def smooth(height: int, width: int, colour: bool = True) -> np.ndarray:
    seeds = np.random.default_rng(height * width).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    grown = np.asarray(Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC))
    return grown if colour else grown[..., 0]


def stock(array: np.ndarray, size: int, policy: str) -> np.ndarray:
    """open_clip's evaluation pixels as uint8 [s,s,3]."""
    transform = open_clip.image_transform(
        size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=MODES[policy], interpolation="bicubic"
    )
    return (transform(Image.fromarray(array)) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def in_colour(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


@pytest.mark.parametrize("policy", ["crop", "pad", "squash"])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 300), (224, 224), (90, 120), (128, 128)])
@pytest.mark.parametrize("colour", [True, False])
def test_pixels_are_close_to_those_of_open_clip(policy: str, height: int, width: int, colour: bool) -> None:
    array = smooth(height, width, colour)
    found = resize(array, 128, policy)
    assert found.shape == (128, 128, 3)[: array.ndim] and found.dtype == np.uint8
    assert np.abs(in_colour(found).astype(int) - stock(array, 128, policy)).mean() < 1.5


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 50), st.sampled_from(["crop", "pad", "squash"]))
def test_any_shape_becomes_a_square(height: int, width: int, size: int, policy: str) -> None:
    assert resize(smooth(height, width), size, policy).shape == (size, size, 3)


def test_padding_is_black() -> None:
    found = resize(np.full((40, 80, 3), 200, np.uint8), 64, "pad")
    assert not found[:16].any() and not found[48:].any() and (found[16:48] == 200).all()


def test_pictures_that_may_not_be_written_and_parts_of_pictures() -> None:
    array = smooth(100, 120)
    still = array.copy()
    still.flags.writeable = False
    assert np.array_equal(scaled(still, 50, 60), scaled(array, 50, 60))
    assert np.array_equal(scaled(array[10:90, 20:100], 40, 40), scaled(array[10:90, 20:100].copy(), 40, 40))
    assert np.array_equal(scaled(array[..., 1], 50, 60), scaled(array, 50, 60)[..., 1])


@settings(max_examples=150, deadline=None)
@given(*[st.integers(1, 12)] * 2, *[st.integers(-15, 15)] * 2, st.integers(1, 10))
def test_placed_equals_a_naive_loop(height: int, width: int, top: int, left: int, size: int) -> None:
    array = np.random.default_rng(0).integers(1, 256, (height, width), dtype=np.uint8)
    naive = np.zeros((size, size), np.uint8)
    for y in range(height):
        for x in range(width):
            if 0 <= y + top < size and 0 <= x + left < size:
                naive[y + top, x + left] = array[y, x]
    assert np.array_equal(placed(array, top, left, size), naive)
