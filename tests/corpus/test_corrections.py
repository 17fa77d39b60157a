"""Corrected labels: what the reader then says, and what a table of them must be."""

import csv
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medweave.corpus.build import build
from medweave.corpus.known import LabelSet, known_of
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError

XRAY = ("xray", "present")
EVERY = ["id", "modality", "findings", "sha256"]


@pytest.fixture
def corpus(built, tmp_path):
    return open_corpus(shutil.copytree(built, tmp_path / "copy"))


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "finding", "state"), *rows])
    return path


def findings(rows):
    return [{finding["name"]: finding["state"] for finding in row["findings"]} for row in rows]


def test_every_way_of_reading_gives_the_corrected_findings(corpus, tmp_path):
    rows = corpus.index(EVERY).to_pylist()
    draw = np.random.default_rng(0)
    told = {
        (rows[n]["id"], name): str(draw.choice(["present", "absent", "uncertain", "unknown"]))
        for n in draw.permutation(len(rows))[:20]
        for name in draw.permutation(["normal", "pneumonia", "effusion"])[: draw.integers(1, 4)].tolist()
    }
    file = table(tmp_path / "c.csv", [(*key, state) for key, state in told.items()])
    assert corpus.write_labels(file, "corrected") == len(told)
    right = corpus.with_labels("corrected")

    expected = findings(rows)
    for (sample, name), state in told.items():
        name = {"effusion": "pleural effusion"}.get(name, name)
        expected[[row["id"] for row in rows].index(sample)][name] = state
    assert findings(right.index(EVERY).to_pylist()) == expected
    assert findings(row for batch in right.batches(EVERY, 7) for row in batch.to_pylist()) == expected
    asked = draw.permutation(len(rows))[:30]
    assert findings(right.take(asked, ["findings"]).to_pylist()) == [expected[n] for n in asked]
    assert [right.fields(n)["findings"] for n in range(len(rows))] == expected
    assert [pickle.loads(pickle.dumps(right)).fields(n)["findings"] for n in (3, 30)] == [expected[3], expected[30]]
    assert right.index(["id", "sha256"]).equals(corpus.index(["id", "sha256"]))
    assert findings(corpus.index(EVERY).to_pylist()) == findings(rows), "the corpus itself is as it was"
    right.verify()


def test_some_rows_in_any_order(corpus):
    asked = np.array([50, 3, 57, 3, 0])
    assert corpus.take(asked, EVERY).equals(corpus.index(EVERY).take(pa.array(asked)))
    assert corpus.take(np.array([], np.int64), ["id"]).num_rows == 0
    with pytest.raises(RequestError, match="did you mean licence"):
        corpus.take(asked, ["license"])


def test_rows_are_found_over_many_parts_of_the_index(corpus, monkeypatch):
    whole = corpus.index()
    pq.write_table(whole, corpus.path / "index.parquet", row_group_size=5)
    asked = np.random.default_rng(0).permutation(len(corpus))
    again = open_corpus(corpus.path)
    assert again.take(asked[:9], EVERY).equals(whole.select(EVERY).take(pa.array(asked[:9])))
    monkeypatch.setattr("medweave.corpus.overlays.LEAST", 7)
    ids = whole["id"].take(pa.array(asked)).to_pylist()
    assert again.numbers_of([*ids, "nobody", ids[0]]).tolist() == [*asked, -1, asked[0]]
    pieces = [numbers.tolist() for numbers, _ in again.overlay_pieces("folds", ["fold"])]
    assert len(pieces) > 5 and sorted(n for piece in pieces for n in piece) == list(range(len(corpus)))


def test_what_is_known_is_what_each_row_says(corpus):
    known = known_of(corpus)
    for row, code in zip(corpus.index(["modality", "anatomy", "findings"]).to_pylist(), known.codes, strict=True):
        by_state = {s: frozenset(f["name"] for f in row["findings"] if f["state"] == s) for s in ("present", "absent")}
        assert known.sets[code] == LabelSet((row["modality"], row["anatomy"]), *by_state.values())


