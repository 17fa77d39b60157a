"""A picture of any shape to a square, by one of three policies, exactly as open_clip does it or fast.

crop: shorter side to size, centre square kept. pad: longer side to size, the rest filled. squash: both sides to size.
The fast way gives the same picture within rounding of its borders, several times faster. Arrays are uint8,
[h,w] grey or [h,w,3] RGB in, the same kind out; s = size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Policy = Literal["crop", "pad", "squash"]
Filter = Literal["bicubic", "bilinear"]


def resize(
    array: np.ndarray,
    size: int,
    policy: Policy = "crop",
    filter: Filter = "bicubic",
    *,
    exact: bool = False,
    fill: Literal["black", "edge"] = "black",
) -> np.ndarray:
    """uint8 [h,w] or [h,w,3] -> [s,s] or [s,s,3]. exact: every pixel equals open_clip's own evaluation transform."""
    height, width = sides(array.shape[0], array.shape[1], size, policy)
    if exact:
        picture = Image.fromarray(np.ascontiguousarray(array))
        small = np.asarray(picture.resize((width, height), Image.Resampling[filter.upper()]))
        return _fitted(small, size, fill)
    if policy == "crop":
        array, height, width = _kept(array, height, width, size), size, size
    return _fitted(scaled(array, height, width, filter), size, fill)


def sides(height: int, width: int, size: int, policy: Policy) -> tuple[int, int]:
    """Height and width of the whole picture after scaling, before it is cropped or padded to the square."""
    if policy == "squash":
        return size, size
    if policy == "pad":
        ratio = max(height, width) / size
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    longer = int(size * max(height, width) / min(height, width))
    return (size, longer) if height <= width else (longer, size)


def scaled(array: np.ndarray, height: int, width: int, filter: Filter = "bicubic") -> np.ndarray:
    """uint8 [h,w] or [h,w,3] at another height and width, with anti-aliasing, by torch's kernels for bytes."""
    import torch  # slow to import, and the corpus is built and described without it

    if array.shape[:2] == (height, width):
        return array
    whole = np.array(array, order="C", copy=None if array.flags.writeable else True)
    planes = torch.from_numpy(whole.reshape(1, *array.shape[:2], -1)).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(planes, (height, width), mode=filter, antialias=True)
    return small.permute(0, 2, 3, 1).numpy().reshape(height, width, *array.shape[2:])


def placed(array: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """A black square with the picture's upper left corner at (top, left), below 0 too; what lies outside is lost."""
    height, width = array.shape[:2]
    if top <= 0 and left <= 0 and top + height >= size and left + width >= size:
        return array[-top : size - top, -left : size - left]
    square = np.zeros((size, size, *array.shape[2:]), np.uint8)
    into = square[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    into[:] = array[max(-top, 0) :, max(-left, 0) :][: into.shape[0], : into.shape[1]]
    return square


def _kept(array: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """The part of the picture that would be left of it after scaling to height x width and cropping to the square."""
    return array[_run(array.shape[0], height, size), _run(array.shape[1], width, size)]


def _run(length: int, scaled_length: int, size: int) -> slice:
    start = -_margin(size - scaled_length)
    first = round(start * length / scaled_length)
    return slice(first, max(round((start + size) * length / scaled_length), first + 1))


def _fitted(array: np.ndarray, size: int, fill: str) -> np.ndarray:
    """The centre square of a picture that is large enough, or the picture in the middle of a filled square."""
    height, width = array.shape[:2]
    top, left = _margin(size - height), _margin(size - width)
    if fill == "edge" and (height < size or width < size):
        below, right = size - height - top, size - width - left
        return np.pad(array, [(top, below), (left, right), (0, 0)][: array.ndim], mode="edge")
    return placed(array, top, left, size)


def _margin(room: int) -> int:
    """Half of the room, rounded as torchvision does: down where it pads, to even where it crops."""
    return room // 2 if room >= 0 else -round(-room / 2)
