"""Embeddings that were computed once: rows filed by what they depend on, so that a second evaluation costs seconds.

A drawer is one folder for one (weights, preprocessing, kind of row); inside, a row is found by the hash of its image's
bytes or of its text. A row never changes, so files are only added, and every split, fold or benchmark finds its own.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medweave import progress
from medweave.corpus.limits import pillow_allows
from medweave.files import hash_of, whole_file

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

Rows = NDArray[np.float32]
CHUNK = 512  # images between two writes: what a killed evaluation loses at most


class EncoderLike(Protocol):
    """What evaluation asks of a model; `medweave.models.load.Encoder` is one."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def weights_hash(self) -> str:
        """Equal weights, equal hash."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it, `trained_on` among that."""

    @property
    def preprocess(self) -> Any:
        """Has a `hash`."""

    @property
    def head(self) -> Any:
        """Has `scale`, `bias` and `kind` (softmax or sigmoid)."""

    def embed_images(self, images: Iterable[bytes], batch: int = 64) -> Rows:
        """Unit rows [n, d]."""

    def image_features(self, images: Iterable[bytes], batch: int = 64) -> Rows:
        """Rows of the image tower before the joint projection, [n, w]."""

    @property
    def separable(self) -> bool:
        """Whether `project` leads from features to unit rows."""

    def project(self, features: Rows) -> Rows:
        """The unit rows [n, d] of images with these features; where `separable`."""

    def embed_texts(self, texts: Sequence[str]) -> Rows:
        """Unit rows [m, d]."""


class Drawer:
    """Rows by key, kept in a folder of .npz files. A key is 64 hex digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place: dict[str, int] = {}
        self.rows: list[Rows] = []
        for file in sorted(folder.glob("*.npz")):
            with np.load(file, allow_pickle=False) as stored:
                self._remember(stored["keys"].tolist(), stored["rows"])

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys without a row, each once, in the order of their first mention."""
        return [key for key in dict.fromkeys(keys) if key not in self.place]

    def add(self, keys: Sequence[str], rows: Rows) -> None:
        """Keep new rows [k, d], on disk before it returns."""
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / f"{name}.npz") as draft, draft.open("wb") as file:
            np.savez(file, keys=np.array(keys), rows=np.asarray(rows, np.float32))
        self._remember(keys, rows)

    def get(self, keys: Sequence[str]) -> Rows:
        """The rows of the keys, in their order: [n, d]."""
        if not len(keys):
            return np.zeros((0, len(self.rows[0]) if self.rows else 0), np.float32)
        return np.stack([self.rows[self.place[key]] for key in keys])

    def _remember(self, keys: Sequence[str], rows: Rows) -> None:
        self.place.update({key: len(self.rows) + at for at, key in enumerate(keys)})
        self.rows.extend(rows)


class Embedder:
    """An encoder before a corpus, with a memory: rows of images by sample number, rows of texts."""

    def __init__(self, encoder: EncoderLike, corpus: Corpus, folder: Path, batch: int) -> None:
        self.encoder, self.corpus, self.batch = encoder, corpus, batch
        self.preprocess_hash = str(encoder.preprocess.hash)
        self._folder = folder
        self._drawers: dict[str, Drawer] = {}

    def images(self, numbers: NDArray[np.int64]) -> Rows:
        """Unit rows of samples in the joint space: [n, d]. An image is embedded once for these and for `features`."""
        if self.encoder.separable:
            return self.encoder.project(self.features(numbers))
        return self._of_images("images", self.encoder.embed_images, numbers)

    def features(self, numbers: NDArray[np.int64]) -> Rows:
        """Rows of samples as the image tower gives them, before the joint projection: [n, w]."""
        return self._of_images("features", self.encoder.image_features, numbers)

    def texts(self, texts: Sequence[str]) -> Rows:
        """Unit rows of texts: [m, d]."""
        drawer = self._drawer("texts")
        keys = {text: hashlib.sha256(text.encode()).hexdigest() for text in texts}
        wanted = set(drawer.missing(list(keys.values())))
        new = [text for text, key in keys.items() if key in wanted]
        if new:
            drawer.add([keys[text] for text in new], np.asarray(self.encoder.embed_texts(new)))
        return drawer.get([keys[text] for text in texts])

    def _of_images(self, kind: str, embed: Callable[..., Rows], numbers: NDArray[np.int64]) -> Rows:
        drawer, sha256 = self._drawer(kind), self.corpus.take(numbers, ["sha256"])["sha256"].to_pylist()
        number_of = dict(zip(sha256, numbers.tolist(), strict=True))
        new = drawer.missing(sha256)
        stream = progress.track(new, f"{kind} of {self.encoder.name}", len(new))
        for start in range(0, len(new), CHUNK):
            keys = new[start : start + CHUNK]
            images = (self.corpus.read(number_of[key]) for key in islice(stream, len(keys)))
            with pillow_allows(self.corpus.limits.pixels):
                drawer.add(keys, np.asarray(embed(images, batch=self.batch)))
        deque(stream, maxlen=0)
        return drawer.get(sha256)

    def _drawer(self, kind: str) -> Drawer:
        if kind not in self._drawers:
            stamp = hash_of([self.encoder.weights_hash, self.preprocess_hash, kind])
            self._drawers[kind] = Drawer(self._folder / f"{kind}-{stamp[:32]}")
        return self._drawers[kind]
