import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa
import pytest

from medweave.corpus import fetch, remote, store
from medweave.corpus.store import open_corpus
from medweave.corpus.views import fold_view, split_view
from medweave.errors import DamagedError, RequestError, UserError


@pytest.fixture
def there(built):
    """The corpus on a server."""
    files = fsspec.filesystem("memory")
    for path in built.rglob("*"):
        if path.is_file():
            files.pipe_file(f"/bucket/corpus/{path.relative_to(built)}", path.read_bytes())
    yield "memory://bucket/corpus"
    files.rm("/bucket", recursive=True)


@pytest.fixture
def fetched(monkeypatch):
    """The names and sizes of everything that is fetched."""
    log = []
    part, copy = fetch.Source.part, fetch.Source.copy

    def logged_part(source, name, start, stop):
        data = part(source, name, start, stop)
        log.append((name, len(data)))
        return data

    def logged_copy(source, name, to):
        copy(source, name, to)
        log.append((name, os.path.getsize(to)))

    monkeypatch.setattr(fetch.Source, "part", logged_part)
    monkeypatch.setattr(fetch.Source, "copy", logged_copy)
    return log


def test_a_remote_corpus_reads_like_a_local_one(built, there, tmp_path):
    local, far = open_corpus(built), open_corpus(there, cache=tmp_path)
    assert [far.read(n) for n in range(len(local))] == [local.read(n) for n in range(len(local))]
    assert [far.fields(n) for n in range(len(local))] == [local.fields(n) for n in range(len(local))]
    assert far.index().equals(local.index())
    for view in (lambda c: split_view(c, "train"), lambda c: fold_view(c, 1, "test")):
        assert view(far).numbers().tolist() == view(local).numbers().tolist()
    assert [p.read_bytes() for p in far.banks()] == [p.read_bytes() for p in local.banks()]
    far.verify()


@pytest.mark.parametrize("neighbours", [1, 3, 8, 64])
def test_neighbours_come_with_one_read_each(built, there, tmp_path, fetched, monkeypatch, neighbours):
    monkeypatch.setattr(store, "NEIGHBOURS", neighbours)
    local, far = open_corpus(built), open_corpus(there, cache=tmp_path)
    fetched.clear()
    for number in (*range(len(far)), *range(len(far))):
        assert far.read(number) == local.read(number)
        assert far.fields(number) == local.fields(number)
    shard = local.index(["shard"])["shard"].to_pylist()
    blocks = {(number // neighbours, shard[number]) for number in range(len(local))}
    assert len(fetched) == len(blocks)
    assert sum(size for _, size in fetched) <= sum(s["bytes"] for s in local.shards)


def test_the_cache_outlives_the_process(there, tmp_path, fetched):
    open_corpus(there, cache=tmp_path).read(0)
    fetched.clear()
    open_corpus(there, cache=tmp_path).read(0)
    assert [name for name, _ in fetched] == ["corpus.json"]


def test_the_cache_stays_within_its_size(built, there, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "NEIGHBOURS", 1)
    monkeypatch.setenv("MEDWEAVE_CACHE_GIB", str(30_000 / 2**30))
    monkeypatch.setattr(remote, "TRIM_EVERY", 1)
    local, far = open_corpus(built), open_corpus(there, cache=tmp_path)
    (tmp_path / "another" / "blocks").mkdir(parents=True)
    (tmp_path / "another" / "blocks" / "old").write_bytes(bytes(10**6))
    os.utime(tmp_path / "another" / "blocks" / "old", (0, 0))
    for number in range(len(far)):
        assert far.read(number) == local.read(number)
    kept = list(tmp_path.glob("*/blocks/*"))
    assert kept and sum(os.path.getsize(path) for path in kept) <= 30_000
    assert {path.parts[-3] for path in kept} == {far.hash}


def test_a_new_process_looks_at_the_size_of_the_cache_at_once(there, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDWEAVE_CACHE_GIB", "0")
    far = open_corpus(there, cache=tmp_path)
    far.read(0)
    assert not list(tmp_path.glob("*/blocks/*"))
    monkeypatch.setenv("MEDWEAVE_CACHE_GIB", "much")
    with pytest.raises(RequestError, match=r"'much' is no number .MEDWEAVE_CACHE_GIB"):
        open_corpus(there, cache=tmp_path).read(0)


def test_threads_and_processes_fetch_a_block_once(built, there, tmp_path, fetched, monkeypatch):
    monkeypatch.setattr(store, "NEIGHBOURS", 8)
    local, far = open_corpus(built), open_corpus(there, cache=tmp_path)
    fetched.clear()
    numbers = list(range(len(far))) * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(far.read, numbers)) == [local.read(number) for number in numbers]
    blocks = len(fetched)
    assert blocks == len(set(fetched)) == len(list(tmp_path.glob("*/blocks/*")))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(far.read, numbers) == [local.read(number) for number in numbers]
    assert pickle.loads(pickle.dumps(far)).read(7) == local.read(7)
    assert len(list(tmp_path.glob("*/blocks/*"))) == blocks


@pytest.mark.parametrize("change", [{"hash": "../out"}, {"hash": "/tmp/out"}, {"banks": {"../../out": "x"}}])
def test_names_from_afar_lead_nowhere(there, tmp_path, change):
    files = fsspec.filesystem("memory")
    facts = json.loads(files.cat_file("/bucket/corpus/corpus.json"))
    files.pipe_file("/bucket/corpus/corpus.json", json.dumps(facts | change).encode())
    with pytest.raises(UserError, match="leads out of its folder"):
        open_corpus(there, cache=tmp_path / "cache").banks()


def test_withdrawals_are_seen_at_once(built, there, tmp_path):
    far = open_corpus(there, cache=tmp_path / "cache")
    assert far.withdrawn() == set()
    copy = open_corpus(shutil.copytree(built, tmp_path / "copy"))
    copy.withdraw([copy.index(["id"])["id"][4].as_py()], "asked")
    withdrawn = (copy.path / "withdrawn.parquet").read_bytes()
    fsspec.filesystem("memory").pipe_file("/bucket/corpus/withdrawn.parquet", withdrawn)
    assert far.withdrawn() == {4}


def test_what_is_missing_is_one_clear_line(there, tmp_path):
    with pytest.raises(RequestError, match="no built corpus"):
        open_corpus("memory://nothing/here", cache=tmp_path)
    far = open_corpus(there, cache=tmp_path)
    fsspec.filesystem("memory").rm(f"/bucket/corpus/shards/{far.shards[0]['name']}")
    with pytest.raises(DamagedError, match=rf"the shard is missing.*memory://bucket.*{far.shards[0]['name']}"):
        far.read(0)
    fsspec.filesystem("memory").rm("/bucket/corpus/index.parquet")
    with pytest.raises(UserError, match=r"missing .memory://bucket/corpus/index.parquet"):
        far.index()
    with pytest.raises(RequestError, match="read only"):
        far.write_overlay("mine", pa.table({"id": ["hospital/000"]}))
