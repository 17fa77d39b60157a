"""The report of one model on one corpus: what it can do, how sure that is, on what data, and what was left out.

Reads a folder of results, the corpus and, where there is one, the run's log; writes one HTML page.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medweave.corpus.images import decode
from medweave.corpus.store import Corpus, open_corpus
from medweave.errors import UserError
from medweave.evaluation.compare import MACROS
from medweave.evaluation.predictions import Predictions, probabilities
from medweave.evaluation.results import Result, Results
from medweave.evaluation.scoring import CALIBRATED
from medweave.progress import say
from medweave.reports import charts
from medweave.reports.page import number, picture, write_page
from medweave.seeds import generator

METRICS = {"balanced_accuracy": "balanced accuracy", "macro_auroc": "macro AUROC", "macro_ap": "mean average precision"}
MEANINGS = {
    "prompted": "an image is scored against written descriptions of each finding; no label of the set is used",
    "linear probe": "a logistic regression on the model's features, fitted to the set's own training images",
    "in-domain": "the model was trained on images of the set's source",
    "zero-shot": "scored against written descriptions alone, by a model trained on no image of the set's source",
    "unknown": "nothing here says what the model was trained on, so it may have met these very images",
}
DOMAINS: dict[bool | None, str] = {
    True: "in-domain",
    False: "source left out of training",
    None: "training data of this model unknown",
}
NO_CORPUS: dict[str, Any] = {"shots": [], "facts": None, "sources": [], "skipped": [], "withdrawn": 0}
SHOTS = 24
GUESSES = 3
REASONS = 20
LONGEST_MATRIX = 12
LEAST_RELIABLE = 45  # images behind a reliability curve


@dataclass(frozen=True)
class Guess:
    """One finding and the model's probability for it, None where it only ranks. place: 1 is the likeliest; true: the
    image shows it.
    """

    name: str
    share: float | None
    place: int
    true: bool


@dataclass(frozen=True)
class Shot:
    """One test image with what the model said of it. guesses: likeliest first, all that it shows among them."""

    picture: str
    source: str
    guesses: list[Guess]
    calibrated: bool

    @property
    def right(self) -> bool | None:
        """Whether it shows the likeliest finding; None where it shows none of them."""
        return self.guesses[0].true if self.truth else None

    @property
    def truth(self) -> str:
        """What the image shows."""
        return ", ".join(guess.name for guess in self.guesses if guess.true)


def write_report(
    path: Path,
    results: Results,
    corpus: Corpus | None,
    *,
    title: str,
    about: str,
    run: Path | None = None,
    baseline: Results | None = None,
) -> Path:
    """Write the page to `path` and return it.

    corpus: the one tested; None: the page has no word of it and shows no image. baseline: results of a plainer model on
    the same images, shown beside.
    """
    prompted = [result for result in results.results if result["task"] == "zero_shot"]
    return write_page(
        path,
        "run.html",
        title=title,
        about=about,
        cards=cards(results, corpus),
        overview=overview(results),
        modalities=by_modality(results),
        rows=[row(result, baseline) for result in _by_set(results)],
        meanings=meanings(results),
        met=met(results),
        repeated=repeated(results),
        with_baseline=baseline is not None,
        details=[detail(results, result) for result in prompted],
        reliability=reliability([p for p in map(results.predictions, prompted) if not p.multi]),
        curves=training_curves(run / "log.jsonl") if run else [],
        numbers=Path(os.path.relpath(results.folder / "results.json", path.parent)).as_posix(),
        reasons=REASONS,
        failed=results.failed,
        not_scored=results.skipped,
        model=results.model,
        **(of_corpus(results, corpus) if corpus is not None else NO_CORPUS),
    )


def of_corpus(results: Results, corpus: Corpus) -> dict[str, Any]:
    """What the page says of the corpus tested, and the images that it shows: none where one cannot be read."""
    try:
        shown = shots(results, corpus)
    except UserError as error:
        say(f"the report shows no images: {error}")
        shown = []
    return {
        "shots": shown,
        "facts": corpus.facts,
        "sources": source_table(corpus.facts),
        "skipped": skipped(corpus),
        "withdrawn": len(corpus.withdrawn()),
    }


def write_evaluation(results: Results, corpus: Corpus | Path | str | None, run: Path | None) -> Path | None:
    """The page of one `medweave evaluate`, beside its results; None where there is no result.

    corpus: the one that all results rest on; None: there are several. run: the run's folder.
    """
    if not results.results:
        return None
    parts = "the test part of the corpus below" if corpus is not None else "test parts of several corpora"
    return write_report(
        results.folder / "report.html",
        results,
        open_corpus(corpus) if isinstance(corpus, Path | str) else corpus,
        title=f"{results.model['name']}: what it can do",
        about=f"Scores of one model with intervals over groups of images, on {parts}.",
        run=run,
    )


def cards(results: Results, corpus: Corpus | None) -> list[tuple[str, str]]:
    """The few numbers at the top: (value, what it is)."""
    found = []
    if corpus is not None:
        found = [(f"{len(corpus):,}", "images in the corpus"), (str(len(corpus.facts["counts"])), "sources")]
    for title, summary in _summaries(results):
        for metric, value in summary["all"].items():
            sets = f"mean of {value['sets']} sets" if value["sets"] > 1 else "one set"
            found.append((number(value["value"]), f"{title}: {METRICS[metric]}, {sets}"))
    return found


def overview(results: Results) -> str:
    """Every set with its interval, one series a title; the tick is what guessing gives."""
    bars = [_bar(result) for result in _by_set(results) if result["metrics"][_second(result)]["value"] is not None]
    return charts.intervals(bars, "balanced accuracy; mean average precision of multi-label sets") if bars else ""


def by_modality(results: Results) -> str:
    """Mean AUROC of each modality's sets, one series a title."""
    bars = []
    for title, summary in _summaries(results):
        for name, metrics in summary.items():
            if name not in MACROS and "macro_auroc" in metrics:
                value = metrics["macro_auroc"]
                bars.append(charts.Bar(name, value["value"], value["low"], value["high"], 0.5, title))
    return charts.intervals(bars, "macro AUROC, mean of the modality's sets") if bars else ""


