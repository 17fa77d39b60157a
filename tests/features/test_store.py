"""Reading rows: any samples in any order, in any process, and one clear line where they are not what is asked for."""

import multiprocessing
import pickle
import shutil
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medweave.corpus.build import build
from medweave.corpus.order import Ranges
from medweave.corpus.store import open_corpus
from medweave.errors import DamagedError, RequestError, UserError
from medweave.features.coverage import Thresholds, cover
from medweave.features.extract import extract
from medweave.features.layout import name_of
from medweave.features.store import names, open_features
from medweave.features.views import Views
from medweave.files import read_json, write_json


@pytest.fixture(scope="module")
def stored(tmp_path_factory, sources, recipe_of, tiny):
    """A corpus with the rows of two teachers. Not to be changed."""
    corpus = build(recipe_of(tmp_path_factory.mktemp("stored") / "corpus", sources))
    for name, dtype in (("half", "float16"), ("byte", "int8")):
        extract(corpus, tiny(), name, views=Views(count=2), dtype=dtype, workers=1)
    return corpus


@pytest.fixture
def copied(stored, tmp_path):
    """The same, to be changed."""
    return open_corpus(shutil.copytree(stored.path, tmp_path / "copied"))


@pytest.mark.parametrize(("name", "close"), [("half", 2e-3), ("byte", 2e-2)])
def test_a_batch_is_the_rows_of_its_samples_one_by_one(stored, tiny, name, close):
    features, encoder = open_features(stored, name, tiny()), tiny()
    draw = np.random.default_rng(0)
    numbers, views = draw.integers(0, 44, 50), draw.integers(0, 3, 50)
    whole = features.image(numbers)
    assert whole.dtype == np.float32 and whole.shape == (50, 16)
    naive = encoder.embed_images([stored.read(number) for number in numbers.tolist()])
    np.testing.assert_allclose(whole, naive, atol=close)
    mixed = features.image(numbers, views)
    for at, (number, view) in enumerate(zip(numbers, views, strict=True)):
        np.testing.assert_array_equal(mixed[at], features.image(np.array([number]), np.array([view]))[0])
    np.testing.assert_array_equal(mixed[views == 0], whole[views == 0])
    assert not np.allclose(mixed[views == 1], whole[views == 1], atol=1e-2)
    owners, which = features.every_text(np.unique(numbers))
    texts = [stored.fields(n)["texts"][w]["text"] for n, w in zip(owners.tolist(), which.tolist(), strict=True)]
    np.testing.assert_allclose(features.text(owners, which), encoder.embed_texts(texts), atol=close)
    assert features.image(np.array([], np.int64)).shape == features.bank([]).shape == (0, 16)


def test_pieces_are_all_numbers_in_order(stored, monkeypatch):
    monkeypatch.setattr("medweave.features.store.PIECE", 5)
    features = open_features(stored, "half")
    assert np.concatenate(list(features.pieces())).tolist() == list(range(44))
    some = Ranges.of([1, 2, 3, 9, 20, 21, 22, 23, 24, 25, 43])
    pieces = list(features.pieces(some))
    assert np.concatenate(pieces).tolist() == some.numbers().tolist() and [len(p) for p in pieces] == [5, 5, 1]


def test_they_travel_to_other_processes(stored):
    features = open_features(stored, "half")
    numbers = np.array([3, 40, 17])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(features)).image(numbers), features.image(numbers))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(features.image, (numbers,)), features.image(numbers))


def test_what_is_not_there_is_said(stored):
    features = open_features(stored, "half")
    assert names(stored) == ["byte", "half"] and len(features) == 44
    with pytest.raises(RequestError, match=r"no teacher with rows is called 'halve'.*half"):
        open_features(stored, "halve")
    for name in ("../half", "", "a/b", ".half"):
        with pytest.raises(RequestError, match="no name for features"):
            open_features(stored, name)
    for numbers in ([44], [-1]):
        with pytest.raises(IndexError, match="of 44"):
            features.image(np.array(numbers))
    with pytest.raises(UserError, match="no rows of view 3"):
        features.image(np.array([0]), np.array([3]))
    bare = int(np.flatnonzero(features.text_counts(np.arange(44)) == 0)[0])
    with pytest.raises(IndexError, match=f"text 0 of sample {bare}"):
        features.text(np.array([bare]))


