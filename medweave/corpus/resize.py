"""A picture of any shape to a square, by one of three policies: as open_clip's own transform does it within rounding.

crop: shorter side to size, centre square kept. pad: longer side to size, the rest black. squash: both sides to size.
Several times faster than Pillow; evaluation, whose pixels are open_clip's to the bit, has `models.preprocess`. Arrays
are uint8, [h,w] grey or [h,w,3] RGB in, the same kind out; s = size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Policy = Literal["crop", "pad", "squash"]


def resize(array: np.ndarray, size: int, policy: Policy = "crop") -> np.ndarray:
    """uint8 [h,w] or [h,w,3] -> [s,s] or [s,s,3]."""
    height, width = sides(array.shape[0], array.shape[1], size, policy)
    if policy == "crop":
        array, height, width = _kept(array, height, width, size), size, size
    small = scaled(array, height, width)
    return placed(small, _margin(size - height), _margin(size - width), size)


def sides(height: int, width: int, size: int, policy: Policy) -> tuple[int, int]:
    """Height and width of the whole picture after scaling, before it is cropped or padded to the square."""
    if policy == "squash":
        return size, size
    if policy == "pad":
        ratio = max(height, width) / size
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    longer = int(size * max(height, width) / min(height, width))
    return (size, longer) if height <= width else (longer, size)


def scaled(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h,w] or [h,w,3] at another height and width, bicubic with anti-aliasing, by torch's kernels for bytes."""
    import torch  # slow to import, and the corpus is built and described without it

    if array.shape[:2] == (height, width):
        return array
    whole = np.array(array, order="C", copy=None if array.flags.writeable else True)
    planes = torch.from_numpy(whole.reshape(1, *array.shape[:2], -1)).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)
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


def _margin(room: int) -> int:
    """Half of the room, rounded as torchvision does: down where it pads, to even where it crops."""
    return room // 2 if room >= 0 else -round(-room / 2)
