"""Several models on the same test images: values with intervals, paired differences, p values corrected for many tests.

A column is one model on one family of benchmarks; the first column is what the others are compared with. A difference
is (column - first), over the same bootstrap draws; above 0 = better than the first. p of the sets are Holm-corrected
together, and p of the macro averages together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medweave.errors import RequestError, UserError, nearest
from medweave.evaluation import statistics
from medweave.evaluation.macro import METRICS, Drawn, any_interval, macro, mean_draws
from medweave.evaluation.predictions import Predictions
from medweave.evaluation.results import Results, load, shown
from medweave.evaluation.scoring import estimate

MACROS = ("all", "without confounded")


@dataclass(frozen=True)
class Comparison:
    """A table of models. columns: names; sets: one row a test set; macros: one row a macro average; left_out: why."""

    columns: list[str]
    sets: list[dict[str, Any]]
    macros: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    draws: int

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in ("columns", "sets", "macros", "left_out", "draws")}

    def text(self) -> str:
        """The table as lines for a terminal, one block a metric."""
        blocks = [_block(self, metric) for metric in METRICS]
        missing = [f"left out: {one['set']}: {one['reason']}" for one in self.left_out]
        return "\n".join([*(line for block in blocks for line in block), *missing])


@dataclass(frozen=True)
class _Column:
    name: str
    results: Results
    by_source: dict[str, dict[str, Any]]


def compare(columns: Sequence[Path | str], draws: int = 1000, seed: int = 0) -> Comparison:
    """Compare results. columns: folders of results, or `FOLDER@FAMILY` for one family of benchmarks of it.

    A folder without a family stands for each of its families. Raises RequestError when a folder or family is unknown.
    """
    found = [column for reference in columns for column in _columns(str(reference))]
    sets, left_out = [], []
    drawn: dict[str, list[Drawn]] = {}
    for source in dict.fromkeys(source for column in found for source in column.by_source):
        try:
            drawn[source] = [Drawn(p, draws, seed) for p in _aligned(found, source)]
            sets.append(_set_row(source, found, drawn[source]))
        except UserError as error:
            left_out.append({"set": source, "reason": error.what})
    _correct(sets)
    macros = _macro_rows(sets, drawn)
    _correct(macros)
    return Comparison([column.name for column in found], sets, macros, left_out, draws)


def _columns(reference: str) -> list[_Column]:
    folder, _, family = reference.partition("@")
    results = load(Path(folder))
    families = {result["family"]: result["title"] for result in results.results}
    if family and family not in families:
        raise RequestError(f"no benchmark family {family!r}", where=folder, todo=", ".join(nearest(family, families)))
    columns = []
    for one in [family] if family else families:
        title = families[one] if list(families.values()).count(families[one]) == 1 else one
        name = f"{results.model['name']}, {title}" if family or len(families) > 1 else results.model["name"]
        columns.append(_Column(name, results, {r["source"]: r for r in results.results if r["family"] == one}))
    return columns


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
            raise UserError(f"{column.name} was tested on other images, labels or groups than {columns[0].name}")
    return every


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
    draws = None if first.reason else other.draws[metric] - first.draws[metric]
    return _tested(other.values[metric] - first.values[metric], draws)


def _tested(value: float, draws: np.ndarray | None) -> dict[str, Any]:
    """A difference with its interval and p value; without draws it has neither."""
    low, high = statistics.interval(draws) if draws is not None else (None, None)
    p = statistics.p_value(draws) if draws is not None and low is not None else None
    return {"value": None if np.isnan(value) else float(value), "low": low, "high": high, "p": p}


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
    value = float(np.mean([b.values[metric] - a.values[metric] for a, b in pairs]))
    drawn = any_interval([one for one, _ in pairs])
    return _tested(value, mean_draws([b.draws[metric] - a.draws[metric] for a, b in pairs]) if drawn else None)


def _correct(rows: list[dict[str, Any]]) -> None:
    """Add the Holm-corrected p to every difference of each metric, over all rows and columns together."""
    for metric in METRICS:
        tests = [d for row in rows for d in row["metrics"].get(metric, {}).get("differences", []) if d["p"] is not None]
        for test, corrected in zip(tests, statistics.holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = corrected


def _block(table: Comparison, metric: str) -> list[str]:
    """The lines of one metric: a head, the sets, the macro averages."""
    rows = [row for row in table.sets + table.macros if metric in row["metrics"]]
    if not rows:
        return []
    width = max(len(row["set"]) for row in rows) + 2
    lines = [metric, f"{'':{width}s}{'n':>6s}  " + "".join(f"{name:30.30s}" for name in table.columns)]
    for row in rows:
        cells = [shown(value) for value in row["metrics"][metric]["values"]]
        cells[1:] = [
            f"{cell}{_mark(d)}" for cell, d in zip(cells[1:], row["metrics"][metric]["differences"], strict=True)
        ]
        lines.append(f"{row['set']:{width}s}{row.get('n', ''):>6}  " + "".join(f"{cell:30s}" for cell in cells))
    return [*lines, ""]


def _mark(difference: dict[str, Any]) -> str:
    """The difference with the first column, starred when its corrected p is below 0.05."""
    if difference["value"] is None:
        return ""
    star = "*" if (difference.get("p_holm") or 1.0) < 0.05 else ""
    return f" {difference['value']:+.3f}{star}"