def test_rows_may_lie_elsewhere(stored, tiny, tmp_path):
    extract(stored, tiny(), "afar", root=tmp_path / "rows", texts=False, workers=1)
    features = open_features(stored, "afar", root=tmp_path / "rows")
    np.testing.assert_array_equal(features.image(np.array([5])), open_features(stored, "half").image(np.array([5])))
    assert names(stored, tmp_path / "rows") == ["afar"] and "afar" not in names(stored)
    assert pickle.loads(pickle.dumps(features)).name == "afar"


def test_a_stamp_that_is_broken_or_of_another_format_is_one_line(copied):
    path = copied.path / "features" / "half" / "stamp.json"
    stamp = read_json(path)
    for change, said in (
        ({"format": 9}, "another format"),
        ({"width": "wide"}, "width"),
        ({"colour": 1}, "no such key"),
    ):
        write_json(path, stamp | change)
        with pytest.raises(UserError, match=said):
            open_features(copied, "half")
    path.write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        open_features(copied, "half")


def test_damaged_arrays_are_named_when_they_are_read(copied):
    folder = copied.path / "features" / "half"
    (folder / "image-00002.npy").write_bytes(b"")
    (folder / "bank.npy").unlink()
    features = open_features(copied, "half")
    features.image(np.arange(16))
    with pytest.raises(DamagedError, match=r"image-00002\.npy"):
        features.image(np.arange(24))
    with pytest.raises(DamagedError, match=r"bank\.npy"):
        features.bank(list(features.captions)[:1])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_number_is_found_when_it_is_read_and_made_again(copied, tiny, number):
    folder = copied.path / "features" / "half"
    readings = {
        "image-00001.npy": lambda features: features.image(np.arange(40)),
        "image-00001.v2.npy": lambda features: features.image(np.arange(40), np.arange(40) % 3),
        "text-00000.npy": lambda features: features.text(*features.every_text(np.arange(40))),
        "bank.npy": lambda features: features.bank(list(features.captions)),
    }
    before = {name: (folder / name).read_bytes() for name in readings}
    for name, read in readings.items():
        array = np.load(folder / name)
        array[3, 5] = number
        np.save(folder / name, array)
        what = rf"a row is not a number .*/{name}\): delete this file and make these rows again"
        with pytest.raises(DamagedError, match=what):
            read(open_features(copied, "half"))
        (folder / name).write_bytes(before[name])
    for name in readings:
        (folder / name).unlink()
    assert extract(copied, tiny(), "half", views=Views(count=2), workers=1).made == 2
    assert {name: (folder / name).read_bytes() for name in readings} == before


def test_numbers_of_any_size_that_half_precision_holds_are_read(copied):
    path = copied.path / "features" / "half" / "image-00000.npy"
    largest = np.full_like(np.load(path), np.finfo(np.float16).max)
    np.save(path, largest)
    assert (open_features(copied, "half").image(np.arange(8)) == largest).all()


def test_coverage_of_other_rows_is_refused(copied):
    features = open_features(copied, "half")
    assert features.covered(np.arange(44)).all() and np.isnan(features.scores(np.arange(44))).all()
    rows = {"covered": [n % 3 == 0 for n in range(44)], "score": [n / 44 for n in range(44)]}
    for stamp in (features.stamp.rows_hash, "other"):
        table = pa.table(rows).replace_schema_metadata({"rows": stamp})
        pq.write_table(table, features.layout.covered)
        fresh = open_features(copied, "half")
        some = np.array([43, 3, 4, 0, 12])
        if stamp == "other":
            with pytest.raises(UserError, match="made for other rows"):
                fresh.covered(some)
        else:
            assert fresh.covered(some).tolist() == [False, True, False, True, True]
            np.testing.assert_allclose(fresh.scores(some), some / 44, atol=1e-3)


