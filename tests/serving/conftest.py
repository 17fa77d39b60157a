"""A folder of two coloured images, and an encoder whose answers are known."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

RED, BLUE = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


class Colours:
    """Red images and texts lie on one axis, all others on the other; sees the pictures that it embeds."""

    dim, weights_hash = 2, "w"

    def __init__(self, kind="softmax", **facts):
        self.head, self.facts, self.seen = SimpleNamespace(kind=kind), facts, []

    def embed_images(self, images, batch=64):
        pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in images]
        self.seen += pictures
        rows = [RED if picture[..., 0].mean() > picture[..., 2].mean() else BLUE for picture in pictures]
        return np.stack(rows) if rows else np.zeros((0, 2), np.float32)

    def embed_texts(self, texts, batch=64):
        return np.stack([RED if "red" in text else BLUE for text in texts])

    def logits(self, image_rows, text_rows):
        return 3.0 * image_rows @ text_rows.T


@pytest.fixture
def colours():
    return Colours


@pytest.fixture
def folder(tmp_path):
    """a.png is red, b.jpg blue; notes.txt is no image."""
    for name, colour in (("a.png", (200, 0, 0)), ("b.jpg", (0, 0, 200))):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def with_bad(folder):
    """The same with bad.jpg, a JPEG that was cut short."""
    (folder / "bad.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    return folder
