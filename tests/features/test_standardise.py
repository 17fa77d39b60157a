"""PHI-S: mean 0 and variance 1 in every direction by one scale, undone exactly, against formulas over all rows."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from medweave.corpus.order import Ranges
from medweave.corpus.views import split_view
from medweave.errors import DamagedError, UserError
from medweave.features.extract import extract
from medweave.features.standardise import Standard, _Moments, standardise
from medweave.features.store import open_features


def rows(count, width, rank=None, seed=0):
    """Unit rows in a narrow cone, as CLIP's lie: few large directions, a mean far from 0."""
    draw = np.random.default_rng(seed)
    spread = draw.normal(size=(count, rank or width)) * np.exp(-np.arange(rank or width) / 20)
    mixed = spread @ np.linalg.qr(draw.normal(size=(width, width)))[0][: rank or width] + 0.5
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def fitted(parts) -> Standard:
    moments = _Moments(parts[0].shape[1])
    for part in parts:
        moments.add(part)
    return moments.standard("test")


@pytest.mark.parametrize("width", [50, 384, 512, 768, 1280])
@pytest.mark.parametrize("rank", [None, 20])
def test_every_direction_has_variance_one_by_one_scale(width, rank):
    given = rows(1400, width, rank)
    standard = fitted(np.array_split(given, 7))
    turned = standard(given).astype(np.float64)
    np.testing.assert_allclose(turned.var(0), 1, atol=1e-3)
    np.testing.assert_allclose(turned.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(standard.inverse(standard(given)), given, atol=1e-5)
    np.testing.assert_allclose(standard.rotation @ standard.rotation.T, np.eye(width), atol=1e-5)
    np.testing.assert_allclose(standard.mean, given.mean(0, dtype=np.float64), atol=1e-6)
    total = given.var(0, dtype=np.float64).sum()
    np.testing.assert_allclose(standard.scale**2, total / width, rtol=1e-5)
    np.testing.assert_allclose(standard.variances.sum(), total, rtol=1e-5)
    assert (np.diff(standard.variances) <= 1e-9).all()


def test_distances_are_kept_but_for_the_scale():
    given = rows(300, 48)
    standard = fitted([given])
    near, far = (np.linalg.norm(x[:100, None] - x[None, 100:200], axis=2) for x in (given, standard(given)))
    np.testing.assert_allclose(far * standard.scale, near, atol=1e-5)


def test_directions_without_variance_are_not_blown_up():
    given = rows(400, 64, rank=5)
    other = rows(400, 64, rank=5, seed=1)
    standard = fitted([given])
    assert np.abs(standard(other)).max() < 50


def test_rows_that_are_all_the_same_are_refused():
    with pytest.raises(UserError, match="the rows of the test are all the same"):
        fitted([np.repeat(rows(1, 8), 9, 0)])


def test_a_teacher_is_standardised_over_its_covered_training_samples(corpus, tiny, monkeypatch):
    monkeypatch.setattr("medweave.features.store.PIECE", 7)
    extract(corpus, tiny(), workers=1)
    features = open_features(corpus, "tiny")
    covered = np.arange(44) % 4 > 0
    monkeypatch.setattr(type(features), "covered", lambda self, numbers: covered[numbers])
    training = split_view(corpus, "train")
    found = standardise(features, training)
    numbers = training.numbers()[covered[training.numbers()]]
    images = features.image(numbers)
    texts = np.concatenate([features.bank(list(features.captions)), features.text(*features.every_text(numbers))])
    for side, expected in (("images", images), ("texts", texts)):
        np.testing.assert_allclose(found[side].mean, expected.mean(0), atol=1e-6)
        np.testing.assert_allclose(found[side](expected).var(0), 1, atol=1e-3)
    stored = load_file(features.layout.standard)
    np.testing.assert_array_equal(stored["images.rotation"], found["images"].rotation)
    before = features.layout.standard.read_bytes()
    monkeypatch.setattr(_Moments, "add", lambda *args: pytest.fail("computed again"))
    again = standardise(features, training)
    assert list(again) == ["images", "texts"] and features.layout.standard.read_bytes() == before
    np.testing.assert_array_equal(again["texts"](texts), found["texts"](texts))
    monkeypatch.undo()
    other = standardise(open_features(corpus, "tiny"), Ranges.of(range(20)))
    assert not np.allclose(other["images"].mean, found["images"].mean)


def test_captions_that_are_not_asked_for_have_no_part(corpus, tiny):
    extract(corpus, tiny(), workers=1, bank=["One.", "Another one."])
    training = split_view(corpus, "train")
    before = standardise(open_features(corpus, "tiny"), training, ["Another one."])
    written = open_features(corpus, "tiny").layout.standard.read_bytes()
    extract(corpus, tiny(), workers=1, bank=["A third."])
    features = open_features(corpus, "tiny")
    assert len(features.captions) == 3
    standardise(features, training, ["Another one."])
    assert features.layout.standard.read_bytes() == written
    texts = np.concatenate([features.bank(["Another one."]), features.text(*features.every_text(training.numbers()))])
    np.testing.assert_allclose(before["texts"].mean, texts.mean(0), atol=1e-6)
    assert not np.allclose(standardise(features, training)["texts"].mean, texts.mean(0), atol=1e-4)


def test_one_tower_has_one_side(corpus, tiny):
    for name, side in (("eyes", "images"), ("words", "texts")):
        extract(corpus, tiny(name, sides=(side,)), workers=1)
        assert list(standardise(open_features(corpus, name), split_view(corpus, "train"))) == [side]


def test_a_damaged_file_is_one_line(corpus, tiny):
    extract(corpus, tiny(), workers=1)
    features, training = open_features(corpus, "tiny"), split_view(corpus, "train")
    standardise(features, training)
    path = features.layout.standard
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"damaged .*standard\.safetensors.*delete this file"):
            standardise(features, training)
