"""Findings of single images by prompts: which of the candidate findings does an image look most like?

Probabilities are over the candidates that were asked about, at the model's own temperature (or the one that an
evaluation fitted on validation data). They are no diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medweave.corpus.captions.bank import Bank
from medweave.corpus.images import decode, prepare
from medweave.corpus.limits import BadImage
from medweave.corpus.recipe import ImageRecipe, LimitsRecipe
from medweave.errors import RequestError, nearest
from medweave.models.load import Encoder


@dataclass(frozen=True)
class Answer:
    """The candidates of one image with their probabilities, most likely first."""

    image: str
    findings: tuple[str, ...]
    probabilities: tuple[float, ...]


def classify(encoder: Encoder, images: Sequence[Path], prompts: dict[str, list[str]]) -> list[Answer]:
    """For each image the probability of each candidate; prompts: finding -> its wordings, two findings or more."""
    if len(prompts) < 2:
        raise RequestError("classification needs two findings or more", todo="name them with --finding, once each")
    names = list(prompts)
    logits = encoder.logits(encoder.embed_images([read(path) for path in images]), class_rows(encoder, prompts))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return [_answer(path, names, row) for path, row in zip(images, shares, strict=True)]


def class_rows(encoder: Encoder, prompts: dict[str, list[str]]) -> np.ndarray:
    """One unit row a finding: the mean of its prompts' unit rows. Returns [findings, d] float32."""
    means = np.stack([encoder.embed_texts(texts).mean(0) for texts in prompts.values()])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def prompts_for(bank: Bank, modality: str, anatomy: str | None, findings: Sequence[str] = ()) -> dict[str, list[str]]:
    """The bank's prompts for the named findings, or for all that it knows of this modality and anatomy."""
    known = bank.findings(modality, anatomy)
    wanted = list(findings) or known
    if not wanted:
        places = [f"{m}/{a}" if a else m for m, a in bank.places()]
        raise RequestError(f"no finding is known for {modality}/{anatomy}", todo=f"known: {', '.join(places)}")
    return {name: bank.all_prompts(modality, anatomy, name) for name in wanted}


def read(path: Path) -> np.ndarray:
    """The pixels of an image file of any supported format (DICOM too): uint8 [h, w, 3]."""
    try:
        return decode(prepare(path.read_bytes(), LimitsRecipe(), ImageRecipe(format="png")).data)
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else []
        raise RequestError("no such image", where=path, todo=f"nearest: {', '.join(near)}" if near else None) from None
    except BadImage as error:
        raise RequestError(str(error.reason), where=path, todo=error.remedy) from None


def _answer(path: Path, names: list[str], probabilities: np.ndarray) -> Answer:
    order = np.argsort(-probabilities, kind="stable")
    return Answer(str(path), tuple(names[i] for i in order), tuple(float(probabilities[i]) for i in order))
