"""What an image may be, checked from its header; `BadImage` is how every reader of pixels says no."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image

from medweave.corpus.recipe import LimitsRecipe
from medweave.errors import in_short

_lock = threading.Lock()
_inside: list[int] = []
_usual: int | None = None


class BadImage(Exception):
    """An image that cannot be taken in: why, and what its owner can do. The build lists it as skipped and goes on."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(f"{reason}: {remedy}")


@contextmanager
def one_reason(what: str, remedy: str) -> Iterator[None]:
    """Whatever a damaged file raises inside somebody's parser leaves as one BadImage; its warnings stay inside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BadImage, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # parsers of damaged files raise anything; those in Rust panic beside Exception
        raise BadImage(f"{what} ({in_short(error)})", remedy) from None


@contextmanager
def pillow_allows(pixels: int) -> Iterator[None]:
    """Inside, Pillow refuses no picture of up to `pixels`; the last thread that leaves puts back Pillow's own limit.

    That limit is one number for the whole process, at half of what is refused. Raises BadImage where it is exceeded.
    """
    _enter(pixels)
    try:
        yield
    except Image.DecompressionBombError as error:
        count = int(re.findall(r"\d+", str(error))[0])
        raise too_many(f"{count:,} pixels", pixels) from None
    finally:
        _leave(pixels)


def _enter(pixels: int) -> None:
    global _usual
    with _lock:
        if not _inside:
            _usual = Image.MAX_IMAGE_PIXELS
        _inside.append(pixels)
        _set_limit()


def _leave(pixels: int) -> None:
    with _lock:
        _inside.remove(pixels)
        _set_limit()


def _set_limit() -> None:
    """The most that any thread inside allows, and never less than what was there before."""
    if _usual is not None:
        Image.MAX_IMAGE_PIXELS = max([_usual, *((pixels + 1) // 2 for pixels in _inside)])


def check_bytes(count: int, limits: LimitsRecipe) -> None:
    """Raises BadImage when a file of `count` bytes is empty or too large."""
    if count == 0:
        raise BadImage("the file is empty", "fetch it again")
    if count > limits.bytes:
        raise BadImage(
            f"{count:,} bytes, more than limits.bytes = {limits.bytes:,}", "shrink it, or raise limits.bytes"
        )


def check_shape(width: int, height: int, limits: LimitsRecipe, frames: int = 1) -> None:
    """Raises BadImage when a header announces no pixels, too many, too narrow a picture, or too many frames."""
    if width < 1 or height < 1 or frames < 1:
        raise BadImage(f"no pixels ({width} x {height} px, {frames} frames)", "export the image again")
    check_pixels(width, height, limits)
    if max(width, height) > limits.aspect * min(width, height):
        size = f"{width:,} x {height:,} px"
        raise BadImage(f"{size}, narrower than limits.aspect = {limits.aspect:g}", "crop it, or raise limits.aspect")
    if frames > limits.frames:
        raise BadImage(
            f"{frames:,} frames, more than limits.frames = {limits.frames:,}", "split it, or raise limits.frames"
        )


def check_pixels(width: int, height: int, limits: LimitsRecipe) -> None:
    """Raises BadImage when a header announces too many pixels."""
    if width * height > limits.pixels:
        raise too_many(f"{width:,} x {height:,} px", limits.pixels)


def too_many(size: str, most: int) -> BadImage:
    """The refusal of a picture of that size where limits.pixels is `most`."""
    return BadImage(f"{size}, more than limits.pixels = {most:,}", "shrink it, or raise limits.pixels")


def frame_index(choice: Literal["first", "middle", "last"] | int, frames: int) -> int:
    """The index in [0, frames) that a recipe's `frame:` means. Raises BadImage when the file has no such frame."""
    named = {"first": 0, "middle": frames // 2, "last": frames - 1}
    index = named[choice] if isinstance(choice, str) else choice
    if not 0 <= index < frames:
        raise BadImage(f"no frame {index}: the file has {frames}", "choose image.frame: first, middle or last")
    return index


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """Greys of any depth as uint8 of the same shape: least value black, greatest white, linear, nothing saturated.

    8-bit values stay as they are. Raises BadImage when a value is not finite.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    wide = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    low, high = wide.min(), wide.max()
    if not np.isfinite(high - low):
        raise BadImage("pixel values that are not finite numbers", "replace NaN and infinity, then export again")
    return np.rint((wide - low) * (255 / (high - low or 1))).astype(np.uint8)
