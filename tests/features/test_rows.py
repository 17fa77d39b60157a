"""Rows on disk: what rounding costs, how many bytes they take, and how they are read."""

import os

import numpy as np
import pytest

from medweave.errors import DamagedError
from medweave.features.rows import Column, decoded, encoded, write_array


def unit(count, width, spikes=0):
    """Unit rows; spikes: directions that are a hundred times as large, as CLIP's have."""
    rows = np.random.default_rng(width).normal(size=(count, width)).astype(np.float32)
    rows[:, :spikes] *= 100
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("width", [16, 384, 512, 768, 1280])
@pytest.mark.parametrize("spikes", [0, 2])
def test_eight_bits_are_half_the_bytes_and_close(width, spikes):
    rows = unit(200, width, spikes)
    half, byte = encoded(rows, "float16"), encoded(rows, "int8")
    assert byte.nbytes * 2 == half.nbytes == 200 * width * 2
    found = decoded(byte)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosine = (found * rows).sum(1)
    assert cosine.mean() > 0.999 and cosine.min() > 0.998
    np.testing.assert_allclose(decoded(half), rows, atol=1e-3)
    naive = np.rint(rows * 127 / np.abs(rows).max(1, keepdims=True))
    if spikes and width >= 384:
        assert cosine.mean() > (naive * rows).sum(1).mean() / np.linalg.norm(naive, axis=1).mean()


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_a_row_of_zeros_stays_one(kind):
    rows = np.concatenate([unit(2, 32), np.zeros((1, 32), np.float32)])
    assert not decoded(encoded(rows, kind))[2].any()


@pytest.fixture
def column(tmp_path):
    """Five shards of rows, and the same in memory."""
    sizes = [7, 1, 0, 12, 5]
    arrays = [encoded(unit(size, 24), "float16") for size in sizes]
    for shard, array in enumerate(arrays):
        write_array(tmp_path / f"{shard}.npy", array)
    return Column(lambda shard: tmp_path / f"{shard}.npy", sizes, "float16", 24), arrays


def test_entries_of_many_shards_come_in_the_order_asked(column):
    read, arrays = column
    shards, places = [3, 0, 0, 4, 1, 3], [11, 6, 0, 2, 0, 11]
    expected = np.stack([arrays[shard][place] for shard, place in zip(shards, places, strict=True)])
    np.testing.assert_array_equal(read.take(shards, places), expected)
    assert read.take([], []).shape == (0, 24) and read.whole(2).shape == (0, 24)


def test_reading_keeps_no_files_open(column):
    read, _ = column
    before = len(os.listdir("/proc/self/fd"))
    read.take([0, 1, 3, 4], [0, 0, 0, 0])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("damage", ["gone", "cut", "other", "noise"])
def test_a_file_that_is_not_what_was_written_is_named(column, tmp_path, damage):
    read, _ = column
    file = tmp_path / "3.npy"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "other":
        write_array(file, np.zeros((12, 25), np.float16))
    else:
        file.write_bytes(b"noise" * 100)
    with pytest.raises(DamagedError, match=r"missing or damaged.*3\.npy"):
        read.take([3], [0])
    assert read.take([4], [1]).shape == (1, 24)
