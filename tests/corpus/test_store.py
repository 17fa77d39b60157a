import importlib
import importlib.util
import io
import json
import multiprocessing
import pickle
import shutil
import sys
import tarfile
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medweave.corpus.store import PLACES, open_corpus
from medweave.errors import RequestError, UserError
from medweave.files import read_json, write_json


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def members(corpus):
    """The samples as stock tarfile reads them, in order of the shards: (key, image, text, fields)."""
    for shard in corpus.shards:
        with tarfile.open(corpus.path / "shards" / shard["name"]) as tar:
            names = tar.getnames()
            files = [tar.extractfile(name).read() for name in names]
        for first in range(0, len(names), 3):
            key, suffix = names[first].split(".")
            assert names[first + 1 : first + 3] == [f"{key}.txt", f"{key}.json"] and suffix in ("jpg", "png")
            yield key, files[first], files[first + 1].decode(), json.loads(files[first + 2])


def test_reader_gives_what_tarfile_finds(built):
    corpus = open_corpus(built)
    reference = list(members(corpus))
    assert len(reference) == len(corpus) == 58
    for number, (_, image, _, fields) in enumerate(reference):
        assert corpus.read(number) == image
        assert corpus.fields(number) == fields


def test_index_says_the_same_as_the_shards(built):
    corpus = open_corpus(built)
    rows = corpus.index().to_pylist()
    for row, (key, image, text, fields) in zip(rows, members(corpus), strict=True):
        assert row["findings"] == [{"name": n, "state": s} for n, s in fields["findings"].items()]
        assert {n: fields[n] for n in ("id", "split", "sha256", "phash", "group")} == {
            n: row[n] for n in ("id", "split", "sha256", "phash", "group")
        }
        assert (row["length"], row["texts"]) == (len(image), fields["texts"])
        assert text and key.startswith("hospital_")
    assert corpus.index(["id"]).column_names == ["id"]
    with pytest.raises(RequestError, match="did you mean licence"):
        corpus.index(["license"])


def test_strata_cover_the_index(built):
    corpus = open_corpus(built)
    rows = corpus.index(["source", "split", "modality"]).to_pylist()
    for stratum in corpus.strata:
        facts = {"source": stratum.source, "split": stratum.split, "modality": stratum.modality}
        assert all(row == facts for row in rows[stratum.start : stratum.stop])
    assert sum(s.stop - s.start for s in corpus.strata) == len(corpus)
    places = np.load(built / "places.npy")
    assert places.dtype == PLACES
    assert corpus.places(0, len(corpus)).tolist() == places.tolist()
    for number, place in enumerate(places):
        stratum = corpus.strata[place["stratum"]]
        assert stratum.start <= number < stratum.stop


def test_long_fields_are_read_whole(built, tmp_path):
    from medweave.corpus.shards import PLANNED, Item, write_shard

    row = dict.fromkeys(PLANNED.names) | {"id": "s/1", "texts": [{"kind": "caption", "text": "word " * 50_000}]}
    shard = write_shard(tmp_path / "one.tar", [Item(row, "text", b"image", "jpg", 1, 1, 0)])
    corpus = open_corpus(built)
    corpus.shards[0] |= {"name": "one.tar", "bytes": shard.bytes}
    corpus.place.path = tmp_path
    (tmp_path / "shards").mkdir()
    shutil.move(tmp_path / "one.tar", tmp_path / "shards")
    corpus._where = lambda number: (0, shard.rows[0]["offset"], shard.rows[0]["length"])
    assert corpus.fields(0)["texts"] == row["texts"]


def test_threads_forks_and_pickles_read_the_same(built):
    corpus = open_corpus(built)
    numbers = list(range(len(corpus))) * 4
    expected = [corpus.read(number) for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(corpus.read, numbers)) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(corpus.read, numbers) == expected
    assert pickle.loads(pickle.dumps(corpus)).read(7) == expected[7]


def test_handles_may_be_evicted_while_they_are_used(built, monkeypatch):
    monkeypatch.setattr("medweave.corpus.remote.OPEN_SHARDS", 1)
    corpus = open_corpus(built)
    numbers = [n % len(corpus) for n in range(0, 13 * len(corpus), 13)] * 5
    expected = [corpus.read(number) for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(corpus.read, numbers)) == expected


def test_numbers_of_ids(built):
    corpus = open_corpus(built)
    ids = corpus.index(["id"])["id"].to_pylist()
    asked = [ids[9], "nobody", ids[0], ids[-1]]
    assert corpus.numbers_of(asked).tolist() == [9, -1, 0, len(corpus) - 1]


@pytest.mark.parametrize("number", [-1, 58])
def test_a_number_outside_is_an_index_error(built, number):
    with pytest.raises(IndexError):
        open_corpus(built).read(number)


def test_no_corpus(tmp_path):
    with pytest.raises(RequestError, match="no built corpus"):
        open_corpus(tmp_path)


def test_another_format_is_refused(copy):
    write_json(copy / "corpus.json", read_json(copy / "corpus.json") | {"format": 99})
    with pytest.raises(UserError, match="format 99"):
        open_corpus(copy)


def test_a_truncated_tar_is_one_clear_line(copy):
    corpus = open_corpus(copy)
    name = corpus.shards[0]["name"]
    path = copy / "shards" / name
    path.write_bytes(path.read_bytes()[: corpus.index(["offset"])["offset"][3].as_py() + 10])
    assert corpus.read(2)
    for read in (corpus.read, corpus.fields):
        with pytest.raises(UserError, match=f"cut short.*{name}.*run the same build again"):
            read(3)
    with pytest.raises(UserError, match=f"damaged: shards/{name}"):
        corpus.verify()


