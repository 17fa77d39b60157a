"""Fetching from real servers that fail: what is asked again, what is one line, and that bytes are right in the end."""

import sys
import time

import fsspec
import pytest
from fsspec.registry import _registry

from medweave.corpus import fetch
from medweave.corpus.fetch import Source
from medweave.corpus.overlays import write_table
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError, UserError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(fetch, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def served(web, tmp_path):
    """A server of one file of 3,000 bytes, and a source there."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a #1 50%.tar").write_bytes(bytes(range(250)) * 12)
    server = web(tmp_path / "files")
    return server, Source(server.url)


NAME = "a #1 50%.tar"


def test_parts_and_copies_are_what_the_server_has(served, tmp_path):
    server, source = served
    assert source.part(NAME, 250, 503) == bytes(range(250)) + b"\0\1\2"
    assert source.part(NAME, 2990, 4000) == bytes(range(240, 250))
    source.copy(NAME, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(range(250)) * 12
    assert [asked for _, asked in server.log] == ["bytes=250-502", "bytes=2990-3999", None]
    with pytest.raises(FileNotFoundError):
        source.copy("nothing", tmp_path / "copy")


@pytest.mark.parametrize("fault", ["cut", "busy", "stall"])
def test_what_fails_for_a_while_is_asked_again(served, tmp_path, monkeypatch, capfd, fault):
    monkeypatch.setattr(fetch, "STALLED", 0.5)
    server, source = served
    server.faults[:] = [fault] * 2
    assert source.part(NAME, 0, 100) == bytes(range(100))
    assert len(server.log) == 3 and capfd.readouterr().err.count("again in 0 s") == 2
    server.faults[:] = [fault] * 2
    source.copy(NAME, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(range(250)) * 12


@pytest.mark.parametrize(
    ("fault", "requests", "words"),
    [
        ("busy", 4, "cannot be fetched: 503.*go"),
        ("cut", 4, "cannot be fetched"),
        ("forbidden", 1, "not allowed: 403"),
        ("whole", 1, "the server gives whole files only.*range requests"),
    ],
)
def test_what_fails_for_good_is_one_line(served, fault, requests, words):
    server, source = served
    server.faults[:] = [fault] * 9
    with pytest.raises(UserError, match=words) as error:
        source.part(NAME, 0, 100)
    assert len(server.log) == requests and "\n" not in str(error.value)


def test_a_server_that_is_not_there_is_one_line(served):
    server, source = served
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=rf"cannot be fetched: Cannot connect.*{server.url}"):
        source.part(NAME, 0, 100)


def test_a_missing_package_names_its_extra(monkeypatch):
    for kind, package, extra in (("s3", "s3fs", "s3"), ("https", "aiohttp", "https")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, kind, raising=False)
        with pytest.raises(RequestError, match=rf'a package is missing.*{kind}://host/own.*"medweave\[{extra}\]"'):
            open_corpus(f"{kind}://host/own")
    with pytest.raises(RequestError, match="Protocol not known: ftpx"):
        open_corpus("ftpx://host/own")


def test_a_corpus_over_http_reads_like_a_local_one(built, web):
    local, far = open_corpus(built), open_corpus(web(built).url)
    assert [far.read(n) for n in range(len(local))] == [local.read(n) for n in range(len(local))]
    assert far.index().equals(local.index()) and far.withdrawn() == set()
    far.verify()


def test_an_overlay_with_any_name_is_found_over_http(built, web, tmp_path):
    import shutil

    copy = open_corpus(shutil.copytree(built, tmp_path / "copy"))
    write_table(copy.path / "overlays" / "mine #1, 50%.parquet", copy.index(["id"]))
    assert open_corpus(web(copy.path).url).overlay("mine #1, 50%").equals(copy.index(["id"]))


def test_a_corpus_that_is_not_there(built, web, tmp_path):
    with pytest.raises(RequestError, match=r"no built corpus.*check the URL"):
        open_corpus(web(tmp_path).url)


@pytest.mark.slow
def test_s3_says_what_is_wrong(built, bucket, monkeypatch, capfd):
    import s3fs

    url = bucket.put(built, "own")
    local, far = open_corpus(built), open_corpus(url)
    assert [far.read(n) for n in range(len(local))] == [local.read(n) for n in range(len(local))]
    far.verify()
    assert far.withdrawn() == set()
    with pytest.raises(RequestError, match=r"no such bucket .s3://medweave-none/own"):
        open_corpus("s3://medweave-none/own")
    with pytest.raises(RequestError, match=r"no built corpus .s3://medweave-tests/none.*check the URL"):
        open_corpus("s3://medweave-tests/none")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"no credentials.*set AWS_ACCESS_KEY_ID.*FSSPEC_S3") as error:
        open_corpus(url)
    assert "\n" not in str(error.value) and "again in" not in capfd.readouterr().err

    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})  # what FSSPEC_S3='{"anon": true}' sets
    with pytest.raises(UserError, match=r"not allowed: Forbidden .*the rights to read and to list"):
        open_corpus(url)
    monkeypatch.setattr(fetch, "WAITS", (0.0,))
    bucket.stop()
    start = time.monotonic()
    with pytest.raises(UserError, match=rf"cannot be fetched: Could not connect.*{url}/corpus.json") as error:
        open_corpus(url)
    assert "\n" not in str(error.value) and time.monotonic() - start < 60
    assert far.read(0) == local.read(0)
