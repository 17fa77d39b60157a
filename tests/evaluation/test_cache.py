"""Embeddings are computed once, whatever asks for them."""

import numpy as np
import pytest

from medweave.evaluation import cache
from medweave.evaluation.cache import Drawer, Embedder


@pytest.fixture
def filled(world):
    world.fill("chest", ["alphoma", "betosis"], each=20)
    return world


def test_rows_come_back_in_order_and_once(filled, model):
    embedder = Embedder(model, filled, filled.path / "cache", 8)
    numbers = np.array([7, 3, 30, 3])
    rows = embedder.images(numbers)
    np.testing.assert_array_equal(rows, model.embed_images([filled.read(n) for n in numbers]))
    model.seen["images"] = 0
    embedder.images(np.array([30, 7]))
    assert model.seen["images"] == 0
    embedder.images(np.array([30, 8]))
    assert model.seen["images"] == 1
    assert embedder.images(np.array([], np.int64)).shape == (0, rows.shape[1])
    texts = ["of alphoma", "of betosis", "of alphoma"]
    np.testing.assert_array_equal(embedder.texts(texts), model.embed_texts(texts))


def test_an_image_is_embedded_once_for_rows_and_features(filled, model):
    model.separable = True
    embedder, numbers = Embedder(model, filled, filled.path / "cache", 8), np.array([7, 3, 30])
    rows = embedder.images(numbers)
    embedder.features(np.array([3, 30]))
    assert model.seen["features"] == 3 and model.seen["images"] == 0
    np.testing.assert_allclose(rows, model.embed_images([filled.read(n) for n in numbers]), atol=1e-6)
    assert embedder.images(np.array([], np.int64)).shape == (0, rows.shape[1])


def test_another_process_finds_them_and_another_model_does_not(filled, model, make_model):
    every = np.arange(len(filled))
    rows = Embedder(model, filled, filled.path / "cache", 8).features(every)
    fresh = make_model()
    np.testing.assert_array_equal(Embedder(fresh, filled, filled.path / "cache", 8).features(every), rows)
    assert fresh.seen["features"] == 0
    for change in ("weights", "preprocessing"):
        other = make_model()
        other.weights_hash = other.weights_hash if change == "preprocessing" else "0" * 64
        other.preprocess.hash = "q" * 64 if change == "preprocessing" else other.preprocess.hash
        Embedder(other, filled, filled.path / "cache", 8).features(every)
        assert other.seen["features"] == len(every)


def test_a_killed_evaluation_keeps_what_it_wrote(filled, model, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 10)
    embed, calls = model.embed_images, []

    def dies(images, batch=64):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(images, batch)

    model.embed_images = dies
    embedder = Embedder(model, filled, filled.path / "cache", 8)
    with pytest.raises(KeyboardInterrupt):
        embedder.images(np.arange(40))
    model.embed_images = embed
    model.seen["images"] = 0
    Embedder(model, filled, filled.path / "cache", 8).images(np.arange(40))
    assert model.seen["images"] == 20


def test_a_drawer_lists_what_it_lacks(tmp_path):
    drawer = Drawer(tmp_path / "rows")
    drawer.add(["a", "b"], np.eye(2, dtype=np.float32))
    assert drawer.missing(["b", "c", "d", "c"]) == ["c", "d"]
    np.testing.assert_array_equal(Drawer(tmp_path / "rows").get(["b", "a"]), [[0, 1], [1, 0]])
