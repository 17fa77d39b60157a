"""Teachers together, as baselines for their student: the best of them on each set, and the mean of what they say.

Best is chosen by each fold's validation part and scored on its test part: an oracle that no single teacher is, and that
a user could build. n images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from medweave.errors import UserError
from medweave.evaluation import predictions as predictions_
from medweave.evaluation import scoring
from medweave.evaluation.predictions import Predictions
from medweave.evaluation.results import Result, Results, load
from medweave.files import only_writer, write_json
from medweave.training.run import Run

if TYPE_CHECKING:
    from local_table import Job

FIGURES = ("macro_auroc", "balanced_accuracy")
Answered = tuple["Job", Result, Predictions]


def combine(job: Job) -> None:
    """Write the results of the arm's teachers together, as those of one model."""
    of = [(teacher, load(teacher.results)) for teacher in job.teachers]
    settings, out = job.recipe.evaluate, job.results
    modality_of = {r["source"]: r["modality"] for _, results in of for r in results.results}
    made = Results(out, {"name": job.name, "of": [teacher.name for teacher in job.teachers]})
    with only_writer(out):
        for name in dict.fromkeys(r["benchmark"] for _, results in of for r in results.results):
            found: list[Answered] = [
                (teacher, result, results.predictions(result))
                for teacher, results in of
                for result in results.results
                if result["benchmark"] == name and knows(teacher, result["modality"])
            ]
            if not found:
                continue
            modality = found[0][1]["modality"]
            alike = [source for source, other in modality_of.items() if other == modality]
            result, together = best(found, alike, job.arm.by) if job.arm.combine == "best" else mean(found)
            predictions_.write(together, out / name / "predictions.parquet")
            numbers: dict[str, Any] = scoring.numbers(together, settings.draws, settings.seed)
            result = result | scoring.with_positive(numbers, result["positive"]) | {"model": job.name}
            write_json(out / name / "result.json", result)
            made.results.append(result)
        made.write(settings.draws, settings.seed)


def knows(teacher: Job, modality: str) -> bool:
    """Whether a teacher was trained on images of a modality."""
    own = teacher.recipe.train.modalities
    return own is None or modality in own


def best(found: Sequence[Answered], alike: Sequence[str], by: str) -> tuple[Result, Predictions]:
    """The answers of the teacher that validation says is the best on this set, prompted, by one of the figures.

    Where several are alike the other figure decides, then both on all sets of the modality (`alike`).
    """
    source = found[0][1]["source"]
    figures = sorted(FIGURES, key=lambda figure: figure != by)

    def rank(one: Answered) -> list[float]:
        of = [validated(one[0], sources) for sources in ([source], alike)]
        return [each[figure] for each in of for figure in figures]

    _, result, answers = max(found, key=rank)
    return result, answers


def validated(teacher: Job, sources: Sequence[str]) -> dict[str, float]:
    """Mean figures on the validation parts of some sets, of the weights kept; -1 without any."""
    lines = list(Run(teacher.folder).log("validation"))
    figures = [lines[-1]["sources"][source] for source in sources if source in lines[-1]["sources"]] if lines else []

    def mean_of(metric: str) -> float:
        known = [one[metric] for one in figures if one.get(metric) is not None]
        return float(np.mean(known)) if known else -1.0

    return {figure: mean_of(figure) for figure in FIGURES}


def mean(found: Sequence[Answered]) -> tuple[Result, Predictions]:
    """The mean of the teachers' log-probabilities, [n, C]; of their logits where labels do not shut each other out.

    Raises UserError when they answered for other images.
    """
    _, result, first = found[0]
    for teacher, _, other in found:
        if other.classes != first.classes or not np.array_equal(other.ids, first.ids):
            raise UserError(f"{teacher.name} was tested on other images or classes", where=result["benchmark"])
    each = [one.scores[one.answer] for _, _, one in found]
    logits = np.mean([scores if first.multi else log_softmax(scores, axis=1) for scores in each], axis=0)
    return result, replace(first, scores={first.answer: logits}, variants={})
