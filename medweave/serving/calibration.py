"""The temperature that an evaluation fitted on validation data and wrote into the model folder."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medweave.models.load import Encoder


@dataclass(frozen=True)
class Calibration:
    """temperature: what logits are divided by. sources, images: what it was fitted on."""

    temperature: float
    sources: tuple[str, ...]
    images: int


def calibration_of(encoder: Encoder, modality: str, anatomy: str | None) -> Calibration | None:
    """The calibration of a modality and anatomy, the median of several sources'; None where there is none.

    One that was fitted with other weights than the model's does not count.
    """
    stored = encoder.facts.get("calibration") or {}
    cases = [case for case in stored.get("cases", ()) if (case["modality"], case["anatomy"]) == (modality, anatomy)]
    if not cases or stored["weights"] != encoder.weights_hash:
        return None
    images = sum(case["images"] for case in cases)
    return Calibration(median(case["temperature"] for case in cases), tuple(case["source"] for case in cases), images)
