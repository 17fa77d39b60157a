import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from medweave.errors import UserError
from medweave.files import hash_of
from medweave.models.preprocess import RESIZE_MODES, Preprocess


@pytest.mark.parametrize("policy", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@settings(max_examples=25, deadline=None)
@given(width=st.integers(8, 150), height=st.integers(8, 150), size=st.integers(16, 64), grey=st.booleans())
def test_pixels_equal_open_clips(policy, interpolation, width, height, size, grey):
    draw = np.random.default_rng(width * 1000 + height)
    image = Image.fromarray(draw.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8))
    mean, std = (0.1, 0.4, 0.7), (0.2, 0.5, 0.9)
    ours = Preprocess(size, policy, interpolation, mean, std)
    theirs = image_transform_v2(
        PreprocessCfg(size, mean=mean, std=std, interpolation=interpolation, resize_mode=RESIZE_MODES[policy]),
        is_train=False,
    )
    assert torch.equal(ours.tensor(ours.array(image)), theirs(image))


def test_open_clip_configuration_there_and_back():
    ours = Preprocess(96, "pad", "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), fill=7)
    assert Preprocess.from_open_clip(ours.as_open_clip(), 96) == ours
    assert Preprocess.from_open_clip({"mean": 0.5}, 96).mean == (0.5, 0.5, 0.5)


def test_hash_tells_what_changes_pixels():
    assert Preprocess(96).hash == Preprocess(96).hash
    assert len({p.hash for p in (Preprocess(96), Preprocess(97), Preprocess(96, "pad"), Preprocess(96, fill=1))}) == 4


def test_options_that_are_not_set_leave_the_hash_as_it_was():
    known = {"size": 96, "policy": "crop", "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "fill": 0}
    assert Preprocess(**known).hash == hash_of(known)
    others = ({"edge": 100}, {"downward": True}, {"square_first": True}, {"grey": True})
    assert len({Preprocess(**known, **other).hash for other in others} | {Preprocess(**known).hash}) == 5


@pytest.mark.parametrize(("height", "width"), [(20, 50), (50, 20), (7, 9), (90, 70)])
def test_padding_to_a_square_first_and_squashing_by_hand(height, width):
    image = Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8))
    side = max(32, height, width)
    square = Image.new("L", (side, side), 0)
    square.paste(image, (int((side - width) / 2), int((side - height) / 2)))
    by_hand = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC))
    ours = Preprocess(32, "pad", square_first=True, grey=True).array(image)
    assert all(np.array_equal(ours[..., channel], by_hand) for channel in range(3))
    squashed = Preprocess(32, "squash", "bilinear").array(image)
    assert np.array_equal(squashed, np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(("downward", "left"), [(False, 10), (True, 9)])
def test_a_cut_from_a_longer_edge_by_hand(downward, left):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 102, 3), np.uint8))
    small = image.resize((int(40 * 102 / 80), 40), Image.Resampling.BICUBIC)
    by_hand = small.crop((left, 4, left + 32, 36))
    assert small.width - 32 == 19
    ours = Preprocess(32, "crop", edge=40, downward=downward).array(image)
    assert np.array_equal(ours, np.asarray(by_hand))


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image, file, data = Image.fromarray(array), tmp_path / "a.png", io.BytesIO()
    image.save(file)
    image.save(data, "png")
    forms = [array, image, file, str(file), data.getvalue()]
    assert len({Preprocess(16).array(form).tobytes() for form in forms}) == 1


def test_a_batch_is_normalised_as_its_members_are():
    arrays = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    whole = Preprocess(16).tensor(arrays)
    assert torch.equal(whole, torch.stack([Preprocess(16).tensor(a) for a in arrays]))


def test_a_long_strip_still_gives_a_picture():
    assert Preprocess(16, "pad").array(np.zeros((2, 900), np.uint8)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (b"no image at all", "cannot be read"),
        ("/nowhere/a.png", "no such image"),
        (np.zeros((4, 4), np.float32), "float32"),
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "more than 8 bits"),
    ],
)
def test_what_is_no_picture_is_said(picture, words):
    with pytest.raises(UserError, match=words):
        Preprocess(16).array(picture)
