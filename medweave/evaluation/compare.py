"""Several models on the same test images: values with intervals, paired differences, p values corrected for many tests.

A column is one model on one family of benchmarks; the first column is what the others are compared with. A difference
is (column - first), over the same bootstrap draws; above 0 = better than the first. p of the sets are Holm-corrected
together, and p of the macro averages together.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from medweave.errors import RequestError, UserError, nearest
from medweave.evaluation import statistics
from medweave.evaluation.macro import METRICS, Drawn, any_interval, macro, mean_draws, paired_draws
from medweave.evaluation.predictions import Predictions
from medweave.evaluation.results import Result, Results, load, shown
from medweave.evaluation.scoring import estimate
from medweave.evaluation.statistics import SIGNIFICANT

MACROS = ("all", "without confounded")
MOST_DRAWS = 20_000  # that p values get unasked


@dataclass(frozen=True)
class Comparison:
    """A table of models. columns: names; sets: one row a test set; macros: one row a macro average; left_out: why.

    draws: behind intervals; draws_of_p: behind p values; tests: the most p values that are corrected together.
    """

    columns: list[str]
    sets: list[dict[str, Any]]
    macros: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    draws: int
    draws_of_p: int
    tests: int

    @property
    def too_few_draws(self) -> str | None:
        """Why no corrected p can be significant, and what to do; None where it can."""
        least = statistics.least_draws(self.tests)
        if self.draws_of_p >= least:
            return None
        return (
            f"no corrected p can be below {SIGNIFICANT}: {self.tests} tests need {least} draws, "
            f"not {self.draws_of_p}; give --draws {least}"
        )

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def text(self) -> str:
        """The table as lines for a terminal, one block a metric."""
        blocks = [_block(self, metric) for metric in METRICS]
        missing = [f"left out: {one['set']}: {one['reason']}" for one in self.left_out]
        warning = [self.too_few_draws] if self.too_few_draws else []
        return "\n".join([*(line for block in blocks for line in block), *missing, *warning])


@dataclass(frozen=True)
class _Column:
    name: str
    results: Results
    by_source: dict[str, dict[str, Any]]


def compare(columns: Sequence[Path | str], draws: int = 1000, seed: int = 0) -> Comparison:
    """Compare results. columns: folders of results, or `FOLDER@FAMILY` for one family of benchmarks of it.

    A folder without a family stands for each of its families. draws: behind intervals, and behind p values unless so
    many tests need more. Raises RequestError when a folder or family is unknown, or has no result.
    """
    found = _told_apart([column for reference in columns for column in _columns(str(reference))])
    sources = list(dict.fromkeys(source for column in found for source in column.by_source))
    shared = set(sources).intersection(*(column.by_source for column in found))
    draws_of_p = _draws_of_p(draws, (len(found) - 1) * max(len(shared), len(MACROS)))
    sets, left_out = [], []
    drawn: dict[str, list[Drawn]] = {}
    for source in sources:
        try:
            drawn[source] = _drawn(_aligned(found, source), draws, draws_of_p, seed)
            sets.append(_set_row(source, found, drawn[source]))
        except UserError as error:
            left_out.append({"set": source, "reason": error.what})
    macros = _macro_rows(sets, drawn)
    tests = max(_correct(sets), _correct(macros))
    return Comparison([column.name for column in found], sets, macros, left_out, draws, draws_of_p, tests)


def _draws_of_p(draws: int, tests: int) -> int:
    """The draws behind p values: those of the intervals, or more where no corrected p could be significant by them.

    Twice as many as that takes, so that one contrary draw does not decide.
    """
    least = statistics.least_draws(tests)
    return draws if draws >= least else max(draws, min(2 * least, MOST_DRAWS))


def _drawn(models: list[Predictions], draws: int, draws_of_p: int, seed: int) -> list[Drawn]:
    """Each model's draws on one set."""
    if draws_of_p == draws:
        return [Drawn(one, draws, seed) for one in models]
    more = paired_draws(models, draws_of_p, seed)
    return [Drawn(one, draws, seed, of_p) for one, of_p in zip(models, more, strict=True)]


