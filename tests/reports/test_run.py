"""The report of one model: whole, self-contained, and saying what the results say."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medweave.reports.page import with_interval
from medweave.reports.run import confusion, write_report

LOG = [
    {"kind": "train", "step": 10, "loss": 3.1, "images": 640},
    {"kind": "train", "step": 20, "loss": 2.4, "images": 1280},
    {"kind": "validation", "step": 20, "macro_auroc": 0.8, "balanced_accuracy": None, "sources": {}},
    {"kind": "counts", "step": 20, "read": 1280},
]


@pytest.fixture(scope="module")
def results(results_of):
    return results_of("planted", 0.8)


@pytest.fixture(scope="module")
def page(results, results_of, album, tmp_path_factory, parse):
    folder = tmp_path_factory.mktemp("run")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    skipped = pa.table({"item": ["a", "b"], "reason": ["not an image", "not an image"]})
    pq.write_table(skipped, album.path / "skipped.parquet")
    failing = replace(results, failed=[{"benchmark": "corpus-probe/broken", "reason": "classes <b> & more"}])
    baseline = results_of("histogram", 0.1, ["corpus-probe"])
    options = {"title": "A title", "about": "About it.", "run": folder, "baseline": baseline}
    return parse(write_report(folder / "report.html", failing, album, **options))


def test_the_page_is_whole_and_fetches_nothing(page):
    assert page.fetched == [] and page.scripts == 0
    assert page.images == 18 and page.tags.count("svg") >= 5


def test_every_result_is_there_with_its_interval(page, results):
    for result in results.results:
        assert result["source"] in page.words
        assert with_interval(result["metrics"]["macro_auroc"]) in page.words
    assert "knee †" in page.words and "linear probe" in page.words
    tiny = next(r for r in results.results if r["source"] == "tiny")
    assert tiny["metrics"]["macro_auroc"]["low"] is None


def test_what_failed_or_was_left_out_is_named(page):
    assert "1 benchmark failed" in page.words
    assert "corpus-probe/broken" in page.words and "classes <b> & more" in page.words
    assert "2 × not an image" in page.words


def test_confusion_counts_every_image_once(results):
    result = next(r for r in results.results if r["benchmark"] == "corpus-zero-shot/chest")
    found = confusion(results.predictions(result))
    assert [sum(n for n, _, _ in row) for row in found["cells"]] == [c["n"] for c in result["per_class"].values()]


def test_a_model_that_only_failed_still_has_a_page(results, album, tmp_path, parse):
    failed = [{"benchmark": "corpus-probe", "reason": "no features"}]
    broken = replace(results, results=[], summary={}, failed=failed)
    page = parse(write_report(tmp_path / "empty.html", broken, album, title="T", about="A"))
    assert "no features" in page.words and page.images == 0
