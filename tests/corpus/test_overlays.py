import shutil

import pyarrow as pa
import pytest

from medweave.corpus.order import Ranges
from medweave.corpus.store import open_corpus
from medweave.corpus.views import fold_view, split_view, strata_of
from medweave.errors import RequestError


@pytest.fixture
def corpus(built, tmp_path):
    return open_corpus(shutil.copytree(built, tmp_path / "copy"))


@pytest.fixture
def rows(corpus):
    return corpus.index(["id", "source", "split", "modality"]).to_pylist()


def numbers(rows, **facts):
    return [n for n, row in enumerate(rows) if all(row[name] == value for name, value in facts.items())]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_split_view_is_the_split(corpus, rows, split):
    assert split_view(corpus, split).numbers().tolist() == numbers(rows, split=split)
    assert split_view(corpus).numbers().tolist() == list(range(len(rows)))


def test_strata_of_a_view(corpus, rows):
    strata = strata_of(corpus, split_view(corpus, "train"), by="modality")
    assert {name: ranges.numbers().tolist() for name, ranges in strata.items()} == {
        name: numbers(rows, split="train", modality=name) for name in ("xray", "ct")
    }
    some = Ranges.of([1, 2, 50])
    assert strata_of(corpus, some, by="source")["hospital"].numbers().tolist() == [1, 2, 50]
    assert list(strata_of(corpus, some, by="all")) == ["all"]
    assert strata_of(corpus, Ranges.of([]), by="source") == {}


def test_folds_cover_every_sample_once(corpus):
    folds = {row["id"]: row for row in corpus.overlay("folds").to_pylist()}
    ids = corpus.index(["id"])["id"].to_pylist()
    tests = []
    for fold in range(3):
        sides = {side: fold_view(corpus, fold, side).numbers().tolist() for side in ("train", "validation", "test")}
        assert sorted(n for own in sides.values() for n in own) == list(range(len(corpus)))
        assert all(folds[ids[n]]["fold"] == fold for n in sides["test"])
        assert all(folds[ids[n]]["inner"] == 0 for n in sides["validation"]) and sides["validation"]
        tests += sides["test"]
    assert sorted(tests) == list(range(len(corpus)))


def test_withdrawn_samples_are_in_no_view(corpus, rows):
    gone = numbers(rows, split="train")[3:5]
    corpus.withdraw([rows[n]["id"] for n in gone], "the patient asked")
    corpus.withdraw([rows[gone[0]]["id"]], "again")
    again = open_corpus(corpus.path)
    assert again.withdrawn() == set(gone)
    assert not set(gone) & set(split_view(again, "train").numbers().tolist())
    for fold in range(3):
        assert not set(gone) & {n for s in ("train", "validation", "test") for n in fold_view(again, fold, s).numbers()}
    again.verify()


def test_an_overlay_may_say_the_split(corpus):
    ids = corpus.index(["id"])["id"].to_pylist()
    sides = ["test" if n % 2 else "train" for n in range(len(ids))]
    table = pa.table({"id": ids[::-1], "split": sides[::-1]})
    corpus.write_overlay("mine", table)
    assert corpus.overlay("mine").equals(table)
    assert split_view(corpus, "test", overlay="mine").numbers().tolist() == list(range(1, len(ids), 2))


def test_overlay_hashes_follow_content(corpus):
    ids = corpus.index(["id"])["id"].to_pylist()
    hashes = []
    for value in (1, 1, 2):
        corpus.write_overlay("mine", pa.table({"id": ids, "label": [value] * len(ids)}))
        hashes.append(corpus.overlay_hash("mine"))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("mine", {"id": ["nobody", "else"]}, "no sample 'nobody' and 1 more"),
        ("mine", {"id": ["hospital/000", "hospital/000"]}, "twice"),
        ("mine", {"name": ["hospital/000"]}, "needs a column `id`"),
        ("../mine", {"id": ["hospital/000"]}, "plain name"),
        ("", {"id": ["hospital/000"]}, "plain name"),
    ],
)
def test_wrong_overlays_are_refused(corpus, name, columns, says):
    with pytest.raises(RequestError, match=says):
        corpus.write_overlay(name, pa.table(columns))


def test_unknown_names_are_refused(corpus):
    with pytest.raises(RequestError, match="did you mean folds"):
        corpus.overlay("fold")
    with pytest.raises(RequestError, match="no sample"):
        corpus.withdraw(["nobody"], "typo")
    with pytest.raises(RequestError, match="did you mean train"):
        split_view(corpus, "trian")
    with pytest.raises(RequestError, match="there are 0 to 2"):
        fold_view(corpus, 3, "test")
    with pytest.raises(RequestError, match="side of a fold"):
        fold_view(corpus, 0, "tset")
    with pytest.raises(RequestError, match="no column 'split'"):
        split_view(corpus, "test", overlay="folds")