def _columns(reference: str) -> list[_Column]:
    folder, _, family = reference.partition("@")
    results = load(Path(folder))
    if not results.results:
        raise RequestError(f"no results to compare: {_why_none(results)}", where=folder)
    families = {result["family"]: result["title"] for result in results.results}
    if family and family not in families:
        raise RequestError(f"no benchmark family {family!r}", where=folder, todo=", ".join(nearest(family, families)))
    columns = []
    for one in [family] if family else families:
        title = families[one] if list(families.values()).count(families[one]) == 1 else one
        name = f"{results.model['name']}, {title}" if family or len(families) > 1 else results.model["name"]
        columns.append(_Column(name, results, {r["source"]: r for r in results.results if r["family"] == one}))
    return columns


def _why_none(results: Results) -> str:
    """Why an evaluation has no result: its first failure, or the first set that it passed over."""
    for kind, listed in (("failed", results.failed), ("was skipped", results.skipped)):
        if listed:
            return f"{listed[0]['benchmark']} {kind}, {listed[0]['reason']}"
    return "nothing was evaluated"


def _told_apart(columns: list[_Column]) -> list[_Column]:
    """The columns, models of one name in several folders with the part of their folder that tells them apart."""
    folders: dict[str, set[Path]] = {}
    for column in columns:
        folders.setdefault(column.results.model["name"], set()).add(column.results.folder.resolve())
    parts = {name: distinguishing(of_name) for name, of_name in folders.items() if len(of_name) > 1}
    return [_with_part(column, parts.get(column.results.model["name"])) for column in columns]


def _with_part(column: _Column, parts: dict[Path, str] | None) -> _Column:
    return replace(column, name=f"{parts[column.results.folder.resolve()]}: {column.name}") if parts else column


def distinguishing(folders: Collection[Path]) -> dict[Path, str]:
    """Of each folder the shortest part that tells it from the others: `a` and `b` of /runs/a/0 and /runs/b/0."""
    upwards = {folder: folder.parts[::-1] for folder in folders}
    places = zip(*upwards.values(), strict=False)
    shared = next(place for place, names in enumerate(places) if len(set(names)) > 1)
    for end in itertools.count(shared + 1):
        parts = {folder: names[shared:end] for folder, names in upwards.items()}
        if len(set(parts.values())) == len(parts):
            break
    return {folder: Path(*names[::-1]).as_posix() for folder, names in parts.items()}


def _aligned(columns: list[_Column], source: str) -> list[Predictions]:
    """The predictions of every column for one set, image by image. Raises UserError when they tested other images."""
    lacking = [column.name for column in columns if source not in column.by_source]
    if lacking:
        raise UserError(f"not tested by {', '.join(lacking)}")
    every = [column.results.predictions(column.by_source[source]) for column in columns]
    every = [one.take(np.argsort(one.ids)) for one in every]
    first = every[0]
    for column, one in zip(columns, every, strict=True):
        same = one.classes == first.classes and np.array_equal(one.ids, first.ids)
        if not same or not np.array_equal(one.truth, first.truth) or not np.array_equal(one.groups, first.groups):
            what = f"{column.name} was tested on other images, labels or groups than {columns[0].name}"
            raise UserError(what + _of_other_fold(column.by_source[source], columns[0].by_source[source]))
    return every


def _of_other_fold(result: Result, first: Result) -> str:
    """What to do where one model was tested on another fold than the first."""
    return "; `medweave pool` first makes one result of a model's folds" if result["fold"] != first["fold"] else ""


