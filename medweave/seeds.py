"""Every random draw comes from a generator keyed by what it is for: same key, same draws, on any machine."""

from __future__ import annotations

import hashlib

import numpy as np

Key = str | int | float | bool | None


def seed_of(*key: Key) -> int:
    """A seed in [0, 2^63) that depends on the whole key, and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*key: Key) -> np.random.Generator:
    """A NumPy generator for one purpose, for example `generator(seed, "caption", step, sample_id)`."""
    return np.random.Generator(np.random.Philox(seed_of(*key)))
