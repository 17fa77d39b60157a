"""What students are worth beside their teachers: inside the modalities of each, and as a share of the best of them.

A share is corrected for chance, (S - c) / (O - c): 1 where the student is as good as the oracle. D draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medweave.evaluation.macro import Drawn, mean_draws
from medweave.evaluation.results import Result, load
from medweave.evaluation.statistics import interval
from medweave.reports.comparison import METRICS, Grid
from medweave.reports.page import with_interval

if TYPE_CHECKING:
    from local_table import Job, Table

SHOWN = ("macro_auroc", "balanced_accuracy")
DRAWS, SEED = 1000, 0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Beside:
    """A student and the oracle of its teachers on one set. each: arm -> values and draws."""

    facts: Result
    each: Mapping[str, Drawn]

    def defines(self, metric: str) -> bool:
        """Whether the set has this metric."""
        return all(not np.isnan(one.values.get(metric, np.nan)) for one in self.each.values())


def against_teachers(
    table: Table, jobs: Sequence[Job], pooled: Mapping[str, Path]
) -> tuple[str, list[dict[str, Any]]] | None:
    """The section of the page and its data; None without an oracle, or while an arm is missing."""
    best = {arm.by: arm for arm in table.arms if arm.combine == "best"}
    students = table.against_oracle or [table.reference]
    needed = {name for arm in best.values() for name in (arm.name, *arm.teachers)}
    if not best or not {*students, *needed} <= pooled.keys():
        return None
    own = {job.arm.name: job.recipe.train.modalities for job in jobs}
    kinds = {name: of for name, of in own.items() if name in needed and of}
    oracles = {metric: (best.get(metric) or next(iter(best.values()))).name for metric in SHOWN}
    rows = [row for student in students for row in _rows(student, oracles, kinds, pooled)]
    return _text(rows), rows


def _rows(
    student: str, oracles: Mapping[str, str], kinds: Mapping[str, Sequence[str]], pooled: Mapping[str, Path]
) -> Iterator[dict[str, Any]]:
    """One student by family, group of sets and metric. oracles: of each metric. kinds: specialist -> modalities."""
    titles = {result["family"]: result["title"] for result in load(pooled[student]).results}
    for family, title in titles.items():
        beside = _beside(family, [student, *oracles.values()], pooled)
        groups = {"all": beside, "without confounded": [one for one in beside if not one.facts["confounded"]]}
        groups |= {name: [one for one in beside if one.facts["modality"] in of] for name, of in kinds.items()}
        for group, sets in groups.items():
            for metric in SHOWN:
                counted = [one for one in sets if one.defines(metric)]
                if counted:
                    head = {"student": student, "by": title, "sets of": group, "metric": metric}
                    yield head | {"sets": len(counted)} | _figures(counted, metric, student, oracles[metric])


def _beside(family: str, arms: Sequence[str], pooled: Mapping[str, Path]) -> list[Beside]:
    """Every set of a family that all these arms were tested on."""
    results = {arm: load(pooled[arm]) for arm in arms}
    of = {arm: {r["source"]: r for r in results[arm].results if r["family"] == family} for arm in arms}
    shared = [source for source in of[arms[0]] if all(source in of[arm] for arm in arms)]
    return [
        Beside(
            of[arms[0]][source],
            {arm: Drawn(results[arm].predictions(of[arm][source]), DRAWS, SEED) for arm in arms},
        )
        for source in shared
    ]


def _figures(sets: Sequence[Beside], metric: str, student: str, oracle: str) -> dict[str, Any]:
    """Means over sets, their difference and the share, with intervals over the same draws."""
    chance = float(np.mean([one.facts["chance"][metric] for one in sets]))
    values = {arm: float(np.mean([one.each[arm].values[metric] for one in sets])) for arm in (student, oracle)}
    draws = {arm: mean_draws([one.each[arm].draws[metric] for one in sets]) for arm in (student, oracle)}
    return {
        "value": _estimate(values[student], draws[student]),
        "oracle": _estimate(values[oracle], draws[oracle]),
        "difference": _estimate(values[student] - values[oracle], draws[student] - draws[oracle]),
        "share": _estimate(
            (values[student] - chance) / (values[oracle] - chance),
            (draws[student] - chance) / (draws[oracle] - chance),
        ),
    }


def _estimate(value: float, draws: Array) -> dict[str, float | None]:
    low, high = interval(draws)
    return {"value": value, "low": low, "high": high}


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["student", "by", "sets of", "metric", "sets", "mean", "oracle", "difference", "share above chance"]
    cells = [
        [
            row["student"],
            row["by"],
            row["sets of"],
            METRICS[row["metric"]],
            str(row["sets"]),
            *(with_interval(row[name]) for name in ("value", "oracle", "difference", "share")),
        ]
        for row in rows
    ]
    note = (
        "The oracle takes, for each set and fold, the teacher that is best by prompts on validation, for probes too: "
    )
    note += "by the figure that is compared, where the table has an oracle of each."
    return "\n\n".join(["## Against the best of the teachers", note, Grid(head, cells, text=4).markdown()])
