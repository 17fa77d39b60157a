"""A folder of results: results.json over all, and beside it NAME/result.json and NAME/predictions.parquet of each case.

results.json: {"model", "results": [...], "failed": [{"benchmark", "reason"}], "skipped": [...], "summary": {...}}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medweave.errors import RequestError
from medweave.evaluation.macro import Drawn, summary
from medweave.evaluation.predictions import Predictions, read
from medweave.files import read_json, write_json

Result = dict[str, Any]


@dataclass
class Results:
    """What an evaluation found. results: one mapping a case, as DESIGN section 9 lists its keys."""

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
                values = [shown(averages[title].get(name)) for name in ("macro_auroc", "balanced_accuracy")]
                lines.append(f"{f'{family}, mean of {title}':48s} {'':6s}  {values[0]:22s} {values[1]:22s}")
        lines += [f"failed: {one['benchmark']}: {one['reason']}" for one in self.failed]
        lines += [f"skipped: {one['benchmark']}: {one['reason']}" for one in self.skipped]
        return "\n".join([*lines, f"in {self.folder}"])


def load(folder: Path) -> Results:
    """The results in a folder. Raises RequestError when there are none."""
    if not (folder / "results.json").is_file():
        raise RequestError("no results.json", where=folder, todo="name a folder that `medweave evaluate` wrote")
    return Results(folder=folder, **read_json(folder / "results.json"))


def shown(estimate: dict[str, Any] | None) -> str:
    """`0.812 [0.765, 0.853]`, or as much of it as there is."""
    if estimate is None or estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
