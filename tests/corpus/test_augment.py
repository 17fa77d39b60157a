"""Augmentation: deterministic, safe for the diagnosis, and an identity when everything is switched off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medweave.corpus.augment import ALLOWED, AugmentRecipe, augment
from medweave.corpus.resize import resize
from medweave.corpus.sample import MODALITIES
from medweave.seeds import generator

CHANCES = dict.fromkeys(("rotate", "brightness", "contrast", "gamma", "blur", "noise", "border", "erase"), 0.0)
OFF = AugmentRecipe(area=(1, 1), stretch=1, mirror=False, **CHANCES)
GEOMETRY = AugmentRecipe(**{**CHANCES, "rotate": 0.5})


def picture(height: int = 90, width: int = 120, colour: bool = True) -> np.ndarray:
    seeds = np.random.default_rng(1).integers(30, 226, (6, 8, 3), dtype=np.uint8)
    grown = np.asarray(Image.fromarray(seeds).resize((width, height), Image.Resampling.BILINEAR))
    return grown if colour else grown[..., 0]


def test_every_modality_has_its_rule() -> None:
    assert set(ALLOWED) == set(MODALITIES)


@pytest.mark.parametrize("policy", ["squash", "pad"])
@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("modality", ["xray", "pathology"])
def test_all_switched_off_is_a_plain_resize(policy: str, colour: bool, modality: str) -> None:
    array = picture(colour=colour)
    expected = resize(array, 64, policy)
    found = augment(array, 64, OFF, generator(0), modality, policy)
    assert np.array_equal(found, expected if colour else np.repeat(expected[..., None], 3, axis=2))


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(12, 70),
    st.sampled_from(MODALITIES),
    st.sampled_from(["squash", "pad", "crop"]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_any_picture_gives_a_square_and_the_same_one_again(
    height: int, width: int, size: int, modality: str, policy: str, colour: bool, seed: int
) -> None:
    recipe = AugmentRecipe(rotate=0.7, blur=0.5, noise=0.5, border=0.5, erase=0.5)
    array = picture(height, width, colour)
    before = array.copy()
    one, two = (augment(array, size, recipe, generator(seed), modality, policy) for _ in range(2))
    assert one.shape == (size, size, 3) and one.dtype == np.uint8 and one.flags.c_contiguous
    assert np.array_equal(one, two) and np.array_equal(array, before)


def test_grey_stays_grey_and_colours_keep_their_order() -> None:
    recipe = AugmentRecipe(rotate=1, blur=1, noise=1, border=1)
    grey = np.repeat(picture(colour=False)[..., None], 3, axis=2)
    red = np.stack([picture(colour=False), picture(colour=False) // 2, picture(colour=False) // 4], axis=-1)
    for seed in range(20):
        for modality in ("xray", "pathology", "fundus"):
            shown = augment(grey, 48, recipe, generator(seed), modality)
            assert (shown == shown[..., :1]).all()
            hue = augment(red, 48, recipe, generator(seed), modality).astype(int)
            assert (hue[..., 0] >= hue[..., 1]).all() and (hue[..., 1] >= hue[..., 2]).all()


def slope(square: np.ndarray) -> tuple[bool, bool]:
    """Whether greys rise to the right, and downwards."""
    values = square[..., 0].astype(int)
    return values[:, -16:].mean() > values[:, :16].mean(), values[-16:].mean() > values[:16].mean()


@pytest.mark.parametrize("modality", MODALITIES)
def test_sides_are_kept_where_they_matter(modality: str) -> None:
    ramp = (np.add.outer(np.arange(64), np.arange(64)) + 60).astype(np.uint8)
    ways = {slope(augment(ramp, 48, AugmentRecipe(border=0), generator(seed), modality)) for seed in range(60)}
    free = modality in ("pathology", "cytology", "microscopy", "dermoscopy")
    assert ways == ({(a, b) for a in (True, False) for b in (True, False)} if free else {(True, True)})


def test_tone_bends_greys_but_spares_colours() -> None:
    steps = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    recipe = AugmentRecipe(**{**CHANCES, "gamma": 1.0}, area=(1, 1), stretch=1, mirror=False)
    assert np.array_equal(augment(steps, 64, recipe, generator(1), "pathology")[..., 0], steps)
    bent = augment(steps, 64, recipe, generator(1), "xray")[0, :, 0].astype(int)
    assert (
        (np.diff(bent) >= 0).all()
        and (bent[0], bent[-1]) == (0, pytest.approx(252, abs=5))
        and np.abs(bent - steps[0]).max() > 5
    )


@pytest.mark.parametrize("policy", ["squash", "pad"])
def test_a_wide_picture_is_not_cut_down_to_its_middle(policy: str) -> None:
    wide = np.zeros((40, 200), np.uint8)
    wide[:, :40], wide[:, -40:] = 255, 255
    shown = [augment(wide, 60, GEOMETRY, generator(seed), "xray", policy)[..., 0] for seed in range(30)]
    assert all(one[:, :30].max() > 200 and one[:, 30:].max() > 200 for one in shown)


def test_a_crop_reaches_every_part_of_a_wide_picture() -> None:
    wide = np.tile(np.arange(200, dtype=np.uint8), (40, 1))
    shown = [augment(wide, 40, GEOMETRY, generator(seed), "xray", "crop")[20, :, 0] for seed in range(100)]
    assert min(one.min() for one in shown) < 20 and max(one.max() for one in shown) > 180


@pytest.mark.parametrize("degrees", [10.0, -25.0])
def test_rotation_brings_in_the_surroundings_and_turns_the_right_way(degrees: float) -> None:
    array = picture(200, 200, colour=False)
    recipe = OFF.model_copy(update={"rotate": 1.0, "rotation": 30.0, "area": (0.3, 0.3)})

    class Fixed:
        """Draws the middle of the picture and one angle."""

        def uniform(self, low: float, high: float, size: int | None = None) -> float | np.ndarray:
            if size:
                return np.zeros(size)
            return degrees if low == -30.0 else 0.3 if low == 0.3 else 0.0

        def random(self, size: int | None = None) -> float | np.ndarray:
            return np.ones(size) if size else 0.5

    found = augment(array, 100, recipe, Fixed(), "xray")[..., 0].astype(int)  # type: ignore[arg-type]
    turned = np.asarray(Image.fromarray(array).rotate(degrees, Image.Resampling.BICUBIC))
    side = 200 * 0.3**0.5
    low = (200 - side) / 2
    naive = Image.fromarray(turned).resize((100, 100), Image.Resampling.BICUBIC, box=(low, low, low + side, low + side))
    assert np.abs(found - np.asarray(naive)).mean() < 2
    assert found.min() > 0
