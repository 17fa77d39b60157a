"""Augmented views that several models see alike: a picture of the same crop, turn and tone at any side of the square.

Dataset reinforcement (MobileCLIP, arXiv 2311.17049): a teacher's rows of some views are stored, and the student is
shown the same views. Nothing is stored for a view: (seed, view, sample) names the generator of all its draws. What is
drawn in pixels would differ from one side of the square to another, so noise, margins and patches are not for views.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, field_validator

from medweave.corpus.augment import AugmentRecipe, augment
from medweave.corpus.resize import Policy
from medweave.errors import UserError
from medweave.recipe import Section
from medweave.seeds import generator

IN_PIXELS = ("noise", "border", "erase")  # draws of `augment` whose count or meaning depends on the side of the square
SIDE, MODALITY, TRIALS = 16, "pathology", 4
LIKENESS = 4  # greys that rounding may move a pixel between two machines


class Views(Section):
    """Which views are stored. The student must be shown them with the same values."""

    count: int = Field(ge=1, description="views an image, besides the whole picture")
    seed: int = Field(0, ge=0, description="seed of all draws")
    policy: Policy = Field("pad", description="how a picture that is no square becomes one, for teachers and student")
    augment: AugmentRecipe = Field(
        AugmentRecipe(noise=0, border=0, erase=0), description="random changes; none that are made in pixels"
    )

    @field_validator("augment")
    @classmethod
    def _alike_at_every_side(cls, recipe: AugmentRecipe) -> AugmentRecipe:
        wrong = [name for name in IN_PIXELS if getattr(recipe, name)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be 0: such a view differs from one image size to another")
        return recipe

    def picture(self, array: np.ndarray, size: int, modality: str, number: int, view: int) -> np.ndarray:
        """View 1, 2, … of sample `number`: uint8 [h, w] or [h, w, 3] -> uint8 [size, size, 3]."""
        draw = generator(self.seed, "view", view, number)
        return augment(array, size, self.augment, draw, modality, self.policy)

    def specimen(self) -> str:
        """The views of a known picture, small: hex digits of uint8 [TRIALS, SIDE, SIDE]."""
        ramp = np.add.outer(np.arange(48) * 2, np.arange(64) * 2).astype(np.uint8)
        return b"".join(self.picture(ramp, SIDE, MODALITY, n, 1)[..., 0].tobytes() for n in range(TRIALS)).hex()

    def check(self, specimen: str, where: Any) -> None:
        """Raises UserError when the augmentation draws something else now than when `specimen` was made."""
        if not is_alike(specimen, self.specimen()):
            raise UserError(
                "augmentation has changed since these views were made",
                where=where,
                todo="extract them again: `medweave features … --replace`",
            )


def is_alike(one: str, other: str) -> bool:
    """Whether two specimens show the same views, but for rounding."""
    then, now = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(int) for text in (one, other))
    return then.shape == now.shape and bool(np.abs(then - now).max() <= LIKENESS)
