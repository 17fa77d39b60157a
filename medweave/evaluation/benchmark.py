"""Benchmarks: YAML that says which images are tested, for which classes, with which prompts, by which task."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from medweave.corpus.captions.bank import PROMPT_KINDS
from medweave.errors import unknown_name
from medweave.evaluation.recipe import Part, TaskRecipe
from medweave.recipe import Section, by_kind, load_recipe

_task = by_kind("medweave.evaluation.tasks", "Recipe")


class Data(Part):
    """Where a benchmark's images are: a corpus and a part of it."""

    corpus: str = Field(
        "given", description="`given` = the one that the caller names; otherwise folder or URL of a corpus"
    )
    source: str | None = Field(None, description="one source of the corpus; none = all")


class ClassRecipe(Section):
    """One class of a benchmark with its own prompts."""

    finding: str = Field(description="canonical name of the finding")
    prompts: dict[str, list[str]] | None = Field(None, description="prompt set -> prompts; none = from the banks")


class Expected(Section):
    """What the data must be, so that figures stay comparable."""

    images: int | None = Field(None, description="test images")
    classes: dict[str, int] = Field({}, description="test images of each class")
    data: str | None = Field(None, description="hash of the test images, as results give it under inputs.data")


class Benchmark(Section):
    """One benchmark, or with `each` a family of them: one for every source or modality of the corpus."""

    name: str = Field(description="name in results; with `each`, the first part of it")
    about: str = Field("", description="what it is, in a sentence")
    title: str | None = Field(None, description="what its scores are called in tables and charts; none = as the task's")
    task: Annotated[SerializeAsAny[TaskRecipe], BeforeValidator(lambda value: _task(_named(value)))] = Field(
        description="zero_shot, probe, or a mapping with `kind` and the task's own options"
    )
    data: Data = Field(Data(), description="where the images are")
    each: Literal["source", "modality"] | None = Field(None, description="one benchmark for every source, or modality")
    classes: Literal["labels"] | list[ClassRecipe] = Field(
        "labels", description="`labels` = findings that occur in the data"
    )
    prompt_sets: list[str] = Field(
        list(PROMPT_KINDS), min_length=1, description="sets of prompts, scored one by one and together"
    )
    positive: str | None = Field(None, description="of two classes, the one whose detection is asked for")
    confounded: list[str] = Field([], description="sources with a known shortcut")
    expected: Expected = Field(Expected(), description="counts and hash of the test part")
    licence: str | None = Field(None, description="of the data, as its owner states it")
    how_to_get: str | None = Field(None, description="where the data come from")
    published: dict[str, Any] = Field({}, description="figures of others: model -> metric -> value, with their source")

    @model_validator(mode="after")
    def _positive_is_a_class(self) -> Benchmark:
        if self.positive is not None and self.classes != "labels":
            names = [c.finding for c in self.classes if isinstance(c, ClassRecipe)]
            if self.positive not in names:
                raise ValueError(f"positive: {self.positive!r} is none of the classes {', '.join(names)}")
        return self


def load(reference: str) -> Benchmark:
    """A shipped benchmark by its name, or any by the path of its YAML. Raises RequestError with every mistake."""
    path = Path(reference)
    if path.suffix in (".yaml", ".yml"):
        return load_recipe(path, Benchmark)
    if reference not in shipped():
        raise unknown_name("benchmark", reference, shipped())
    return load_recipe(shipped()[reference], Benchmark)


def shipped() -> dict[str, Path]:
    """The benchmarks that come with Medweave: name -> file."""
    folder = Path(str(importlib.resources.files("medweave.evaluation"))) / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def listing() -> str:
    """The shipped benchmarks for a terminal: name, task and what it is, one line each."""
    return "\n".join(f"{one.name:24s} {one.task.kind:12s} {one.about}" for one in map(load, shipped()))


def _named(task: Any) -> Any:
    return {"kind": task} if isinstance(task, str) else task
