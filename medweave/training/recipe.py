"""The one recipe of build, train and evaluate, and its `train:` section. Imports no torch.

An objective is one file in `medweave/training/objectives/`: `affinity.py` holds `AffinityRecipe` and `Affinity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from medweave.corpus.address import Address, Folder
from medweave.corpus.augment import AugmentRecipe
from medweave.corpus.recipe import CaptionShares, CorpusRecipe
from medweave.errors import RequestError
from medweave.evaluation.recipe import EvaluateRecipe, Part
from medweave.models.recipe import ModelRecipe
from medweave.recipe import Section, by_kind, load_recipe

OBJECTIVES = "medweave.training.objectives"
Beta = Annotated[float, Field(ge=0, lt=1)]
METRICS = ("macro_auroc", "balanced_accuracy")


class ObjectiveRecipe(Section):
    """What every objective has; each kind adds its own fields."""

    kind: str = Field(description="the file of medweave/training/objectives with this loss")
    weight: float = Field(1.0, gt=0, description="factor of this loss in the sum")


def _objective(value: Any) -> Any:
    kind = value.get("kind", "") if isinstance(value, dict) else ""
    return by_kind(OBJECTIVES, f"{str(kind).title()}Recipe")(value)


class MixRecipe(Section):
    """How much of each batch comes from each stratum of the training data."""

    by: Literal["source", "modality"] = Field("source", description="what a stratum is")
    alpha: float = Field(
        0.5, ge=0, le=1, description="a stratum of n samples has weight n^alpha: 1 natural mix, 0 equal shares"
    )
    weights: dict[str, float] | None = Field(
        None, description="weights by name instead of alpha, one for every stratum; 0 leaves it out"
    )
    block: int | None = Field(
        None,
        ge=1,
        description="neighbours in the corpus that are visited together; None: 64 from a URL, where they come with one "
        "read, and 1 from a folder. The same number gives the same batches from both",
    )


class CaptionsRecipe(Section):
    """What text a sample is trained with: drawn anew at each visit, the same for the same seed, step and sample."""

    sources: dict[str, CaptionShares] = Field(
        {}, description="own texts against bank captions of single sources; the others as the corpus says"
    )
    banks: list[Path] | None = Field(
        None, description="caption bank files; None: the corpus's own; [] generic sentences only"
    )
    most: int | None = Field(None, ge=1, description="only the first so many captions of a finding; None: all")


class OptimiserRecipe(Section):
    """AdamW with warm-up and cosine to zero."""

    lr: float = Field(5e-4, gt=0, description="peak learning rate of whatever has none of its own")
    image_lr: float | None = Field(None, ge=0, description="peak learning rate of the image tower; None: lr")
    text_lr: float | None = Field(None, ge=0, description="peak learning rate of the text tower; None: lr")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each block of a tower to the one below it"
    )
    weight_decay: float = Field(0.2, ge=0, description="of all but 1-D parameters, biases, norms and the logit scale")
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="AdamW's running averages")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon")
    warmup: float = Field(0.05, ge=0, description="steps of linear warm-up, or below 1 the share of all steps")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the whole gradient; None: no clipping")


class ValidateRecipe(Section):
    """Prompted classification of the validation part while training goes on."""

    every: int | None = Field(None, ge=1, description="steps between two; None: a tenth of the run, 1,000 at most")
    images: int = Field(2000, ge=1, description="most images, taken evenly from all sources")
    metric: Literal["macro_auroc", "balanced_accuracy"] = Field("macro_auroc", description="what `best` means")


class HeadRecipe(Section):
    """Projections alone: they learn on stored outputs of both towers, of unaugmented images."""

    steps: int = Field(800, ge=1, description="steps on stored rows, each image embedded once for all of them")
    batch: int = Field(256, ge=2, description="samples of such a step over all processes; all, where there are fewer")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of a tenth of warm-up and a cosine to 0")


class SoupRecipe(Section):
    """The mean of several weights of a run in place of its last or best."""

    branches: int = Field(
        1, ge=1, description="runs one after another from the same first weights, each on its share of the budget"
    )
    late: int = Field(1, ge=1, description="weights of a branch: its last so many, a validation's steps apart")
    choose: Literal["all", "greedy"] = Field(
        "all", description="all; or one after another, the best first, as long as validation does not lose"
    )
    line: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [1.0], min_length=1, description="shares of the way from the first weights; validation chooses (WiSE-FT)"
    )


class TeacherRecipe(Section):
    """One teacher that a run learns from."""

    name: str = Field(description="of its rows: a folder of CORPUS/features")
    weight: float = Field(1.0, gt=0, description="factor of its share in what a sample learns from all teachers")
    scale: float | None = Field(None, gt=0, description="of its affinities; None: its own head's")


def _teacher(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TeachersRecipe(Section):
    """Teachers' stored rows, for the objectives that learn from them."""

    rows: list[Annotated[TeacherRecipe, BeforeValidator(_teacher)]] = Field(
        min_length=1, description="names of rows that `medweave features` made, or sections with more"
    )
    folder: Folder | None = Field(None, description="folder of all rows; None: CORPUS/features")
    trust: float = Field(
        1.0, ge=0, description="power of a teacher's measured score in its share; 0: all that cover a sample alike"
    )
    drop: float = Field(0.5, ge=0, le=1, description="chance that a teacher is left out of a sample, the worst kept")
    unseen: bool = Field(False, description="trust a run of Medweave only on samples that it was not trained on")
    replay: bool = Field(
        True, description="show the views whose rows are stored, where there are any; false: augment and ignore them"
    )
    accept: list[str] = Field([], description="teachers whose licence would stop this run, and that you may use so")

    @model_validator(mode="after")
    def _names_once(self) -> TeachersRecipe:
        if len({one.name for one in self.rows}) < len(self.rows):
            raise ValueError("a teacher is named twice")
        return self


