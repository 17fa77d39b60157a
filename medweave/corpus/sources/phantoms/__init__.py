"""Simulated imaging with known truth: quick, seeded, and the same uint8 pixels on any machine.

One file a modality, each with ANATOMY, FINDINGS (the first is the normal) and `draw`. What a patient is (anatomy, the
place and extent of the lesion) comes from one generator, what an image is (pose, exposure, noise) from another, so that
the images of a patient share a body. Brightness, contrast and colour vary from image to image and say nothing about the
finding: it must be seen by shape and texture.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from medweave.corpus.recipe import SourceRecipe as BaseRecipe
from medweave.corpus.sample import Sample, State
from medweave.corpus.sources.phantoms.fields import Phantom
from medweave.errors import UserError, nearest
from medweave.seeds import generator

MODALITIES = ("xray", "ct", "mri", "ultrasound", "pathology", "fundus", "dermoscopy", "endoscopy")
LICENCE = "CC0 1.0"


class SourceRecipe(BaseRecipe):
    """Which phantoms to draw. Each modality is a source of its own: `phantom_xray`, `phantom_ct` and so on."""

    kind: Literal["phantoms"] = "phantoms"
    modalities: list[str] = Field(list(MODALITIES), min_length=1, description="which modalities to draw")
    patients: int = Field(30, ge=1, description="patients with each finding of each modality")
    images: int = Field(2, ge=1, description="images a patient")
    size: int = Field(160, ge=64, le=512, description="width and height in pixels")
    seed: int = Field(0, ge=0, description="seed of every patient and image")

    @field_validator("modalities")
    @classmethod
    def _known_modalities(cls, modalities: list[str]) -> list[str]:
        for name in modalities:
            if name not in MODALITIES:
                raise ValueError(f"no phantom of {name!r}; nearest: {', '.join(nearest(name, MODALITIES)) or 'none'}")
        return list(dict.fromkeys(modalities))


class Place(NamedTuple):
    """All that is needed to draw one phantom again; its text is the sample's `place`."""

    modality: str
    finding: str
    size: int
    seed: int
    patient: int
    image: int

    def __str__(self) -> str:
        return "|".join(str(part) for part in self)

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that `text` names. Raises UserError when it names none."""
        parts = text.split("|")
        if len(parts) != 6 or parts[0] not in MODALITIES or not all(part.isdecimal() for part in parts[2:]):
            raise UserError("not the place of a phantom", where=text)
        size, seed, patient, image = map(int, parts[2:])
        return cls(parts[0], parts[1], size, seed, patient, image)


class Source:
    """The phantoms of a recipe. Patients of all findings share one numbering, so that the number tells nothing."""

    def __init__(self, recipe: SourceRecipe) -> None:
        self.recipe = recipe

    def samples(self) -> Iterator[Sample]:
        """Every sample of the recipe, modality by modality, patient by patient."""
        for modality in self.recipe.modalities:
            findings = findings_of(modality)
            for patient in range(self.recipe.patients * len(findings)):
                for image in range(self.recipe.images):
                    yield self._sample(modality, findings, patient, image)

    def image(self, place: str) -> np.ndarray:
        """Pixels, uint8 [h, w] or [h, w, 3]. Raises UserError when `place` names no phantom."""
        return draw(Place.parse(place)).image

    def mask(self, place: str) -> np.ndarray:
        """Where the lesion is, bool [h, w]; all False where there is none. Raises UserError as `image` does."""
        return draw(Place.parse(place)).mask

    def _sample(self, modality: str, findings: tuple[str, ...], patient: int, image: int) -> Sample:
        block, turn = divmod(patient, len(findings))
        order = generator(self.recipe.seed, "phantom findings", modality, block).permutation(len(findings))
        finding = findings[order[turn]]
        source = f"{self.recipe.name or 'phantom'}_{modality}"
        return Sample(
            id=f"{source}/p{patient:04d}-{image}",
            source=source,
            place=str(Place(modality, finding, self.recipe.size, self.recipe.seed, patient, image)),
            modality=modality,
            anatomy=_module(modality).ANATOMY,
            findings={name: State.PRESENT if name == finding else State.ABSENT for name in findings},
            patient=f"p{patient:04d}",
            study=f"p{patient:04d}",
            licence=LICENCE,
            licence_class="open",
        )


def findings_of(modality: str) -> tuple[str, ...]:
    """The findings that phantoms of `modality` have; the first is the normal."""
    findings: tuple[str, ...] = _module(modality).FINDINGS
    return findings


def draw(place: Place) -> Phantom:
    """One phantom: pixels and where the lesion is. Raises UserError when the modality has no such finding."""
    module = _module(place.modality)
    if place.finding not in module.FINDINGS:
        options = ", ".join(module.FINDINGS)
        raise UserError(f"no {place.modality} phantom with {place.finding!r}", todo=f"choose one of {options}")
    patient = generator(place.seed, "phantom patient", place.modality, place.patient)
    image = generator(place.seed, "phantom image", place.modality, place.patient, place.image)
    drawing: Callable[..., Phantom] = module.draw
    return drawing(patient, image, place.finding, place.size)


def _module(modality: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{modality}")