def test_a_missing_shard_is_one_clear_line(copy):
    name = open_corpus(copy).shards[0]["name"]
    (copy / "shards" / name).unlink()
    with pytest.raises(UserError, match=f"missing.*{name}"):
        open_corpus(copy).read(0)


@pytest.mark.parametrize("name", ["index.parquet", "places.npy"])
def test_what_a_build_reads_first_is_not_said_to_be_written_anew(copy, name):
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"missing.*{name}.*: delete the folder and build it again$"):
        open_corpus(copy).verify()


def test_a_changed_index_is_not_said_to_be_written_anew(copy):
    table = pq.read_table(copy / "index.parquet")
    pq.write_table(table.take([0, *range(len(table) - 1)]), copy / "index.parquet")
    with pytest.raises(UserError, match=r"damaged: index\.parquet.*: delete the folder and build it again$"):
        open_corpus(copy).verify()


@pytest.mark.parametrize("name", ["index.parquet", "skipped.parquet", "overlays/folds.parquet", "withdrawn.parquet"])
def test_a_damaged_table_is_one_clear_line(copy, name):
    from medweave.corpus.overlays import withdrawn

    corpus = open_corpus(copy)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"PAR1 this is no table")
    reads = {
        "index.parquet": corpus.index,
        "skipped.parquet": corpus.skipped,
        "overlays/folds.parquet": lambda: corpus.overlay("folds"),
        "withdrawn.parquet": lambda: withdrawn(corpus.place),
    }
    with pytest.raises(UserError, match=rf"{name}.*damaged|damaged.*{name}"):
        reads[name]()


@pytest.mark.parametrize("place", ["all of it", "a page", "the footer"])
def test_verify_names_an_index_that_is_no_table(copy, place):
    path = copy / "index.parquet"
    data = bytearray(path.read_bytes())
    at = {
        "all of it": slice(None),
        "a page": slice(8, 200),
        "the footer": slice(-8 - int.from_bytes(data[-8:-4], "little"), -8),
    }[place]
    data[at] = bytes(len(data[at]))
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged: index\.parquet.*: delete the folder and build it again$"):
        open_corpus(copy).verify()


def test_what_the_system_refuses_is_no_damage(copy, monkeypatch):
    """A build must not be thrown away for a lack of memory or of rights."""
    import pyarrow.parquet as pq

    for error in (pa.ArrowMemoryError("no memory"), PermissionError(13, "not yours")):
        monkeypatch.setattr(pq, "ParquetFile", lambda path, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            open_corpus(copy).index()


def test_verify_sees_a_single_bit(copy):
    corpus = open_corpus(copy)
    corpus.verify()
    path = copy / "shards" / corpus.shards[1]["name"]
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=corpus.shards[1]["name"]):
        corpus.verify()


def test_verify_sees_a_changed_index(copy):
    from medweave.corpus.overlays import write_table

    corpus = open_corpus(copy)
    table = corpus.index()
    findings = table["findings"].to_pylist()
    findings[5] = [{"name": "normal", "state": "absent"}]
    place = table.column_names.index("findings")
    changed = table.set_column(place, "findings", pa.array(findings, table["findings"].type))
    write_table(copy / "index.parquet", changed)
    with pytest.raises(UserError, match=r"index\.parquet"):
        corpus.verify()


def test_webdataset_reads_train_and_meets_no_test_image(built):
    webdataset = pytest.importorskip("webdataset")
    corpus = open_corpus(built)
    shards = sorted(str(path) for path in (built / "shards").glob("*-train-*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").rename(image="jpg;png"))
    split = dict(zip(*(corpus.index(["id", "split"])[name].to_pylist() for name in ("id", "split")), strict=True))
    assert {sample["json"]["id"] for sample in samples} == {name for name, side in split.items() if side == "train"}
    assert all(sample["image"].size == (96, 80) and sample["txt"] for sample in samples)


def test_open_clip_train_reads_train_and_meets_no_test_image(built, monkeypatch):
    pytest.importorskip("webdataset")
    importlib.import_module("open_clip")
    if importlib.util.find_spec("pandas") is None:  # open_clip_train wants it for CSV files alone
        monkeypatch.setitem(sys.modules, "pandas", types.ModuleType("pandas"))
    data, params = (importlib.import_module(f"open_clip_train.{name}") for name in ("data", "params"))
    # open_clip_train 3.3 does not know the end-of-shard marks of webdataset 1.0; that has a switch for them
    monkeypatch.setattr(data, "tar_file_expander", partial(data.tar_file_expander, eof_value=None))
    corpus = open_corpus(built)
    splits = corpus.index(["split"])["split"].to_pylist()
    pixels = {}
    for number, split in enumerate(splits):
        picture = Image.open(io.BytesIO(corpus.read(number))).convert("RGB")
        pixels.setdefault(split, set()).add(picture.tobytes())
    shards = "::".join(str(path) for path in sorted((built / "shards").glob("*-train-*.tar")))
    args = params.parse_args(["--train-data", shards, "--batch-size", "1", "--workers", "0"])
    args.train_num_samples, args.world_size, args.rank = splits.count("train"), 1, 0
    loader = data.get_wds_dataset(args, lambda image: image.tobytes(), True, tokenizer=lambda text: [text]).dataloader
    batches = list(loader)
    images = {image for images, _ in batches for image in images}
    assert images == pixels["train"] and not images & pixels["test"]
    assert all(text for _, texts in batches for text in texts)