class TrainRecipe(Section):
    """One training run: data, budget, optimiser, objectives, what is kept."""

    run: Folder = Field(description="folder of the run")
    corpus: Address | None = Field(None, description="folder or URL of the corpus; None: the one the recipe builds")
    data: Part = Field(Part(), description="which samples are for training and validation")
    labels: str | None = Field(
        None, description="overlay of corrected labels, read in place of those that the corpus was built with"
    )
    modalities: list[str] | None = Field(
        None, description="the modalities that are trained on, for a specialist; None: all"
    )
    leave_out: list[str] = Field([], description="sources that are not trained on (to test on sets never seen)")
    mix: MixRecipe = Field(MixRecipe(), description="shares of sources or modalities in a batch")
    captions: CaptionsRecipe = Field(CaptionsRecipe(), description="texts of the samples")
    augment: AugmentRecipe | None = Field(AugmentRecipe(), description="random changes of images; None: none")
    objectives: list[Annotated[SerializeAsAny[ObjectiveRecipe], BeforeValidator(_objective)]] = Field(
        [{"kind": "contrastive"}],  # type: ignore[list-item]
        min_length=1,
        description="the losses, summed",
    )
    teachers: TeachersRecipe | None = Field(None, description="whose stored rows objectives learn from; None: nobody's")
    head_start: HeadRecipe | None = Field(None, description="train the projections first; None: all at once")
    head_finish: HeadRecipe | None = Field(
        None, description="train the projections of the kept weights once more, on unaugmented images; None: no"
    )
    steps: int | None = Field(None, ge=1, description="budget in optimiser steps; or give images")
    images: int | None = Field(None, ge=1, description="budget in images seen; or give steps")
    batch: int = Field(256, ge=2, description="samples of a step over all processes: all are each other's negatives")
    accumulate: int = Field(
        1, ge=1, description="micro-batches a process embeds one after the other; the loss still sees the whole batch"
    )
    optimiser: OptimiserRecipe = Field(OptimiserRecipe(), description="AdamW")
    norm: Literal["batch", "frozen"] = Field(
        "batch", description="batch norm: statistics of the batch, or kept; kept with several processes or accumulation"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the averaged weights that are validated and kept; None: no average"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it")
    compile: bool = Field(False, description="torch.compile the towers (slow first step)")
    workers: int | None = Field(
        None, ge=0, description="loader processes; 0: in the training process; None: one, and with a GPU up to eight"
    )
    validation: ValidateRecipe = Field(ValidateRecipe(), description="validation while training")
    keep: Literal["best", "last"] = Field("best", description="which weights become the model")
    soup: SoupRecipe | None = Field(None, description="keep a mean of weights instead; None: no")
    checkpoint: int | None = Field(None, ge=1, description="steps between two; None: a tenth of the run, at most 1,000")
    log: int = Field(10, ge=1, description="steps between lines of the log")

    @model_validator(mode="after")
    def _fits(self) -> TrainRecipe:
        if (self.steps is None) == (self.images is None):
            raise ValueError("give the budget as steps or as images: one of the two")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch {self.batch}")
        if not self.data.held_out and self.keep != "last":
            raise ValueError(
                "data.held_out is false, so there is nothing to choose the best weights by: set keep to last"
            )
        if self.soup is not None and self.keep != "last":
            raise ValueError("a soup is made of last weights: set keep to last")
        if self.soup is not None and self.total_steps % self.soup.branches:
            raise ValueError(f"{self.soup.branches} branches do not divide {self.total_steps} steps")
        if len({o.kind for o in self.objectives}) < len(self.objectives):
            raise ValueError("an objective is named twice")
        return self

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.steps if self.steps is not None else -(-(self.images or 0) // self.batch)

    @property
    def branch_steps(self) -> int:
        """Optimiser steps from the first weights to an end: all, but with a soup of several branches."""
        return self.total_steps // (self.soup.branches if self.soup is not None else 1)

    def every(self, interval: int | None) -> int:
        """An interval in steps; where none is given, a tenth of the run, 1,000 at most."""
        return interval or max(1, min(1000, -(-self.total_steps // 10)))


class Recipe(Section):
    """Everything of one experiment. A command reads the sections that it needs."""

    name: str = Field("medweave", description="name of the experiment, and of its model")
    seed: int = Field(0, ge=0, description="seed of training: order, captions, augmentation, initial weights")
    corpus: CorpusRecipe | None = Field(None, description="what `build` makes")
    model: ModelRecipe | None = Field(None, description="what is trained")
    train: TrainRecipe | None = Field(None, description="how it is trained")
    evaluate: EvaluateRecipe | None = Field(None, description="how it is tested")


def read(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file. Raises RequestError listing every mistake."""
    return load_recipe(path, Recipe, overrides)


def section(recipe: Recipe, name: Literal["corpus", "model", "train", "evaluate"], where: Path | str = "recipe") -> Any:
    """One section of a recipe. Raises RequestError when the recipe has none."""
    found = getattr(recipe, name)
    if found is None:
        raise RequestError(f"the recipe has no section `{name}:`", where=where)
    return found
