"""Pixels: checking and preparing pictures for the store, and decoding what lies in it.

`prepare` is for the build: any file or array in, a JPEG or PNG that is certain to decode out. `decode` is for readers:
fast, of what `prepare` made. Arrays are uint8: [h,w] grey, [h,w,3] RGB.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from medweave.corpus import dicom
from medweave.corpus.limits import (
    BadImage,
    check_bytes,
    check_pixels,
    check_shape,
    frame_index,
    one_reason,
    pillow_allows,
    to_8_bit,
)
from medweave.corpus.recipe import ImageRecipe, LimitsRecipe
from medweave.errors import in_short

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
ORIENTATION = 0x0112
WHITE_IS_ZERO = 262, 0
SCANS = 100
USUAL = LimitsRecipe()
SMALL = 64  # pixels of the shorter side that fingerprints are taken from
DAMAGED = "truncated or damaged", "fetch or export it again"
DAMAGE = ("Corrupt JPEG", "Premature end", "bad Huffman")


@dataclass(frozen=True)
class Picture:
    """One image as the store keeps it: `data` is a whole file of `format` jpg or png.

    small: RGB pixels of at least SMALL on the shorter side, where checking the file gave them anyway.
    """

    data: bytes
    format: str
    width: int
    height: int
    small: np.ndarray | None = None


def prepare(data: bytes | np.ndarray, limits: LimitsRecipe, recipe: ImageRecipe) -> Picture:
    """A file's bytes, or an array [h,w] or [h,w,3], as the store keeps it.

    A sound JPEG within the limits is kept byte for byte; all else is decoded, set upright, made grey or RGB of 8 bits
    (deeper greys: least value black, greatest white; transparent parts black) and encoded as the recipe says.
    Raises BadImage when it is beyond the limits (seen from the header), truncated, damaged or not an image.
    """
    if isinstance(data, np.ndarray):
        return _encoded(_checked(data, limits), recipe)
    check_bytes(len(data), limits)
    if dicom.is_dicom(data):
        return _encoded(dicom.pixels(data, limits, recipe.frame, recipe.window), recipe)
    with one_reason(*DAMAGED), pillow_allows(limits.pixels), _opened(data) as picture:
        check_shape(*picture.size, limits, getattr(picture, "n_frames", 1))
        small = _sound_pixels(picture, data)
        plain = picture.mode in ("L", "RGB") and _orientation(picture) == 1
        if small is not None and plain and max(picture.size) <= (recipe.longest or max(picture.size)):
            return Picture(data, "jpg", *picture.size, small)
        return _encoded(_pixels(picture, limits, recipe), recipe)


def decode(data: bytes, at_least: int | None = None, *, grey: bool = False, limits: LimitsRecipe = USUAL) -> np.ndarray:
    """A stored JPEG or PNG as RGB pixels, uint8 [h,w,3].

    at_least: a JPEG may come out smaller by DCT scaling (much faster), its shorter side never below this many pixels.
    grey: a picture stored in grey comes out as [h,w]. Raises BadImage when the data are damaged, or when their header
    announces more pixels than `limits` allows.
    """
    try:
        if simplejpeg.is_jpeg(data):
            height, width, kind, _ = simplejpeg.decode_jpeg_header(data)
            check_pixels(width, height, limits)
            colours = "GRAY" if grey and kind == "Gray" else "RGB"
            pixels = _scaled_down(data, at_least, colours)
            return pixels[..., 0] if colours == "GRAY" else pixels
        with pillow_allows(limits.pixels), Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            check_pixels(*picture.size, limits)
            return np.array(picture.convert("L" if grey and picture.mode == "L" else "RGB"))
    except BadImage:
        raise
    except Exception as error:  # a damaged file can raise anything inside a decoder
        raise BadImage(f"{DAMAGED[0]} ({in_short(error)})", DAMAGED[1]) from None


def _checked(array: np.ndarray, limits: LimitsRecipe) -> np.ndarray:
    colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not colour and (array.ndim != 2 or array.dtype.kind not in "buif"):
        shape = f"{array.dtype} {list(array.shape)}"
        raise BadImage(f"an array {shape} is no image", "give greys [h,w], or RGB as uint8 [h,w,3]")
    check_shape(array.shape[1], array.shape[0], limits)
    return to_8_bit(array)


def _opened(data: bytes) -> ImageFile.ImageFile:
    """The file with only its header read, of any size."""
    try:
        return _header(data)
    except Image.DecompressionBombError:
        raise
    except Exception as error:  # a damaged header can raise anything inside Pillow
        known = "JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000, PPM or DICOM"
        raise BadImage(f"not a readable image ({type(error).__name__})", f"give a whole file of {known}") from None


def _header(data: bytes) -> ImageFile.ImageFile:
    """As Image.open, but for its limit on pixels, which would hide a picture's width and height from our own check."""
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        try:
            if accept is None or accept(data[:16]) is True:
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnidentifiedImageError


