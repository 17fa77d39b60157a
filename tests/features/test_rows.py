"""Rows on disk: what rounding costs, how many bytes they take, and how they are read."""

import gc
import multiprocessing
import os
import resource
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from medweave.errors import DamagedError, UserError
from medweave.features import rows
from medweave.features.rows import MAPS, Column, decoded, encoded, write_array


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


def test_all_columns_share_one_number_of_maps(tmp_path, monkeypatch):
    """A process may have 65,530 maps: nine teachers in a few views of a million samples would have more."""
    assert MAPS < 20_000
    monkeypatch.setattr(rows, "_mapped", lru_cache(maxsize=3)(rows._mapped.__wrapped__))
    for name in "abc":
        for shard in range(4):
            write_array(tmp_path / f"{name}-{shard}.npy", np.full((2, 8), shard, np.float16))
    columns = [
        Column(lambda shard, name=name: tmp_path / f"{name}-{shard}.npy", [2] * 4, "float16", 8) for name in "abc"
    ]
    for column in columns:
        assert column.take([0, 1, 2, 3], [1] * 4)[:, 0].tolist() == [0, 1, 2, 3]
    gc.collect()
    assert sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines()) == 3


def out_of_maps(path):
    """What a process says that may map no more memory."""
    column = Column(lambda _: path, [2**20], "float16", 64)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**24, resource.RLIM_INFINITY))
    try:
        column.whole(0)
    except UserError as error:
        return type(error).__name__, str(error)


def test_a_system_that_maps_no_more_files_is_told_as_that(tmp_path):
    path = tmp_path / "large.npy"
    write_array(path, np.zeros((2**20, 64), np.float16))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        kind, said = pool.apply(out_of_maps, (path,))
    assert kind == "UserError" and "maps no more files" in said and "max_map_count" in said and "again" not in said


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
