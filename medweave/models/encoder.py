"""One interface to every model: images and texts to unit rows. Everything after training speaks to it only.

n images, m texts, d the joint width, w the image tower's own width, s the input side.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medweave.errors import UserError
from medweave.models.preprocess import Picture, Pixels, Preprocess
from medweave.models.weights import hash_of_state

Rows = NDArray[np.float32]
Pictures = Picture | Iterable[Picture]
TEXTS = 256  # texts a batch
LACKING = {
    "images": "this model has a text tower only and cannot embed images",
    "texts": "this model has an image tower only and cannot embed texts",
}


@dataclass(frozen=True)
class Head:
    """How likenesses become logits, `scale * cosine + bias`, and logits probabilities."""

    scale: float
    bias: float
    kind: Literal["softmax", "sigmoid"]


class Encoder:
    """A model in use. Rows are float32 and of length 1 unless a method says otherwise."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    @property
    def dim(self) -> int:
        """d."""
        return self.model.dim

    @property
    def sides(self) -> tuple[str, ...]:
        """What the model embeds: images, texts, or both."""
        return tuple(self.model.sides)

    @property
    def preprocess(self) -> Preprocess:
        """What the model expects of an image. Raises UserError for a model without an image tower."""
        self._need("images")
        return self.model.preprocess

    @property
    def facts(self) -> dict[str, Any]:
        """Width, context, input size, parameters, licence, and what was stored with the model."""
        own = {
            "width": self.dim,
            "context": self.model.context,
            "size": self.preprocess.size if "images" in self.sides else None,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }
        return {"licence": None, **own, **self.model.facts}

    @property
    def head(self) -> Head:
        """The model's own scale and bias. Raises UserError where its files do not tell the scale."""
        scale, bias = self.model.logit_scale, self.model.logit_bias
        if scale is None:
            raise UserError(f"the scale of {self.name} is not known", todo="use its rows, or a copy that has the scale")
        return Head(scale.exp().item(), 0.0 if bias is None else bias.item(), self.model.kind)

    @cached_property
    def weights_hash(self) -> str:
        """sha256 over all weights."""
        return hash_of_state(self.model.state_dict())

    def embed_images(self, images: Pictures, batch: int = 64) -> Rows:
        """Paths, file bytes, Pillow images or uint8 arrays, one or many -> [n, d]. Raises UserError if unreadable."""
        return self._over_images("encode_image", images, batch)

    def embed_pixels(self, pixels: Pixels) -> Rows:
        """Pictures as `preprocess` makes them, uint8 [n, s, s, 3] -> [n, d]."""
        with _in_use(self.model):
            return self._of_pixels("encode_image", pixels)

    def image_features(self, images: Pictures, batch: int = 64) -> Rows:
        """The image tower's output before the joint projection, not normalised: [n, w]."""
        return self._over_images("image_features", images, batch)

    @property
    def separable(self) -> bool:
        """Whether `project` leads from features to rows: not where a tower pools and projects at once."""
        return bool(self.model.separable)

    def project(self, features: Rows) -> Rows:
        """What `embed_images` gives, from what `image_features` gave: [n, w] -> [n, d]; where `separable`."""
        with _in_use(self.model):
            return _numpy(self.model.project_image(torch.from_numpy(features).to(self._device)))

    def embed_texts(self, texts: str | Sequence[str], batch: int = TEXTS) -> Rows:
        """Texts -> [m, d]. Raises UserError for a model without a text tower."""
        self._need("texts")
        texts = [texts] if isinstance(texts, str) else list(texts)
        with _in_use(self.model):
            parts = [
                _numpy(self.model.encode_text(self.model.tokenize(texts[at : at + batch]).to(self._device)))
                for at in range(0, len(texts), batch)
            ]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def logits(self, image_rows: Rows, text_rows: Rows) -> Rows:
        """[n, d] and [m, d] -> [n, m]."""
        return (self.head.scale * image_rows @ text_rows.T + self.head.bias).astype(np.float32)

    def _over_images(self, method: str, images: Pictures, batch: int) -> Rows:
        preprocess = self.preprocess
        with _in_use(self.model):
            parts = [self._of_pixels(method, pixels) for pixels in _decoded(preprocess, _many(images), batch)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def _of_pixels(self, method: str, pixels: Pixels) -> Rows:
        return _numpy(getattr(self.model, method)(self.preprocess.tensor(pixels).to(self._device)))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _need(self, side: str) -> None:
        if side not in self.sides:
            raise UserError(LACKING[side], where=self.name)


def _many(images: Pictures) -> Iterator[Picture]:
    """One picture or many as a stream of pictures."""
    array = isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[-1] == 3))
    if array or isinstance(images, str | Path | bytes | Image.Image):
        yield images  # type: ignore[misc]
    else:
        yield from images


def _decoded(preprocess: Preprocess, images: Iterator[Picture], batch: int) -> Iterator[Pixels]:
    """Batches uint8 [b, s, s, 3], decoded by threads one batch ahead."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        waiting: deque[list[Any]] = deque()
        while group := list(islice(images, batch)):
            waiting.append([pool.submit(preprocess.array, image) for image in group])
            if len(waiting) > 1:
                yield np.stack([future.result() for future in waiting.popleft()])
        while waiting:
            yield np.stack([future.result() for future in waiting.popleft()])


@contextmanager
def _in_use(model: Any) -> Iterator[None]:
    """No gradients, no dropout; a model in training goes on training afterwards.

    Convolutions in full float32 on GPUs too: in TF32 a row would depend, at 1e-4, on the batch that it came in.
    """
    training, cudnn = model.training, torch.backends.cudnn
    tf32, cudnn.allow_tf32 = cudnn.allow_tf32, False
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        cudnn.allow_tf32 = tf32
        if training:
            model.train()


def _numpy(rows: torch.Tensor) -> Rows:
    return rows.float().cpu().numpy()