def asked(result: Result) -> str:
    """How a set was asked, and what is known of the model's training on its source: `prompted, in-domain`.

    "zero-shot" is said only of a source that is known to be left out of training.
    """
    if result["task"] == "zero_shot" and result["in_domain"] is False:
        copies = f", near copies in training: {result['leaks']}" if result["leaks"] else ""
        return f"zero-shot (source left out of training){copies}"
    return f"{result['title']}, {DOMAINS[result['in_domain']]}"


def meanings(results: Results) -> dict[str, str]:
    """What the words of `asked` and of the charts mean, of those that some set has."""
    used = " ".join([asked(result) + result["title"] for result in results.results])
    return {word: meaning for word, meaning in MEANINGS.items() if word in used}


def met(results: Results) -> str:
    """What is known of test images that the model met in training, in a sentence; empty without a result."""
    leaks = {result["source"]: result["leaks"] for result in results.results}
    unknown = [name for name, count in leaks.items() if count is None]
    known = [count for count in leaks.values() if count is not None]
    which = f" of {', '.join(unknown)}" if known else ""
    sentences = [f"Whether the model met the test images{which} in training is unknown."] if unknown else []
    if known:
        others = " of the other sets" if unknown else ""
        sentences.append(f"Test images{others} with a near copy among the model's training images: {sum(known):,}.")
    return " ".join(sentences)


def repeated(results: Results) -> str:
    """What is known of test prompts that were captions in training, in a sentence; empty where there is none."""
    counts: Counter[str] = Counter()
    for result in results.results:
        folds = result["choices"] if isinstance(result["choices"], list) else [result["choices"]]
        counts[result["source"]] = max(counts[result["source"]], *(one.get("prompts_met") or 0 for one in folds))
    sets = [f"{count} of {source}" for source, count in counts.items() if count]
    return f"Test prompts that the model was trained on as captions: {', '.join(sets)}." if sets else ""


