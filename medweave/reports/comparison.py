"""The comparison of several models: means over sets, paired differences, every set. From `medweave compare`'s table.

A difference is always (model - first model of the table), on the same images and the same bootstrap draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medweave.evaluation.compare import Comparison
from medweave.evaluation.statistics import SIGNIFICANT
from medweave.reports import charts
from medweave.reports.page import number, with_interval, write_page

METRICS = {"macro_auroc": "macro AUROC", "balanced_accuracy": "balanced accuracy", "macro_ap": "mean average precision"}
CHANCE = {"macro_auroc": 0.5}  # where it is the same for every set


@dataclass(frozen=True)
class Grid:
    """A table ready to be shown: a head, and rows of as many cells. text: how many cells of a row are words."""

    head: list[str]
    rows: list[list[str]]
    text: int = 1

    def markdown(self) -> str:
        """The table in Markdown."""
        rule = ["---"] * self.text + ["---:"] * (len(self.head) - self.text)
        return "\n".join("| " + " | ".join(row) + " |" for row in [self.head, rule, *self.rows])


def write(table: Comparison, out: Path, title: str = "Comparison of models") -> Path:
    """Write the comparison as one HTML page and return its path."""
    return write_page(
        out,
        "comparison.html",
        title=title,
        first=table.columns[0],
        columns=table.columns,
        sets=len(table.sets),
        images=sum(row["n"] for row in table.sets),
        draws=table.draws,
        draws_of_p=table.draws_of_p,
        too_few_draws=table.too_few_draws,
        means=means(table) if table.sets else None,
        differences=differences(table),
        difference_chart=difference_chart(table),
        metrics=[
            (METRICS[metric], set_chart(table, metric), every_set(table, metric), set_differences(table, metric))
            for metric in measured(table)
        ],
        left_out=table.left_out,
    )


def measured(table: Comparison) -> list[str]:
    """The metrics that some set defines, in the order of METRICS."""
    return [metric for metric in METRICS if any(metric in row["metrics"] for row in table.sets)]


def means(table: Comparison) -> Grid:
    """One row a model: its means over all sets and over those without a known shortcut."""
    shown = [(row, metric) for metric in measured(table) for row in table.macros if metric in row["metrics"]]
    head = [f"{METRICS[metric]}, {_sets(row['metrics'][metric]['values'][0]['sets'], row)}" for row, metric in shown]
    rows = [
        [column, *(with_interval(row["metrics"][metric]["values"][place]) for row, metric in shown)]
        for place, column in enumerate(table.columns)
    ]
    return Grid(["model", *head], rows)


def differences(table: Comparison) -> Grid:
    """One row a model, metric and mean: how far it is from the first model, and how sure that is."""
    head = ["model", "metric", "mean of sets", f"minus {table.columns[0]}", "p", "p (Holm)"]
    rows = [
        [name, METRICS[metric], title, _signed(found), _p(found["p"]), _p(found.get("p_holm"))]
        for name, metric, title, found in _macro_differences(table)
    ]
    return Grid(head, rows, text=3)


def every_set(table: Comparison, metric: str) -> Grid:
    """One row a set: each model's value with its interval; a star where it differs from the first model's."""
    rows = []
    for row in table.sets:
        if metric in row["metrics"]:
            found = row["metrics"][metric]
            marks = ["", *(" *" if (d.get("p_holm") or 1) < SIGNIFICANT else "" for d in found["differences"])]
            cells = [with_interval(value) + mark for value, mark in zip(found["values"], marks, strict=True)]
            rows.append([set_name(row, metric), row["modality"], str(row["n"]), str(row["groups"]), *cells])
    return Grid(["set", "modality", "images", "groups", *table.columns], rows, text=2)


def set_differences(table: Comparison, metric: str) -> Grid:
    """One row a set: how far each other model is from the first, with its interval; not corrected for many tests."""
    rows = [
        [set_name(row, metric), *map(_signed, row["metrics"][metric]["differences"])]
        for row in table.sets
        if metric in row["metrics"]
    ]
    first = table.columns[0]
    return Grid(["set", *(f"{column} minus {first}" for column in table.columns[1:])], rows)


def set_chart(table: Comparison, metric: str) -> str:
    """Every set with its interval, one series a model, and the means over sets below."""
    rows = [row for row in [*table.sets, *table.macros] if metric in row["metrics"]]
    bars = [
        charts.Bar(
            set_name(row, metric),
            value["value"],
            value["low"],
            value["high"],
            CHANCE.get(metric),
            column,
        )
        for row in rows
        for column, value in zip(table.columns, row["metrics"][metric]["values"], strict=True)
        if value["value"] is not None
    ]
    if not bars:
        return ""
    lowest = min(end for bar in bars for end in bar.ends)
    return charts.intervals(bars, METRICS[metric], (max(0.0, math.floor(10 * lowest - 0.1) / 10), 1.01))


def difference_chart(table: Comparison) -> str:
    """The differences of the means with their intervals; the tick is no difference."""
    bars = [
        charts.Bar(f"{METRICS[metric]}, {title}", found["value"], found["low"], found["high"], 0.0, name)
        for name, metric, title, found in _macro_differences(table)
        if found["value"] is not None
    ]
    if not bars:
        return ""
    ends = [0.0, *(end for bar in bars for end in bar.ends)]
    room = 0.05 * (max(ends) - min(ends)) + 0.005
    label = f"difference from {table.columns[0]}; right of the tick is better"
    return charts.intervals(bars, label, (min(ends) - room, max(ends) + room), table.columns)


def set_name(row: dict[str, Any], metric: str) -> str:
    """A set's name, marked where a shortcut is known; a mean's in words, with the sets that have the metric."""
    if "sets" in row:
        return f"mean of {_sets(row['metrics'][metric]['values'][0]['sets'], row)}"
    return row["set"] + (" †" if row["confounded"] else "")


def _macro_differences(table: Comparison) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(model, metric, mean, difference) of every model but the first."""
    return [
        (column, metric, row["set"], row["metrics"][metric]["differences"][place])
        for metric in measured(table)
        for row in table.macros
        if metric in row["metrics"]
        for place, column in enumerate(table.columns[1:])
    ]


def _sets(count: int, row: dict[str, Any]) -> str:
    """Over how many sets, and of which kind, a mean is."""
    return f"{count} set{'s' * (count > 1)}" + ("" if row["set"] == "all" else f" {row['set']}")


def _signed(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return number(None)
    interval = f" ({found['low']:+.3f} to {found['high']:+.3f})" if found["low"] is not None else ""
    return f"{found['value']:+.3f}{interval}"


def _p(value: float | None) -> str:
    return number(None) if value is None else "< 0.001" if value < 0.001 else number(value)
