"""A folder of results: results.json over all, and beside it NAME/result.json and NAME/predictions.parquet of each case.

results.json: {"model", "results": [...], "failed": [{"benchmark", "reason"}], "skipped": [...], "summary": {...}}

A result has of its benchmark: benchmark, family, source, task, title, modality, anatomy, confounded, positive,
published, licence; of its images: n, groups, multi_label, left_out, fold, openings; figures, each {value, low, high}:
metrics, per_class, spread; beside them: no_interval (why), not_counted (classes), chance, majority; of the model:
model, in_domain, leaks, leaks_by; and what was done: calibration, choices, inputs (hashes). Of pooled folds, fold,
calibration, choices and inputs are lists, and there is no leaks_by.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medweave.errors import RequestError
from medweave.evaluation.macro import Drawn, summary
from medweave.evaluation.predictions import Predictions, read
from medweave.files import read_json, write_json

Result = dict[str, Any]
TABLE_KEYS = ("family", "source", "benchmark", "title", "modality", "confounded", "fold", "n", "groups", "multi_label")


@dataclass
class Results:
    """What an evaluation found. results: one mapping a case, with the keys that are listed above."""

    folder: Path
    model: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """Plain data, as in results.json."""
        data = asdict(self)
        del data["folder"]
        return data

    def predictions(self, result: Result) -> Predictions:
        """The predictions behind one result."""
        return read(self.folder / result["benchmark"] / "predictions.parquet")

    def write(self, draws: int, seed: int) -> None:
        """Add the summary and write results.json."""
        for family in sorted({result["family"] for result in self.results}):
            mine = {r["benchmark"]: r for r in self.results if r["family"] == family}
            sets = {name: Drawn(self.predictions(result), draws, seed) for name, result in mine.items()}
            self.summary[family] = summary(sets, mine)
        write_json(self.folder / "results.json", self.as_data())

    def text(self) -> str:
        """The results as lines for a terminal."""
        lines = [f"{self.model['name']}", f"{'benchmark':48s} {'n':>6s}  {'AUROC':22s} {'balanced acc. / AP':22s}"]
        for result in self.results:
            second = "macro_ap" if result["multi_label"] else "balanced_accuracy"
            values = [shown(result["metrics"][name]) for name in ("macro_auroc", second)]
            lines.append(f"{result['benchmark']:48s} {result['n']:6d}  {values[0]:22s} {values[1]:22s}")
        for family, averages in self.summary.items():
            for title in ("all", "without confounded"):
                means = averages[title]
                second = means.get("balanced_accuracy") or means.get("macro_ap")
                values = [shown(mean) for mean in (means.get("macro_auroc"), second)]
                lines.append(f"{f'{family}, mean of {title}':48s} {'':6s}  {values[0]:22s} {values[1]:22s}")
        lines += [f"failed: {one['benchmark']}: {one['reason']}" for one in self.failed]
        lines += [f"skipped: {one['benchmark']}: {one['reason']}" for one in self.skipped]
        return "\n".join([*lines, f"in {self.folder}"])


def load(folder: Path, keys: Collection[str] = TABLE_KEYS) -> Results:
    """The results in a folder. keys: those that each must have. Raises RequestError when there are none to be used."""
    path = folder / "results.json"
    if not path.is_file():
        raise RequestError("no results.json", where=folder, todo="name a folder that `medweave evaluate` wrote")
    data = read_json(path)
    if not _is_ours(data):
        raise RequestError("not the results of an evaluation", where=path, todo="name what `medweave evaluate` wrote")
    lacking = [key for key in keys if any(key not in result for result in data["results"])]
    if lacking:
        raise RequestError(f"results of an older version, without {lacking[0]!r}", where=path, todo="evaluate again")
    return Results(folder=folder, **data)


def _is_ours(data: Any) -> bool:
    """Whether a JSON value has the form of results.json."""
    if not isinstance(data, dict) or set(data) != {one.name for one in fields(Results)} - {"folder"}:
        return False
    return isinstance(data["results"], list) and all(isinstance(one, dict) for one in [data["model"], *data["results"]])


def shown(estimate: dict[str, Any] | None) -> str:
    """`0.812 [0.765, 0.853]`, or as much of it as there is."""
    if estimate is None or estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
