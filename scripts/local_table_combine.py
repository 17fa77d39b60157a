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

Answered = tuple["Job", Result, Predictions]


def combine(job: Job) -> None:
    """Write the results of the arm's teachers together, as those of one model."""
    of = [(teacher, load(teacher.results)) for teacher in job.teachers]
    settings, out = job.recipe.evaluate, job.results
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
            result, together = best(found) if job.arm.combine == "best" else mean(found)
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


def best(found: Sequence[Answered]) -> tuple[Result, Predictions]:
    """The answers of the teacher that validation says is the best on this set; the first of several alike."""
    source = found[0][1]["source"]
    _, result, answers = max(found, key=lambda one: validated(one[0], source))
    return result, answers


def validated(teacher: Job, source: str) -> tuple[float, float]:
    """AUROC and balanced accuracy of the weights that were kept, prompted on the validation part; -1 without any."""
    lines = list(Run(teacher.folder).log("validation"))
    figures = lines[-1]["sources"].get(source, {}) if lines else {}
    return figures.get("macro_auroc", -1.0), figures.get("balanced_accuracy", -1.0)


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
