"""Several folds' results as one: every image tested once, each by the model that has not seen it.

Accuracy and its kin are pooled over all images; AUROC ranks images within their fold only, for the scores of different
models are not comparable, and the interval follows the same definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medweave.errors import RequestError
from medweave.evaluation import predictions as predictions_
from medweave.evaluation import scoring
from medweave.evaluation.predictions import Predictions, joined
from medweave.evaluation.results import Result, Results, load
from medweave.files import only_writer, write_json

KEPT = ("family", "source", "task", "title", "modality", "anatomy", "confounded", "positive", "published", "licence")
JOINED = ("benchmark", "left_out", "in_domain", "leaks", "fold", "openings", "calibration", "choices", "inputs")


def pool(
    folders: Sequence[Path | str], out: Path | str, name: str | None = None, draws: int = 1000, seed: int = 0
) -> Results:
    """Pool the results of folds into the folder `out`. name: of the pooled model in tables; that of `out` if not given.

    Raises RequestError when the folders are fewer than two or `out` is one of them, UserError when an image is tested
    twice.
    """
    out = Path(out)
    if len(folders) < 2:
        raise RequestError("pooling needs the results of two folds or more")
    if out.resolve() in [Path(folder).resolve() for folder in folders]:
        raise RequestError("pooled results would replace those of a fold", where=out, todo="give another folder")
    folds = [load(Path(folder), KEPT + JOINED) for folder in folders]
    name = name or out.resolve().name
    results = Results(out, {"name": name, "folds": [fold.model for fold in folds]})
    with only_writer(out):
        for benchmark in dict.fromkeys(r["benchmark"] for fold in folds for r in fold.results):
            parts = [(fold, r) for fold in folds for r in fold.results if r["benchmark"] == benchmark]
            results.results.append(_pooled(parts, out / benchmark, name, draws, seed))
        tested = {result["benchmark"] for result in results.results}
        for fold in folds:
            results.failed += [one for one in fold.failed if one not in results.failed]
            results.skipped += [s for s in fold.skipped if s["benchmark"] not in tested and s not in results.skipped]
        results.write(draws, seed)
    return results


def _pooled(parts: list[tuple[Results, Result]], folder: Path, name: str, draws: int, seed: int) -> Result:
    together: Predictions = joined([fold.predictions(result) for fold, result in parts])
    predictions_.write(together, folder / "predictions.parquet")
    each = [result for _, result in parts]
    leaks = [result["leaks"] for result in each]
    seen = [result["in_domain"] for result in each]
    numbers = scoring.numbers(together, draws, seed)
    result: dict[str, Any] = {
        "benchmark": each[0]["benchmark"],
        "model": name,
        **{key: each[0][key] for key in KEPT},
        **scoring.with_positive(numbers, each[0]["positive"]),
        "left_out": sum(r["left_out"] for r in each),
        "in_domain": None if None in seen else any(seen),
        "leaks": None if None in leaks else sum(leaks),
        "fold": [r["fold"] for r in each],
        "openings": max(r["openings"] for r in each),
        "calibration": [r["calibration"] for r in each],
        "choices": [r["choices"] for r in each],
        "inputs": [r["inputs"] for r in each],
    }
    write_json(folder / "result.json", result)
    return result
