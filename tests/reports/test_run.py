"""The report of one model: whole, self-contained, and saying what the results say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medweave.errors import DamagedError
from medweave.evaluation.predictions import probabilities
from medweave.evaluation.results import Results
from medweave.evaluation.scoring import CALIBRATED
from medweave.reports.page import percent, with_interval
from medweave.reports.run import (
    asked,
    confusion,
    guesses,
    met,
    repeated,
    shots,
    training_curves,
    write_evaluation,
    write_report,
)

LOG = [
    {"kind": "train", "step": 10, "loss": 3.1, "images": 640},
    {"kind": "train", "step": 20, "loss": 2.4, "images": 1280},
    {"kind": "validation", "step": 20, "macro_auroc": 0.8, "balanced_accuracy": None, "sources": {}},
    {"kind": "counts", "step": 20, "read": 1280},
]


REFUSED = [
    {"source": "atlas", "licence_class": "NC", "licence": "CC BY-NC 4.0", "samples": 12},
    {"source": "archive", "licence_class": "unknown", "licence": None, "samples": 3456},
]


@pytest.fixture(scope="module")
def results(results_of):
    return results_of("planted", 0.8)


@pytest.fixture(scope="module")
def page(results, results_of, new_album, tmp_path_factory, parse):
    folder = tmp_path_factory.mktemp("run")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    album = new_album(refused=REFUSED, skips=["not an image", "not an image"], gone=[7])
    failing = replace(results, failed=[{"benchmark": "corpus-probe/broken", "reason": "classes <b> & more"}])
    baseline = results_of("histogram", 0.1, ["corpus-probe"])
    options = {"title": "A title", "about": "About it.", "run": folder, "baseline": baseline}
    return parse(write_report(folder / "report.html", failing, album, **options))


def test_the_page_is_whole_and_fetches_nothing(page):
    assert page.fetched == [] and page.scripts == 0
    assert page.images == 20 and page.tags.count("svg") >= 5


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
    assert "2 skipped, 3,468 refused by licence, 1 withdrawn after the build" in page.words


def test_every_refused_licence_has_a_line_the_most_images_first(page):
    lines = ["archive not stated unknown 3,456", "atlas CC BY-NC 4.0 NC 12"]
    assert " ".join(["source licence class images", *lines]) in page.words


@pytest.mark.parametrize("left_out", [{"refused": REFUSED[:1]}, {"skips": ["not an image"]}, {"gone": [7]}, {}])
def test_nothing_was_left_out_only_where_that_is_so(results, new_album, tmp_path, parse, left_out):
    empty = replace(results, results=[], summary={})
    page = parse(write_report(tmp_path / "page.html", empty, new_album(**left_out), title="T", about="A"))
    assert ("Nothing was left out." in page.words) == (not left_out)


def test_of_many_reasons_the_rest_is_counted(results, new_album, tmp_path, parse):
    empty, album = (
        replace(results, results=[], summary={}),
        new_album(skips=[f"the same bytes as {n}" for n in range(30)]),
    )
    page = parse(write_report(tmp_path / "page.html", empty, album, title="T", about="A"))
    assert "30 skipped" in page.words and "10 more for other reasons" in page.words


@pytest.mark.parametrize(
    ("task", "in_domain", "leaks", "said"),
    [
        ("zero_shot", True, 0, "prompted, in-domain"),
        ("zero_shot", False, 0, "zero-shot (source left out of training)"),
        ("zero_shot", False, 4, "zero-shot (source left out of training), near copies in training: 4"),
        ("zero_shot", None, None, "prompted, training data of this model unknown"),
        ("probe", False, 0, "linear probe, source left out of training"),
        ("probe", None, None, "linear probe, training data of this model unknown"),
    ],
)
def test_how_a_set_was_asked_is_said_as_far_as_training_is_known(task, in_domain, leaks, said):
    title = {"zero_shot": "prompted", "probe": "linear probe"}[task]
    assert asked({"task": task, "title": title, "in_domain": in_domain, "leaks": leaks}) == said


def test_what_the_model_met_is_counted_once_a_set_or_said_to_be_unknown():
    counts = [("a", 2), ("a", 2), ("b", 3), ("c", None)]
    lines = [{"source": name, "leaks": count} for name, count in counts]
    copies = "with a near copy among the model's training images: 5."
    assert met(_results(lines[:3])) == f"Test images {copies}"
    assert met(_results(lines[3:])) == "Whether the model met the test images in training is unknown."
    both = f"Whether the model met the test images of c in training is unknown. Test images of the other sets {copies}"
    assert met(_results(lines)) == both
    assert met(_results([])) == ""


def test_prompts_that_were_captions_are_told_where_there_are_any(results, album, tmp_path, parse):
    counts = [
        ("a", {"prompts_met": 2}),
        ("a", {}),
        ("b", {"prompts_met": None}),
        ("c", [{"prompts_met": n} for n in (1, 3)]),
    ]
    lines = [{"source": name, "choices": choices} for name, choices in counts]
    told = "Test prompts that the model was trained on as captions: 2 of a, 3 of c."
    assert repeated(_results(lines)) == told
    assert repeated(_results(lines[1:3])) == repeated(_results([])) == ""
    met_two = [r | {"choices": r["choices"] | {"prompts_met": 2 * (r["source"] == "knee")}} for r in results.results]
    page = parse(write_report(tmp_path / "page.html", replace(results, results=met_two), album, title="T", about="A"))
    assert "trained on as captions: 2 of knee." in page.words


def _results(lines):
    return Results(Path("nowhere"), {}, lines)


def test_a_model_of_unknown_training_is_neither_zero_shot_nor_unseen(page, results):
    assert {result["in_domain"] for result in results.results} == {None}
    assert "prompted, training data of this model unknown" in page.words
    assert "Whether the model met the test images in training is unknown." in page.words
    assert not any(claim in page.words for claim in ("zero-shot", "in-domain", "never seen", "kept out of training"))


def test_each_set_says_whether_its_source_was_trained_on(results, album, tmp_path, parse):
    seen = {"chest": True, "knee": False}
    known = [r | {"in_domain": seen.get(r["source"]), "leaks": 0, "left_out": 3} for r in results.results]
    page = parse(write_report(tmp_path / "page.html", replace(results, results=known), album, title="T", about="A"))
    assert "chest prompted, in-domain 36 3 not used" in page.words
    assert "knee † zero-shot (source left out of training) 24 3 not used" in page.words
    assert "zero-shot: scored against written descriptions alone" in page.words


def test_the_truth_is_among_the_guesses_whatever_its_place():
    shares = np.array([0.1, 0.4, 0.02, 0.3, 0.18])
    first = guesses(shares, {1}, "abcde")
    assert [(g.name, g.place, g.true) for g in first] == [("b", 1, True), ("d", 2, False), ("e", 3, False)]
    assert [g.share for g in first] == [0.4, 0.3, 0.18]
    assert [(g.name, g.place) for g in guesses(shares, {2}, "abcde")] == [("b", 1), ("d", 2), ("e", 3), ("c", 5)]
    several = guesses(shares, {0, 2, 3}, "abcde", likely=False)
    assert [(g.name, g.place) for g in several if g.true] == [("d", 2), ("a", 4), ("c", 5)]
    assert {g.share for g in several} == {None}


def test_a_picture_has_calibrated_guesses_with_the_truth_and_the_verdict_in_words(page, results, album):
    drawn = shots(results, album)
    assert {True, False, None} == {shot.right for shot in drawn}
    assert all((shot.guesses[0].share is None) == (shot.source == "retina") for shot in drawn)
    for result in (r for r in results.results if r["benchmark"] == "corpus-zero-shot/chest"):
        predictions = results.predictions(result)
        stated = np.sort(probabilities(predictions.scores[CALIBRATED], False), axis=1)[:, ::-1].tolist()
        assert all([g.share for g in s.guesses] in stated for s in drawn if s.source == "chest")
    for shot in drawn:
        shares = ["" if g.share is None else f" {percent(g.share)}" for g in shot.guesses]
        told = [f"{g.place}. {g.name}{' truth' * g.true}" for g in shot.guesses]
        lines = [line + share for line, share in zip(told, shares, strict=True)]
        end = "" if shot.calibrated else ", not calibrated"
        verdict = {True: "✓ right", False: "✗ wrong", None: "shows none"}[shot.right]
        assert " ".join([verdict, shot.source + end, *lines]) in page.words


def test_pictures_are_the_same_images_as_their_guesses_and_sets_of_other_corpora_have_none(results, album, monkeypatch):
    asked_for, drawn = [], shots(results, album)
    numbers_of = album.numbers_of
    monkeypatch.setattr(album, "numbers_of", lambda ids: asked_for.extend(ids) or numbers_of(ids))
    monkeypatch.setattr(album, "read", lambda number: pictured.append(number) or type(album).read(album, number))
    pictured: list[int] = []
    assert shots(results, album) == drawn and len(asked_for) == len(set(asked_for)) <= 24 * 4
    truths = [{f["name"] for f in album.world.rows[n]["findings"] if f["state"] == "present"} for n in pictured]
    assert truths == [{guess.name for guess in shot.guesses if guess.true} for shot in drawn]
    assert [album.world.rows[n]["source"] for n in pictured] == [shot.source for shot in drawn]
    gone = {row["id"] for row in album.world.rows if row["source"] == "chest"}
    monkeypatch.setattr(album, "numbers_of", lambda ids: np.where([i in gone for i in ids], -1, numbers_of(ids)))
    assert {shot.source for shot in shots(results, album)} == {"knee", "tiny", "retina"}


def test_without_one_corpus_the_page_shows_none_and_no_picture(results, album, parse):
    page = parse(write_evaluation(results, None, None))
    assert page.images == 0 and "The corpus" not in page.words and album.hash not in page.words
    assert "on test parts of several corpora" in page.words and "images in the corpus" not in page.words
    assert with_interval(results.results[0]["metrics"]["macro_auroc"]) in page.words
    page = parse(write_evaluation(results, album, None))
    assert page.images == 20 and "The corpus" in page.words and album.hash in page.words
    assert write_evaluation(replace(results, results=[]), album, None) is None


def test_a_corpus_that_cannot_be_read_any_more_costs_pictures_but_no_page(results, new_album, parse, capsys):
    def damaged(number):
        raise DamagedError("the shard is missing")

    album = new_album()
    album.read = damaged
    page = parse(write_evaluation(results, album, None))
    assert page.images == 0 and "The corpus" in page.words
    assert "the report shows no images: the shard is missing" in capsys.readouterr().err


def test_confusion_counts_every_image_once(results):
    result = next(r for r in results.results if r["benchmark"] == "corpus-zero-shot/chest")
    found = confusion(results.predictions(result))
    assert [sum(n for n, _, _ in row) for row in found["cells"]] == [c["n"] for c in result["per_class"].values()]


def test_a_model_that_only_failed_still_has_a_page(results, album, tmp_path, parse):
    failed = [{"benchmark": "corpus-probe", "reason": "no features"}]
    broken = replace(results, results=[], summary={}, failed=failed)
    page = parse(write_report(tmp_path / "empty.html", broken, album, title="T", about="A"))
    assert "no features" in page.words and page.images == 0


def test_several_objectives_and_teachers_have_curves_of_their_own(tmp_path):
    names = [f"feature/teacher-{n}" for n in range(8)]
    lines = [
        {"kind": "train", "step": step, "loss": 3.0, "losses": {"menu": 1.0, **dict.fromkeys(names, 0.25)}}
        for step in (10, 20)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss, kinds, teachers = training_curves(log)
    assert "menu" not in loss and "loss: menu" in kinds
    assert "feature loss, by teacher" in teachers
    assert all(f">teacher-{n}<" in teachers for n in range(8))
    log.write_text(json.dumps(lines[0] | {"losses": {"contrastive": 3.0}}) + "\n")
    assert len(training_curves(log)) == 1
