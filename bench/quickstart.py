"""The quickstart: its minutes, and what its model and a histogram of the pixels know of patients they have not seen."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MINUTES, ABOVE_CHANCE, ABOVE_HISTOGRAM = 6, 0.20, 0.15


def accuracies(folder: Path, family: str) -> dict[str, dict[str, Any]]:
    """modality -> {"chance", "value", "low"}: balanced accuracy, with the lower 95 % limit."""
    from medweave.evaluation.results import load

    of_family = [result for result in load(folder).results if result["family"] == family]
    return {
        one["modality"]: {"chance": one["chance"]["balanced_accuracy"], **one["metrics"]["balanced_accuracy"]}
        for one in of_family
    }


def rows() -> list[dict]:
    """The rows of bench/results.json that this file answers for."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "medweave", "quickstart", "--out", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.perf_counter() - start) / 60
        model = accuracies(Path(folder) / "run" / "evaluations", "corpus-zero-shot")
        histogram = accuracies(Path(folder) / "histogram", "corpus-probe")
    over_chance = {modality: found["low"] - found["chance"] for modality, found in model.items()}
    over_histogram = {modality: found["value"] - histogram[modality]["value"] for modality, found in model.items()}

    def weakest(name: str, margins: dict[str, float], bar: float) -> dict:
        modality = min(margins, key=lambda one: margins[one])
        return {
            "name": f"quickstart, prompted balanced accuracy, weakest modality: {name}",
            "ratio": round(margins[modality], 3),
            "bar": f">= {bar}",
            "holds": margins[modality] >= bar,
            "detail": f"{modality}: {model[modality]['value']:.3f}; {len(model)} modalities",
        }

    return [
        weakest("lower 95 % limit above chance", over_chance, ABOVE_CHANCE),
        weakest("above a logistic regression on a histogram of 32 bins", over_histogram, ABOVE_HISTOGRAM),
        {
            "name": "quickstart: minutes after installation",
            "ratio": round(minutes, 2),
            "bar": f"<= {MINUTES}",
            "holds": minutes <= MINUTES,
            "detail": "build, train, evaluate, report, classify",
        },
    ]