def _sound_pixels(picture: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """A JPEG read to its end, its pixels at reduced scale. Raises BadImage for damage.

    None for other files, and for a JPEG that this decoder does not know (CMYK, arithmetic coding).
    """
    if picture.format not in ("JPEG", "MPO"):
        return None
    if data.count(b"\xff\xda") > SCANS:
        raise BadImage(
            f"a JPEG of more than {SCANS} scans, which takes too long to decode", "save it again as a plain JPEG"
        )
    try:
        return _scaled_down(data, SMALL, "RGB")
    except ValueError as error:
        if any(words in str(error) for words in DAMAGE):
            raise BadImage(f"{DAMAGED[0]} ({in_short(error)})", DAMAGED[1]) from None
        return None


def _scaled_down(data: bytes, at_least: int | None, colours: str) -> np.ndarray:
    """A JPEG decoded at the smallest DCT scale whose shorter side is not below `at_least`; None: at full scale."""
    side, factor = (at_least, 2) if at_least else (0, 1)
    return simplejpeg.decode_jpeg(data, colours, min_height=side, min_width=side, min_factor=factor)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block can raise anything; the pixels are still good
        return 1


def _pixels(picture: ImageFile.ImageFile, limits: LimitsRecipe, recipe: ImageRecipe) -> np.ndarray:
    """The chosen frame, upright, as uint8 [h,w] or [h,w,3]."""
    _seek(picture, limits, recipe)
    picture.load()
    upright = picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        values = to_8_bit(np.asarray(upright))
        tag, zero = WHITE_IS_ZERO
        return 255 - values if getattr(picture, "tag_v2", {}).get(tag) == zero else values
    if picture.mode in ("1", "L"):
        return np.asarray(upright.convert("L"))
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "black"), clear)
    return np.asarray(upright.convert("RGB"))


def _seek(picture: ImageFile.ImageFile, limits: LimitsRecipe, recipe: ImageRecipe) -> None:
    """Go to the chosen frame; to the first where the pages are no stack of one size (a pyramid, a slide's label)."""
    frames = getattr(picture, "n_frames", 1)
    if frames == 1 or picture.format == "MPO":
        return
    size = picture.size
    picture.seek(frame_index(recipe.frame, frames))
    if picture.size != size:
        picture.seek(0)
    check_shape(*picture.size, limits)


def _encoded(array: np.ndarray, recipe: ImageRecipe) -> Picture:
    """Pixels as a file: colour without colour becomes grey, a longer side over the cap is shrunk."""
    if array.ndim == 3 and (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        array = array[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(array))
    longest = max(picture.size)
    if recipe.longest and longest > recipe.longest:
        size = [max(1, round(side * recipe.longest / longest)) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if recipe.format == "png":
        picture.save(file, "PNG")
    else:
        picture.save(file, "JPEG", quality=recipe.quality, subsampling=0)
    return Picture(file.getvalue(), recipe.format, *picture.size)
