"""What an evaluation is asked to do, as recipe sections. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from medweave.corpus.address import Address, Folder
from medweave.recipe import Section


class TaskRecipe(Section):
    """How a task is run; each file of `tasks/` extends it with its `kind`, its title and its own options."""

    title: ClassVar[str] = ""  # in tables and charts

    kind: str = Field(description="name of the file in evaluation/tasks")


class Part(Section):
    """Which samples of a corpus are for training, validation and test: by split, or by one fold of an overlay."""

    overlay: str | None = Field(
        None, description="overlay with the columns id, fold, inner; none = the corpus's splits"
    )
    fold: int | None = Field(None, ge=0, description="fold to test on; `inner` 0 of the other folds is for validation")
    aside: list[Annotated[int, Field(ge=1)]] = Field(
        [],
        description="`inner` parts that are not trained on either: whose rows a teacher has not learnt by heart",
    )
    held_out: bool = Field(
        True, description="false: the validation part is trained on too, and nothing is left to make choices on"
    )
    train: str = Field("train", description="split to train on, without an overlay")
    validation: str = Field("validation", description="split to make choices on, without an overlay")
    test: str = Field("test", description="split that is opened once, without an overlay")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Part:
        if (self.overlay is None) != (self.fold is None):
            raise ValueError("overlay and fold go together: give both or neither")
        if self.aside and self.overlay is None:
            raise ValueError("aside names inner parts of an overlay: give overlay and fold")
        return self


class EvaluateRecipe(Section):
    """The evaluation of one model on a list of benchmarks."""

    benchmarks: list[str] = Field(
        ["corpus-zero-shot", "corpus-probe"], description="shipped ones by name, others by path"
    )
    corpus: Address | None = Field(
        None, description="folder or URL of the corpus that benchmarks call `given`; none = the one the recipe builds"
    )
    data: Part | None = Field(
        None, description="overrides the benchmarks' choice of split; none = as each benchmark says"
    )
    labels: str | None = Field(
        None, description="overlay of corrected labels, read in place of those that the corpus was built with"
    )
    out: Folder | None = Field(None, description="folder for results and predictions; none = evaluations/ of the run")
    cache: Folder | None = Field(None, description="folder of embeddings already computed; none = cache/ in the corpus")
    banks: list[Path] | None = Field(
        None, description="caption banks with the prompts; none = the corpus's, then shipped ones"
    )
    confounded: list[str] = Field([], description="sources with a known shortcut: marked, left out of a second average")
    draws: int = Field(1000, ge=100, description="bootstrap draws behind every interval")
    seed: int = Field(0, description="seed of bootstrap, inner folds and few-shot draws")
    batch: int = Field(64, ge=1, description="images embedded at a time")
