"""Fingerprints: a perceptual hash that survives re-encoding and resizing, under all eight rotations and flips.

The hash is the usual DCT one: the 8 x 8 lowest frequencies of the grey picture at 32 x 32, each against the median of
those but the mean. Turning a picture only swaps the coefficients' axes and signs, so one DCT gives all eight hashes.
n pictures; bit 8 v + u of a hash: vertical frequency v, horizontal frequency u.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 32
LOW = 8
TURNS = [(transposed, up, left) for transposed in (False, True) for up in (False, True) for left in (False, True)]


def thumbnail(array: np.ndarray) -> np.ndarray:
    """The whole picture, grey and squashed to uint8 [32,32]."""
    grey = Image.fromarray(np.ascontiguousarray(array)).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0))


def hashes(thumbs: np.ndarray) -> np.ndarray:
    """uint8 [n,32,32] -> uint64 [n,8]: the hash of each picture as it is, then under the other seven `TURNS`."""
    basis = _cosines()
    low = np.einsum("vy,nyx,ux->nvu", basis, thumbs.astype(np.float64), basis)
    return np.stack([_bits(turned(low, *turn)) for turn in TURNS], axis=1)


def turned(low: np.ndarray, transposed: bool, up: bool, left: bool) -> np.ndarray:
    """Coefficients [n,v,u] of the pictures mirrored (that flips the sign of odd frequencies), then transposed."""
    signs = np.where(np.arange(LOW) % 2, -1.0, 1.0)
    low = low * (signs[:, None] if up else 1.0) * (signs[None, :] if left else 1.0)
    return low.swapaxes(1, 2) if transposed else low


def distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many of the 64 bits differ, elementwise with broadcasting: uint64 -> uint8."""
    return np.bitwise_count(np.bitwise_xor(left, right))


def _bits(low: np.ndarray) -> np.ndarray:
    """Coefficients [n,8,8] -> uint64 [n]. The mean (v = u = 0) says nothing of the shape: no bit, not in the median."""
    flat = low.reshape(len(low), LOW * LOW)
    above = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    above[:, 0] = False
    return np.packbits(above, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)


def _cosines() -> np.ndarray:
    """[8,32]: the eight lowest rows of the DCT-II."""
    return np.cos(np.pi * np.arange(LOW)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE))
