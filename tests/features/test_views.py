"""Views: the same for teacher and student, whatever the side of the square, and told by (seed, view, sample)."""

import numpy as np
import pytest
from PIL import Image

from medweave.corpus import augment as augment_module
from medweave.corpus.augment import augment
from medweave.corpus.resize import scaled
from medweave.corpus.sample import MODALITIES
from medweave.errors import UserError
from medweave.features import views as views_module
from medweave.features.views import Views
from medweave.seeds import generator


def picture(height=360, width=480):
    greys = np.random.default_rng(1).integers(30, 226, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(greys).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("policy", ["pad", "squash", "crop"])
@pytest.mark.parametrize("modality", ["xray", "pathology", "fundus"])
def test_a_student_of_another_size_sees_the_same_picture(policy, modality):
    views, array = Views(count=3, seed=5, policy=policy), picture()
    for number in range(12):
        teacher = views.picture(array, 256, modality, number, 1)
        student = views.picture(scaled(array, 180, 240), 128, modality, number, 1)  # decoded at half scale
        assert np.abs(scaled(teacher, 128, 128).astype(int) - student).mean() < 4
    plain = Views(count=1).augment
    shown = [augment(array, 128, plain, generator(5, "view", 2, n), modality, policy) for n in range(5)]
    assert all(np.array_equal(views.picture(array, 128, modality, n, 2), one) for n, one in enumerate(shown))


def test_seed_view_and_sample_each_change_the_picture():
    array, views = picture(), Views(count=3, seed=1)
    keys = [(views, 7, 1), (views, 7, 2), (views, 8, 1), (Views(count=9, seed=2), 7, 1)]
    shown = [one.picture(array, 64, "xray", number, view) for one, number, view in keys]
    assert all(not np.array_equal(shown[0], other) for other in shown[1:])
    assert np.array_equal(shown[0], Views(count=5, seed=1).picture(array, 64, "xray", 7, 1))


def test_what_is_drawn_in_pixels_is_refused():
    with pytest.raises(ValueError, match="noise, erase must be 0"):
        Views(count=1, augment={"noise": 0.1, "border": 0, "erase": 0.2})


def test_every_draw_of_a_view_is_independent_of_the_side():
    """The draws that follow would differ if one consumed more of the generator at another side."""
    recipe = Views(count=1).augment.model_copy(update={"blur": 0.5, "rotate": 0.5})
    array = picture(60, 80)
    for modality in MODALITIES:
        for seed in range(8):
            draws = [generator(seed), generator(seed)]
            for draw, size in zip(draws, (24, 70), strict=True):
                augment(array, size, recipe, draw, modality, "pad")
            assert draws[0].random() == draws[1].random()


def test_a_change_of_augmentation_is_told(monkeypatch):
    views = Views(count=1)
    specimen = views.specimen()
    views.check(specimen, "here")
    tones = augment_module._tones
    monkeypatch.setattr(augment_module, "_tones", lambda *args: np.roll(tones(*args), 40))
    with pytest.raises(UserError, match="augmentation has changed"):
        views.check(specimen, "here")
    assert views_module.LIKENESS < 40
