"""PHI-S (arXiv 2410.01680): rows centred, rotated so that all directions have equal variance, and scaled by one number.

t' = Q Uᵀ (t - μ) / φ, where U holds the eigenvectors of the rows' covariance, φ² is the mean of its eigenvalues and Q
gives every direction of Uᵀt the same variance. Each number of t' then has mean 0 and variance 1 over the training rows;
one scale for all of them keeps the geometry, and rows of low rank blow up no noise. It can be undone.

d width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medweave.corpus.order import Ranges
from medweave.errors import DamagedError, UserError
from medweave.features.layout import writing
from medweave.features.rotation import equaliser
from medweave.features.rows import Rows
from medweave.features.stamp import Side
from medweave.features.store import PIECE, Features
from medweave.files import hash_of, hash_of_file, write_bytes
from medweave.progress import track

Matrix = NDArray[np.floating]
SIDES: tuple[Side, ...] = get_args(Side)
WHAT = "made_of"


@dataclass(frozen=True)
class Standard:
    """mean: [d]. rotation: [d, d], orthogonal, Q Uᵀ. scale: φ. variances: [d], the eigenvalues, largest first."""

    mean: Rows
    rotation: Rows
    scale: Rows
    variances: Rows

    def __call__(self, rows: Rows) -> Rows:
        """[n, d] -> [n, d] of mean 0 and variance 1 in every direction."""
        return np.asarray((rows - self.mean) @ self.rotation.T / self.scale, np.float32)

    def inverse(self, rows: Rows) -> Rows:
        """[n, d] -> [n, d] as the teacher gives them."""
        return np.asarray(rows @ self.rotation * self.scale + self.mean, np.float32)


def standardise(features: Features, numbers: Ranges, captions: Sequence[str] | None = None) -> dict[Side, Standard]:
    """The statistics of a teacher's rows over the samples `numbers` that it covers, by side; kept in its folder.

    Texts: the samples' own, and each of these captions of the bank; None: all. A side without rows is left out.
    Computed in one pass, unless the folder has them for the same rows, samples and captions. Raises UserError for rows
    that are all the same.
    """
    captions = list(features.captions) if captions is None else captions
    what = _made_of(features, numbers, captions)
    if kept := _read(features.layout.standard, what):
        return kept
    found: dict[Side, Standard] = {}
    for side in features.sides:
        moments = _Moments(features.width)
        for rows in _rows(features, side, numbers, captions):
            moments.add(rows)
        if moments.count:
            found[side] = moments.standard(f"{side} of {features.name}")
    tensors = {f"{side}.{name}": array for side, one in found.items() for name, array in vars(one).items()}
    with writing(features.layout.folder):
        write_bytes(features.layout.standard, save(tensors, metadata={WHAT: what}))
    return found


def _made_of(features: Features, numbers: Ranges, captions: Sequence[str]) -> str:
    """sha256 of all that the statistics depend on."""
    covered = features.verdicts
    trusted = hash_of_file(covered) if covered.exists() else None
    samples = hashlib.sha256(numbers.starts.tobytes() + numbers.stops.tobytes()).hexdigest()
    return hash_of([features.stamp.rows_hash, samples, trusted, list(captions)])


def _read(path: Path, what: str) -> dict[Side, Standard] | None:
    """What a file holds, if that was made of `what`. Raises DamagedError where it cannot be read."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as stored:
            if (stored.metadata() or {}).get(WHAT) != what:
                return None
            arrays = {tuple(name.split(".")): stored.get_tensor(name) for name in list(stored.keys())}
    except (OSError, SafetensorError):
        raise DamagedError("damaged", where=path, todo="delete this file and run the same command again") from None
    sides: list[Side] = [side for side in SIDES if (side, "mean") in arrays]
    return {side: Standard(*(arrays[side, field.name] for field in fields(Standard))) for side in sides}


class _Moments:
    """Sums over rows, in double precision."""

    def __init__(self, width: int) -> None:
        self.count, self.sum, self.products = 0, np.zeros(width), np.zeros((width, width))

    def add(self, rows: Rows) -> None:
        """Take in rows [n, d]."""
        exact = rows.astype(np.float64)
        self.count += len(exact)
        self.sum += exact.sum(0)
        self.products += exact.T @ exact

    def standard(self, what: str) -> Standard:
        """The statistics of all rows. Raises UserError where they do not vary."""
        mean = self.sum / self.count
        variances, vectors = np.linalg.eigh(self.products / self.count - np.outer(mean, mean))
        variances, vectors = variances[::-1].clip(0), _signed(vectors[:, ::-1])
        scale = np.sqrt(variances.mean())
        if scale < np.finfo(np.float32).eps:
            raise UserError(f"the rows of the {what} are all the same", todo="check the teacher, or give more samples")
        rotation = equaliser(variances) @ vectors.T
        return Standard(*(np.asarray(a, np.float32, order="C") for a in (mean, rotation, scale, variances)))


def _signed(vectors: Matrix) -> Matrix:
    """Eigenvectors, whose sign is arbitrary, with their largest number positive: the same on every run."""
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return vectors * np.sign(largest)


def _rows(features: Features, side: Side, numbers: Ranges, captions: Sequence[str]) -> Iterator[Rows]:
    """A side's rows of covered samples, in pieces, after those of the captions."""
    if side == "texts":
        yield from (features.bank(captions[at : at + PIECE]) for at in range(0, len(captions), PIECE))
        if not features.has_texts:
            return
    pieces = -(-len(numbers) // PIECE)
    for piece in track(features.pieces(numbers), f"{side} of {features.name}, {PIECE:,} samples at a time", pieces):
        covered = piece[features.covered(piece)]
        if len(covered):
            yield features.image(covered) if side == "images" else features.text(*features.every_text(covered))