def row(result: Result, baseline: Results | None) -> dict[str, Any]:
    """One line of the table of sets."""
    second = _second(result)
    same = [b for b in baseline.results if b["source"] == result["source"]] if baseline else []
    return {
        "result": result,
        "asked": asked(result),
        "second": result["metrics"][second],
        "chance": result["chance"][second],
        "baseline": same[0]["metrics"][_second(same[0])]["value"] if same else None,
        "ece": (result["metrics"].get("ece_calibrated") or result["metrics"].get("ece") or {}).get("value"),
    }


def detail(results: Results, result: Result) -> dict[str, Any]:
    """Confusion and reliability of one set."""
    predictions = results.predictions(result)
    return {
        "result": result,
        "matrix": None if predictions.multi else confusion(predictions),
        "reliability": "" if predictions.multi else reliability([predictions]),
        "spread": {title: value[_second(result)] for title, value in result["spread"].items()},
    }


def confusion(predictions: Predictions) -> dict[str, Any] | None:
    """Shares of each true class (rows) named as each class (columns); None for more classes than a page can hold."""
    size = len(predictions.classes)
    if size > LONGEST_MATRIX:
        return None
    truth, guess = predictions.truth.argmax(1), predictions.scores[predictions.answer].argmax(1)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (truth, guess), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = [
        [(int(counts[r, c]), _shade(shares[r, c], r == c), shares[r, c] > 0.55) for c in range(size)]
        for r in range(size)
    ]
    return {"classes": predictions.classes, "cells": cells}


def reliability(several: Sequence[Predictions]) -> str:
    """Stated probability of the named class against how often it was right, over all images of single-label sets.

    Before and after calibration; a set without calibration counts as it is. Too few images give no chart.
    """
    stated: dict[str, list[np.ndarray]] = {"as the model says": [], "calibrated on validation": []}
    right: dict[str, list[np.ndarray]] = {title: [] for title in stated}
    for one in several:
        names = (one.answer, CALIBRATED if CALIBRATED in one.scores else one.answer)
        for title, name in zip(stated, names, strict=True):
            shares = probabilities(one.scores[name], False)
            stated[title].append(shares.max(1))
            right[title].append(shares.argmax(1) == one.truth.argmax(1))
    if sum(len(one.ids) for one in several) < LEAST_RELIABLE:
        return ""
    calibrated = any(CALIBRATED in one.scores for one in several)
    titles = list(stated)[: 2 if calibrated else 1]
    points = {t: charts.reliability_points(np.concatenate(stated[t]), np.concatenate(right[t])) for t in titles}
    return charts.reliability(points)


def training_curves(log: Path) -> list[str]:
    """Training loss and validation scores over the steps, and the losses of several objectives and teachers."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    groups = [
        ({"loss": "training loss"}, "loss"),
        ({"macro_auroc": "macro AUROC", "balanced_accuracy": "balanced accuracy"}, "on validation"),
    ]
    drawn = []
    for names, label in groups:
        series = {title: _series(lines, key) for key, title in names.items()}
        series = {title: points for title, points in series.items() if points[0]}
        if series:
            drawn.append(charts.curves(series, "steps", label))
    return drawn + objective_curves(lines)


def objective_curves(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parts of the loss where there are several: those of objectives, and of the teachers of each objective."""
    losses = [{"step": line["step"], **line["losses"]} for line in lines if line.get("losses")]
    names = list(dict.fromkeys(name for line in losses for name in line if name != "step"))
    if len(names) < 2:
        return []
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        kind, _, teacher = name.partition("/")
        groups.setdefault(kind if teacher else "", {})[name] = teacher or kind
    drawn = []
    for kind, of in groups.items():
        several = f"{kind} loss, by teacher" if kind else "losses"
        series = {title: _series(losses, name) for name, title in of.items()}
        drawn.append(charts.curves(series, "steps", several if len(of) > 1 else f"loss: {next(iter(of))}"))
    return drawn


