import os
import shutil

import fsspec
import pyarrow as pa
import pytest

from medweave.corpus import remote, store
from medweave.corpus.store import open_corpus
from medweave.corpus.views import fold_view, split_view
from medweave.errors import RequestError, UserError


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
    fetch = remote.RemoteFolder._fetch

    def logged(folder, name, start, stop):
        data = fetch(folder, name, start, stop)
        log.append((name, len(data)))
        return data

    monkeypatch.setattr(remote.RemoteFolder, "_fetch", logged)
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
    assert fetched == []


def test_the_cache_stays_within_its_size(built, there, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "NEIGHBOURS", 1)
    monkeypatch.setattr(remote, "CACHE_BYTES", 30_000)
    monkeypatch.setattr(remote, "TRIM_EVERY", 1)
    local, far = open_corpus(built), open_corpus(there, cache=tmp_path)
    for number in range(len(far)):
        assert far.read(number) == local.read(number)
    kept = list((tmp_path / far.hash / "blocks").iterdir())
    assert kept and sum(os.path.getsize(path) for path in kept) <= 30_000


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
    with pytest.raises(UserError, match=f"no such file.*{far.shards[0]['name']}"):
        far.read(0)
    with pytest.raises(RequestError, match="read only"):
        far.write_overlay("mine", pa.table({"id": ["hospital/000"]}))
