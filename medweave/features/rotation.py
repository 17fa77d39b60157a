"""Orthogonal matrices that spread what lies in a few directions over all of them, for rows of any width.

`spread` makes the numbers of a row alike in size, so that eight bits each are enough. `equaliser` gives every direction
the same variance: by a Hadamard matrix where one of the width is known here, else by plane rotations made for the
variances at hand (Bendel and Mickey 1978, "Population correlation matrices"; they exist by the Schur-Horn theorem).

n rows, d width.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medweave.seeds import generator

Rows = NDArray[np.float32]
Matrix = NDArray[np.floating]


def spread(rows: Rows) -> Rows:
    """Seeded signs, then the Hartley transform, an orthogonal one of every width: [n, d] -> [n, d]."""
    return _hartley(rows * _signs(rows.shape[-1]))


def gathered(rows: Rows) -> Rows:
    """The inverse of `spread`: [n, d] -> [n, d]."""
    return _hartley(rows) * _signs(rows.shape[-1])


def equaliser(variances: Matrix) -> Matrix:
    """An orthogonal Q [d, d] with every diagonal entry of Q diag(variances) Qᵀ their mean. variances: [d]."""
    width = len(variances)
    whole = hadamard(width)
    return _by_planes(variances) if whole is None else whole / np.sqrt(width)


@lru_cache(maxsize=32)
def hadamard(width: int) -> Matrix | None:
    """A matrix H of ±1 with H Hᵀ = d I; None where no construction here gives one.

    There is none where 4 does not divide d. Known are products of smaller ones (Sylvester), and Paley's two
    constructions over the integers modulo a prime.
    """
    if width <= 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])[:width, :width]
    if width % 4:
        return None
    if _is_prime(width - 1):
        return np.eye(width) + _conference(width - 1, sign=-1)
    half = width // 2
    if _is_prime(half - 1) and half % 4 == 2:
        symmetric, twos = _conference(half - 1, sign=1), np.array([[1.0, 1.0], [1.0, -1.0]])
        return np.kron(symmetric, twos) + np.kron(np.eye(half), np.array([[1.0, -1.0], [-1.0, -1.0]]))
    return _product(width)


def _hartley(rows: Rows) -> Rows:
    """The orthonormal Hartley transform, its own inverse."""
    width = rows.shape[-1]
    half = np.fft.rfft(rows, axis=-1)
    count = half.shape[-1]
    result = np.empty(rows.shape, np.float32)
    result[..., :count] = half.real - half.imag
    result[..., count:] = (half.real + half.imag)[..., width - count : 0 : -1]
    return result / np.float32(np.sqrt(width))


@lru_cache(maxsize=32)
def _signs(width: int) -> Rows:
    return generator("signs of a rotation", width).choice(np.array([-1, 1], np.float32), width)


def _conference(prime: int, sign: int) -> Matrix:
    """Paley's matrix S [q + 1, q + 1]: a zero diagonal, ±1 elsewhere, S Sᵀ = q I; symmetric for sign 1, skew for -1."""
    character = np.full(prime, -1.0)
    character[np.arange(1, prime) ** 2 % prime] = 1
    character[0] = 0
    steps = np.arange(prime)
    border = np.ones((1, prime))
    return np.block([[np.zeros((1, 1)), border], [sign * border.T, character[(steps[:, None] - steps) % prime]]])


def _product(width: int) -> Matrix | None:
    """The Kronecker product of two smaller ones."""
    for factor in range(2, int(width**0.5) + 1):
        if width % factor == 0:
            small, large = hadamard(factor), hadamard(width // factor)
            if small is not None and large is not None:
                return np.kron(small, large)
    return None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _by_planes(variances: Matrix) -> Matrix:
    """Turn the plane of a direction below the mean and one above it until the first has the mean, d - 1 times."""
    width, mean = len(variances), variances.mean()
    held, rotation = np.diag(variances), np.eye(width)
    open_ = np.ones(width, bool)
    for _ in range(width - 1):
        diagonal = np.where(open_, held.diagonal(), mean)
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        if diagonal[high] <= mean or diagonal[low] >= mean:
            break
        plane = [low, high]
        turn = _plane_turn(held[low, low], held[low, high], held[high, high], mean)
        held[plane] = turn @ held[plane]
        held[:, plane] = held[:, plane] @ turn.T
        rotation[plane] = turn @ rotation[plane]
        open_[low] = False
    return rotation


def _plane_turn(first: float, both: float, second: float, mean: float) -> Matrix:
    """The rotation [2, 2] that turns [[first, both], [both, second]] until its first diagonal entry is `mean`."""
    above, below = second - mean, first - mean
    root = np.sqrt(both * both - above * below)
    tangent = (both + (root if both >= 0 else -root)) / above
    cosine = 1 / np.hypot(1, tangent)
    return np.array([[cosine, -cosine * tangent], [cosine * tangent, cosine]])