def shots(results: Results, corpus: Corpus) -> list[Shot]:
    """Test images drawn by a fixed seed, the sources taking turns, each with the prompted answer."""
    prompted = [(r, results.predictions(r)) for r in results.results if r["task"] == "zero_shot"]
    drawn = [(r, p, generator("report", r["source"]).permutation(len(p.ids))[:SHOTS]) for r, p in prompted]
    number_of = _numbers_of(corpus, [name for _, p, rows in drawn for name in p.ids[rows].tolist()])
    asked = [(r, p, rows) for r, p, rows in drawn if p.ids[rows[0]] in number_of]  # others are of another corpus
    each = max(1, SHOTS // max(1, len(asked)))
    return [_shot(r, p, row, corpus, number_of[p.ids[row]]) for r, p, rows in asked for row in rows[:each]][:SHOTS]


def source_table(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line a source and modality of the corpus: images of each split, licences."""
    licences: dict[str, list[str]] = {}
    for line in facts["licences"]:
        licences.setdefault(line["source"], []).append(line["licence"] or "not stated")
    return [
        {
            "name": name,
            "modality": modality,
            "splits": splits,
            "samples": sum(splits.values()),
            "licences": licences[name],
        }
        for name, by_modality in facts["counts"].items()
        for modality, splits in by_modality.items()
    ]


def skipped(corpus: Corpus) -> list[tuple[str, int]]:
    """Why items were skipped by the build, with counts, most frequent first."""
    reasons = Counter(corpus.skipped()["reason"].to_pylist())
    return sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))


def guesses(scores: np.ndarray, shown: Collection[int], classes: Sequence[str], likely: bool = True) -> list[Guess]:
    """The GUESSES likeliest classes, then those that the image shows and that are not among them.

    scores: [C]; likely: whether they are probabilities. shown: the numbers of the classes that it shows.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    return [
        Guess(classes[number], float(scores[number]) if likely else None, place, number in shown)
        for place, number in enumerate(order, 1)
        if place <= GUESSES or number in shown
    ]


def _numbers_of(corpus: Corpus, ids: Sequence[str]) -> dict[str, int]:
    """The numbers of those samples that the corpus has."""
    wanted = list(dict.fromkeys(ids))
    numbers = corpus.numbers_of(wanted).tolist()
    return {name: number for name, number in zip(wanted, numbers, strict=True) if number >= 0}


def _shot(result: Result, predictions: Predictions, row: int, corpus: Corpus, number: int) -> Shot:
    """One image of a result, by its row of the predictions and its number in the corpus."""
    calibrated = CALIBRATED in predictions.scores
    logits = predictions.scores[CALIBRATED if calibrated else predictions.answer][row : row + 1]
    scores = logits if predictions.multi else probabilities(logits, False)
    present = np.flatnonzero(predictions.truth[row] == 1)
    return Shot(
        picture=picture(decode(corpus.read(number), limits=corpus.limits)),
        source=result["source"],
        guesses=guesses(scores[0], present, predictions.classes, not predictions.multi),
        calibrated=calibrated or predictions.multi,
    )


def _second(result: Result) -> str:
    return "macro_ap" if result["multi_label"] else "balanced_accuracy"


def _by_set(results: Results) -> list[Result]:
    """The results of a set beside each other, prompted first."""
    return sorted(results.results, key=lambda r: (r["source"], r["task"] != "zero_shot", r["benchmark"]))


def _summaries(results: Results) -> list[tuple[str, dict[str, Any]]]:
    """(title of the family, its means over sets), prompted first."""
    first = {result["family"]: result for result in results.results}
    families = sorted(results.summary, key=lambda family: first[family]["task"] != "zero_shot")
    return [(first[family]["title"], results.summary[family]) for family in families]


def _bar(result: Result) -> charts.Bar:
    metric = _second(result)
    value = result["metrics"][metric]
    name = result["source"] + (" †" if result["confounded"] else "")
    return charts.Bar(name, value["value"], value["low"], value["high"], result["chance"][metric], result["title"])


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    kept = [line for line in lines if isinstance(line.get(key), int | float)]
    return [line["step"] for line in kept], [line[key] for line in kept]


def _shade(share: float, diagonal: bool) -> str:
    colour = "15,118,110" if diagonal else "185,28,28"
    return f"rgba({colour},{share:.2f})"