def test_what_a_present_finding_implies_is_present_where_the_sample_names_it(raw, recipe_of, tmp_path):
    lines = (raw / "manifest.csv").read_text().replace("pneumonia", "lung opacity").splitlines()
    folder = shutil.copytree(raw, tmp_path / "hospital")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    recipe = recipe_of(tmp_path / "corpus", folder)
    source = recipe.sources[0].model_copy(update={"exhaustive": True})
    corpus = build(recipe.model_copy(update={"sources": [source]}))
    rows = corpus.index().to_pylist()
    chest = next(r["id"] for r, f in zip(rows, findings(rows), strict=True) if (r["modality"], f["normal"]) == XRAY)
    told = [(chest, "lung infection", "Present"), (chest, "normal", "absent")]
    corpus.write_labels(table(tmp_path / "c.csv", told), "c")
    assert corpus.overlay("c").to_pylist() == [
        {"id": chest, "finding": "lung opacity", "state": "present"},
        {"id": chest, "finding": "normal", "state": "absent"},
        {"id": chest, "finding": "pneumonia", "state": "present"},
    ]
    both = [(chest, "pneumonia", "present"), (chest, "lung opacity", "absent")]
    with pytest.raises(RequestError, match=r"row 2: lung opacity is absent in .*, but row 1 implies it: pneumonia"):
        corpus.write_labels(table(tmp_path / "d.csv", both), "d")


def test_every_mistake_is_one_line(corpus, tmp_path):
    first = "hospital/000"
    rows = [
        (first, "normal", "absent"),
        ("hospital/999", "normal", "absent"),
        (first, "pnuemonia", "present"),
        (first, "effusion", "perhaps"),
        ("hospital/001", "pnuemonia", "present"),
        (first, "normal", "present"),
    ]
    with pytest.raises(RequestError) as error:
        corpus.write_labels(table(tmp_path / "c.csv", rows), "c")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("5 mistakes in") and len(lines) == 6
    assert "row 2: no sample 'hospital/999' in the corpus" in lines[1]
    assert "row 3: no finding is called 'pnuemonia' (ct, chest): did you mean pneumonia" in lines[2]
    assert "row 4: no state is called 'perhaps': write present, absent, uncertain, unknown" in lines[3]
    assert "row 5: no finding is called 'pnuemonia' (xray, chest): did you mean pneumonia" in lines[4]
    assert "row 6: normal is present in hospital/000, but absent in row 1" in lines[5]
    assert not corpus.has_overlay("c")
    again = [("hospital/002", "pnuemonia", "present"), ("hospital/004", "pnuemonia", "present")]
    with pytest.raises(RequestError, match=r"a mistake in .*\n  row 1 and 1 more: no finding is called"):
        corpus.write_labels(table(tmp_path / "d.csv", again), "d")


def test_tables_that_are_none(corpus, tmp_path):
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,label\nhospital/000,normal\n")
    with pytest.raises(RequestError, match="no column finding, state"):
        corpus.write_labels(wrong, "c")
    with pytest.raises(RequestError, match="no such manifest"):
        corpus.write_labels(tmp_path / "nowhere.csv", "c")
    with pytest.raises(RequestError, match="no correction"):
        corpus.write_labels(table(tmp_path / "empty.csv", []), "c")
    one = table(tmp_path / "one.csv", [("hospital/000", "normal", "absent")])
    with pytest.raises(RequestError, match="overlay folds is there and holds no labels"):
        corpus.write_labels(one, "folds")
    with pytest.raises(RequestError, match="plain name"):
        corpus.write_labels(one, "../c")
    same = pa.table({"id": ["hospital/000"], "finding": ["normal"], "state": ["absent"]})
    pq.write_table(same, tmp_path / "c.parquet")
    assert corpus.write_labels(tmp_path / "c.parquet", "c") == corpus.write_labels(one, "c") == 1


def test_overlays_that_hold_no_labels_are_refused(corpus):
    with pytest.raises(RequestError, match="did you mean folds"):
        corpus.with_labels("fold")
    with pytest.raises(RequestError, match="no column 'finding'"):
        corpus.with_labels("folds")
    ids = corpus.index(["id"])["id"][:1]
    corpus.write_overlay("mine", pa.table({"id": ids, "finding": ["normal"], "state": ["maybe"]}))
    with pytest.raises(RequestError, match=r"a state that is none .*write present, absent, uncertain, unknown"):
        open_corpus(corpus.path, labels="mine")
    twice = pa.table({"id": [*ids.to_pylist()] * 2, "finding": ["normal"] * 2, "state": ["present", "absent"]})
    pq.write_table(twice, corpus.path / "overlays" / "mine.parquet")
    with pytest.raises(RequestError, match="stands twice"):
        open_corpus(corpus.path, labels="mine")
