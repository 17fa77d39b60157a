"""What a model expects of an image, as data: evaluation pixels equal those of open_clip's own transform.

s is the side of the square input; arrays are uint8 [s, s, 3], tensors float32 [3, s, s], normalised.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image, UnidentifiedImageError

from medweave.errors import DamagedError, UserError
from medweave.files import hash_of
from medweave.models.recipe import Policy

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]
Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float]

RESIZE_MODES: dict[Policy, str] = {"crop": "shortest", "pad": "longest", "squash": "squash"}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
DEEP_MODES = ("I", "F")  # Pillow's modes of more than 8 bits a channel begin so


@dataclass(frozen=True)
class Preprocess:
    """Size, resizing and normalisation of a model's input."""

    size: int = 224
    policy: Policy = "crop"
    interpolation: str = "bicubic"
    mean: Colour = OPENAI_DATASET_MEAN
    std: Colour = OPENAI_DATASET_STD
    fill: int = 0
    edge: int | None = None  # shorter side before the centre is cut out; None: size
    downward: bool = False  # an odd margin of that cut rounds down (transformers), not to the even number (torchvision)
    square_first: bool = False  # pad to a square, at least of size, before resizing (MedCLIP), not after
    grey: bool = False  # the model has one channel: it gets the image's brightness three times

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any], size: int) -> Preprocess:
        """From open_clip's `preprocess_cfg`; what it leaves out is open_clip's default."""
        policies = {mode: policy for policy, mode in RESIZE_MODES.items()}
        interpolation = config.get("interpolation")
        return cls(
            size=size,
            policy=policies[config.get("resize_mode") or "shortest"],
            interpolation=interpolation if interpolation in FILTERS else "bicubic",
            mean=_colour(config.get("mean") or OPENAI_DATASET_MEAN),
            std=_colour(config.get("std") or OPENAI_DATASET_STD),
            fill=config.get("fill_color") or 0,
        )

    def as_open_clip(self) -> dict[str, Any]:
        """As open_clip's `preprocess_cfg`."""
        return {
            "size": self.size,
            "mode": "RGB",
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": RESIZE_MODES[self.policy],
            "fill_color": self.fill,
        }

    @property
    def hash(self) -> str:
        """sha256 of all that changes pixels; options that are not set leave it as it is."""
        return hash_of(
            {name: value for name, value in asdict(self).items() if value is not None and value is not False}
        )

    def array(self, picture: Picture) -> Pixels:
        """The picture as the model sees it, before normalisation: uint8 [s, s, 3]. Raises UserError if unreadable."""
        image = as_image(picture)
        if self.grey:
            image = image.convert("L").convert("RGB")
        if self.policy == "squash":
            return np.asarray(image.resize((self.size, self.size), FILTERS[self.interpolation]))
        return np.asarray(self._cropped(image) if self.policy == "crop" else self._padded(image))

    def tensor(self, array: Pixels) -> torch.Tensor:
        """uint8 [..., s, s, 3] -> normalised float32 [..., 3, s, s]."""
        pixels = torch.from_numpy(np.array(array)).movedim(-1, -3).contiguous().float().div_(255)
        return pixels.sub_(_channels(self.mean)).div_(_channels(self.std))

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Shorter side to the edge, centre cut out."""
        width, height = image.size
        shorter, edge = min(width, height), self.edge or self.size
        sides = (int(edge * width / shorter), int(edge * height / shorter))
        if shorter != edge:
            image = image.resize(sides, FILTERS[self.interpolation])
        margins = (side - self.size for side in image.size)
        left, top = (margin // 2 if self.downward else round(margin / 2.0) for margin in margins)
        return image.crop((left, top, left + self.size, top + self.size))

    def _padded(self, image: Image.Image) -> Image.Image:
        """Longer side to s, centred on the fill colour; or the square first."""
        if self.square_first:
            square = self._centred(image, max(self.size, *image.size))
            return square.resize((self.size, self.size), FILTERS[self.interpolation])
        ratio = max(side / self.size for side in image.size)
        width, height = (max(1, round(side / ratio)) for side in image.size)
        return self._centred(image.resize((width, height), FILTERS[self.interpolation]), self.size)

    def _centred(self, image: Image.Image, side: int) -> Image.Image:
        """The image in the middle of a square of the fill colour."""
        canvas = Image.new("RGB", (side, side), (self.fill,) * 3)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return canvas


def as_image(picture: Picture) -> Image.Image:
    """A path, a file's bytes, a Pillow image or a uint8 array [h, w] or [h, w, 3] as an RGB image."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise UserError(f"an array of {picture.dtype} is no picture", todo="give uint8 [h, w] or [h, w, 3]")
        return Image.fromarray(picture).convert("RGB")
    image = picture if isinstance(picture, Image.Image) else _opened(picture)
    if image.mode.startswith(DEEP_MODES):
        raise UserError(
            f"the image has more than 8 bits a channel (mode {image.mode})",
            where=getattr(image, "filename", None) or None,
            todo="choose its window first: medweave.corpus.images reads such files",
        )
    return image.convert("RGB")


def _opened(picture: str | Path | bytes) -> Image.Image:
    where = None if isinstance(picture, bytes) else picture
    try:
        image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        image.load()
        return image
    except FileNotFoundError:
        raise UserError("no such image", where=where) from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DamagedError(f"the image cannot be read: {error}", where=where) from None


def _colour(values: Any) -> Colour:
    """Three numbers; one number stands for all three."""
    one_each = values if isinstance(values, list | tuple) else (values,) * 3
    return cast(Colour, tuple(float(value) for value in one_each))


def _channels(colour: Colour) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None]
