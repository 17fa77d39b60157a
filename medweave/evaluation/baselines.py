"""Plain encoders to be compared with: what can be told without looking at shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medweave.corpus.images import decode
from medweave.errors import UserError
from medweave.evaluation.cache import Rows
from medweave.files import hash_of

BINS = 32


@dataclass(frozen=True)
class _Pixels:
    """Pixels as they are stored."""

    hash: str = hash_of("pixels as stored")


@dataclass(frozen=True)
class _NoHead:
    """There is nothing to scale."""

    scale: float = 1.0
    bias: float = 0.0
    kind: str = "softmax"


class Histogram:
    """An image's features are the shares of its grey levels in 32 equal bins; it has no texts."""

    name = "histogram-32"
    dim = BINS
    weights_hash = hash_of([name, BINS])
    facts: dict[str, Any] = {}  # noqa: RUF012
    preprocess = _Pixels()
    head = _NoHead()

    def image_features(self, images: Iterable[bytes], batch: int = 64) -> Rows:
        """[n, 32] float32, each row sums to 1. images: encoded files."""
        return np.stack([_shares(decode(image)) for image in images])

    separable = True

    def project(self, features: Rows) -> Rows:
        """[n, 32] -> [n, 32] unit rows."""
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def embed_images(self, images: Iterable[bytes], batch: int = 64) -> Rows:
        """[n, 32] float32 unit rows."""
        return self.project(self.image_features(images, batch))

    def embed_texts(self, texts: Sequence[str]) -> Rows:
        """A histogram has no text side. Raises UserError."""
        raise UserError("a histogram cannot embed texts", todo="use it with probes only")


def _shares(image: np.ndarray) -> Rows:
    grey = image.mean(2)
    counts, _ = np.histogram(grey, bins=BINS, range=(0, 256))
    return (counts / grey.size).astype(np.float32)
