import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from medweave.errors import UserError
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
