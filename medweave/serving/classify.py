"""Findings of single images by prompts: which of the candidate findings does an image look most like?

A softmax head gives shares of the candidates that were asked about, a sigmoid head the probability of each by itself:
at the temperature that an evaluation fitted on validation data, else at the model's own. They are no diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medweave.errors import RequestError
from medweave.evaluation.predictions import probabilities
from medweave.models.load import Encoder
from medweave.serving.calibration import Calibration
from medweave.serving.question import Prompts, Question
from medweave.serving.question import prompts_for as prompts_for
from medweave.serving.reading import Read, batches, image_files, reading_of


@dataclass(frozen=True)
class Answer:
    """The candidates of one image with their probabilities, most likely first; none for an unreadable one, and why."""

    image: str
    findings: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str | None = None


def classify(
    encoder: Encoder, images: Sequence[Path], prompts: Prompts, calibration: Calibration | None = None
) -> list[Answer]:
    """The probability of each candidate for each image, files and the images of folders; unreadable ones say why.

    prompts: finding -> its wordings.
    Raises RequestError for fewer than two candidates that share a softmax, and when no file is there to be read.
    """
    kind = encoder.head.kind
    if len(prompts) < (1 if kind == "sigmoid" else 2):
        raise RequestError("classification needs two findings or more", todo="name them with --finding, once each")
    found = image_files(images)
    temperature = calibration.temperature if calibration else 1.0
    classes = class_rows(encoder, prompts)
    answers = []
    for files in batches(found, reading_of(encoder.facts)):
        rows = encoder.embed_images([file.data for file in files if file.error is None])
        logits = encoder.logits(rows, classes).astype(np.float64) / temperature
        shares = iter(probabilities(logits, kind == "sigmoid"))
        answers += [_answer(f, list(prompts), next(shares)) if f.error is None else _problem(f) for f in files]
    return answers


def class_rows(encoder: Encoder, prompts: Prompts) -> NDArray[np.float32]:
    """One unit row a finding: the mean of its prompts' unit rows. Returns [findings, d] float32."""
    means = np.stack([encoder.embed_texts(texts).mean(0) for texts in prompts.values()])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def as_data(answers: Sequence[Answer], asked: Question, kind: str) -> dict[str, Any]:
    """The answers as plain data, with what the probabilities are (kind: softmax or sigmoid) and how they came about."""
    return {
        "modality": asked.place and asked.place[0],
        "anatomy": asked.place and asked.place[1],
        "kind": kind,
        "calibration": asked.calibration and asdict(asked.calibration),
        "images": [
            {"image": a.image, "findings": dict(zip(a.findings, a.probabilities, strict=True))}
            for a in answers
            if a.problem is None
        ],
        "unreadable": [{"image": a.image, "reason": a.problem} for a in answers if a.problem is not None],
    }


def as_text(answers: Sequence[Answer], asked: Question, kind: str) -> str:
    """The readable images' answers for a terminal, and what the probabilities are."""
    lines = []
    for answer in (a for a in answers if a.problem is None):
        lines.append(answer.image)
        pairs = zip(answer.findings, answer.probabilities, strict=True)
        lines += [f"  {probability:6.1%}  {name}" for name, probability in pairs]
    meaning = "each candidate by itself" if kind == "sigmoid" else "shares of the candidates"
    return "\n".join([*lines, f"{meaning} ({kind}); {asked.certainty}"])


def _answer(file: Read, names: list[str], shares: NDArray[np.float64]) -> Answer:
    order = np.argsort(-shares, kind="stable")
    return Answer(str(file.path), tuple(names[i] for i in order), tuple(float(shares[i]) for i in order))


def _problem(file: Read) -> Answer:
    return Answer(str(file.path), problem=str(file.error))