def test_an_appended_corpus_is_judged_sample_by_sample(
    corpus, tiny, sources, recipe_of, more_images, tmp_path, monkeypatch
):
    """Verdicts hold no ids: their order says whose they are."""
    monkeypatch.setattr("medweave.features.coverage.LEAST", 10_000)  # the teacher guesses
    ct = {"domains": ["ct"], "thresholds": Thresholds(pair=-1.0)}
    extract(corpus, tiny(), workers=1)
    cover(open_features(corpus, "tiny"), **ct)
    recipe, more = recipe_of(corpus.path, sources), more_images(tmp_path / "more", "lungs", 20, seed=500)
    annex = recipe_of(corpus.path, {"lungs": more}).sources[0].model_copy(update={"name": "annex"})
    grown = build(recipe.model_copy(update={"sources": (*recipe.sources, annex)}))
    extract(grown, tiny(), workers=1)
    features, numbers = open_features(grown, "tiny"), np.arange(len(grown))
    with pytest.raises(UserError, match="made for other rows"):
        features.covered(numbers)
    cover(features, **ct)
    told = open_features(grown, "tiny").covered(numbers)
    assert told.tolist() == [grown.fields(number)["modality"] == "ct" for number in numbers.tolist()]
    assert len(grown) == 64 and (np.diff(told) != 0).sum() == 2 and not told[[0, -1]].any()  # x-rays, CT, x-rays


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("teacher:biomedclip", "biomedclip"),
        ("hf-hub:owner/name", "owner-name"),
        ("open_clip:ViT-B-16/openai", "ViT-B-16-openai"),
        ("timm:tf_efficientnet_lite0@offline:efficientnet-lite0", "tf_efficientnet_lite0-offline-efficientnet-lite0"),
        ("first run", "first-run"),
    ],
)
def test_names_of_rows_follow_from_models(model, name):
    assert name_of(model) == name


def test_damaged_coverage_is_one_line(copied):
    features = open_features(copied, "half")
    table = pa.table({"covered": [True] * 44, "score": [0.5] * 44})
    pq.write_table(table.replace_schema_metadata({"rows": features.stamp.rows_hash}), features.layout.covered)
    whole = features.layout.covered.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        features.layout.covered.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"damaged .*covered\.parquet.*delete this file"):
            open_features(copied, "half").covered(np.arange(3))
    shorter = table.slice(1).replace_schema_metadata({"rows": features.stamp.rows_hash})
    pq.write_table(shorter, features.layout.covered)
    with pytest.raises(UserError, match="made for other rows"):
        open_features(copied, "half").scores(np.arange(3))


def test_scores_take_two_bytes_a_sample(stored, tmp_path):
    """24 million samples and nine teachers: every worker of a loader holds them."""
    features, count = open_features(stored, "half"), 1_000_000
    scores = pa.array(np.random.default_rng(0).random(count), pa.float32(), mask=np.arange(count) % 3 == 0)
    table = pa.table({"covered": np.arange(count) % 2 == 0, "score": scores})
    pq.write_table(table.replace_schema_metadata({"rows": features.stamp.rows_hash}), tmp_path / "large.parquet")
    large = features.with_verdicts(tmp_path / "large.parquet")
    large._starts = np.array([0, count])
    tracemalloc.start()
    found = large.scores(np.array([0, 1, 2, count - 1]))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2.1 * count and peak < 4 * count
    np.testing.assert_allclose(found[1:3], scores.slice(1, 2).to_numpy(), atol=1e-3)
    assert np.isnan(found[0]) and large.covered(np.array([0, 1, 2])).tolist() == [True, False, True]