def _set_row(source: str, columns: list[_Column], drawn: list[Drawn]) -> dict[str, Any]:
    facts = columns[0].by_source[source]
    row: dict[str, Any] = {"set": source, "n": facts["n"], "groups": facts["groups"], "modality": facts["modality"]}
    row |= {"confounded": facts["confounded"], "no_interval": drawn[0].reason, "metrics": {}}
    for metric in drawn[0].values:
        values = [
            estimate(one.values[metric], None if one.reason else one.draws[metric], one.smallest) for one in drawn
        ]
        differences = [_difference(drawn[0], one, metric) for one in drawn[1:]]
        row["metrics"][metric] = {"values": values, "differences": differences}
    return row


def _difference(first: Drawn, other: Drawn, metric: str) -> dict[str, Any]:
    return _mean_difference([(first, other)], metric)


def _mean_difference(pairs: Sequence[tuple[Drawn, Drawn]], metric: str) -> dict[str, Any]:
    """The mean over sets of (other - first) with its interval and p value; it has neither where no set has one."""
    value = float(np.mean([other.values[metric] - first.values[metric] for first, other in pairs]))
    low, high, p = None, None, None
    if any_interval([first for first, _ in pairs]):
        low, high = statistics.interval(mean_draws([b.draws[metric] - a.draws[metric] for a, b in pairs]))
        again = mean_draws([b.draws_of_p[metric] - a.draws_of_p[metric] for a, b in pairs])
        p = statistics.p_value(again) if low is not None else None
    return {"value": None if np.isnan(value) else value, "low": low, "high": high, "p": p}


def _macro_rows(sets: list[dict[str, Any]], drawn: dict[str, list[Drawn]]) -> list[dict[str, Any]]:
    """Rows over all sets, and over those without a known shortcut."""
    rows = []
    for title in MACROS:
        names = [row["set"] for row in sets if title == "all" or not row["confounded"]]
        by_column = list(zip(*(drawn[name] for name in names), strict=True))
        metrics = {}
        for metric in METRICS:
            values = [macro(column, metric) for column in by_column]
            if values and all(value is not None for value in values):
                differences = [_macro_difference(by_column[0], column, metric) for column in by_column[1:]]
                metrics[metric] = {"values": values, "differences": differences}
        rows.append({"set": title, "sets": names, "metrics": metrics})
    return rows


def _macro_difference(first: Sequence[Drawn], other: Sequence[Drawn], metric: str) -> dict[str, Any]:
    pairs = [(a, b) for a, b in zip(first, other, strict=True) if not np.isnan(a.values.get(metric, np.nan))]
    return _mean_difference(pairs, metric)


def _correct(rows: list[dict[str, Any]]) -> int:
    """Add the Holm-corrected p to every difference of each metric, over all rows and columns; the most of a metric."""
    most = 0
    for metric in METRICS:
        tests = [d for row in rows for d in row["metrics"].get(metric, {}).get("differences", []) if d["p"] is not None]
        for test, corrected in zip(tests, statistics.holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = corrected
        most = max(most, len(tests))
    return most


def _block(table: Comparison, metric: str) -> list[str]:
    """The lines of one metric: a head, the sets, the macro averages."""
    rows = [row for row in table.sets + table.macros if metric in row["metrics"]]
    if not rows:
        return []
    width, wide = max(len(row["set"]) for row in rows) + 2, max(30, *(len(name) + 2 for name in table.columns))
    lines = [metric, f"{'':{width}s}{'n':>6s}  " + "".join(f"{name:{wide}s}" for name in table.columns)]
    for row in rows:
        cells = [shown(value) for value in row["metrics"][metric]["values"]]
        cells[1:] = [
            f"{cell}{_mark(d)}" for cell, d in zip(cells[1:], row["metrics"][metric]["differences"], strict=True)
        ]
        lines.append(f"{row['set']:{width}s}{row.get('n', ''):>6}  " + "".join(f"{cell:{wide}s}" for cell in cells))
    return [*lines, ""]


def _mark(difference: dict[str, Any]) -> str:
    """The difference with the first column, starred when its corrected p is significant."""
    if difference["value"] is None:
        return ""
    star = "*" if (difference.get("p_holm") or 1.0) < SIGNIFICANT else ""
    return f" {difference['value']:+.3f}{star}"
