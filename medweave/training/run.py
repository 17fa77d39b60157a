"""The folder that training leaves. Reading it needs no torch.

recipe.yaml      everything of the run, defaults written out         log.jsonl     one line a log interval or validation
run.json         hashes of what went in, and whether it is finished  counts.json   what was read, from where
checkpoints/     the state to go on from                             tensorboard/
model/           the model, an open_clip folder                      evaluations/  results of `medweave evaluate`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from medweave.errors import RequestError
from medweave.files import read_json, write_bytes, write_json
from medweave.recipe import as_data, load_recipe
from medweave.training.recipe import Recipe

# What changes no weight, or counts by what it comes to.
NO_MATTER = ("train.run", "train.workers", "train.log", "train.checkpoint", "train.corpus", "train.mix.block")
TEXTS, TEACHERS = "texts.safetensors", "teachers"  # made of recipe and corpus before the first step


class Run:
    """A training run by its folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder of states to go on from."""
        return self.path / "checkpoints"

    @property
    def facts(self) -> dict[str, Any]:
        """run.json; empty before the run began."""
        file = self.path / "run.json"
        return read_json(file) if file.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether the model is there and nothing is left to do."""
        return bool(self.facts.get("finished"))

    @property
    def under_way(self) -> bool:
        """Whether the folder holds what a step has made: the model, a state to go on from, or a line of the log."""
        return self.finished or any(self.checkpoints.glob("*")) or any(self.log())

    @property
    def counts(self) -> dict[str, Any]:
        """counts.json: what was read."""
        counts: dict[str, Any] = read_json(self.path / "counts.json")
        return counts

    def log(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """The lines of log.jsonl, of one kind (train, validation, counts) or all."""
        file = self.path / "log.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        for line in text.split("\n")[:-1]:  # what follows the last line break is a line cut short by a kill
            entry = json.loads(line)
            if kind is None or entry["kind"] == kind:
                yield entry

    def check_folder(self) -> None:
        """Raises RequestError where the path is a file, or a folder of other files than a run's."""
        if self.path.exists() and not self.path.is_dir():
            raise RequestError("train.run is a file", where=self.path, todo="name a new or an empty folder")
        others = self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir())
        if others and not self.facts:
            raise RequestError("the folder holds other files", where=self.path, todo="set train.run to a new folder")

    def begin(self, recipe: Recipe, inputs: dict[str, str]) -> None:
        """Write run.json and recipe.yaml; of a run that is under way, check that it is the same.

        A run that failed before its first step gives way to another recipe.
        inputs: hashes of what else decides the weights. Raises RequestError naming what differs.
        """
        asked = {"recipe": deciding(as_data(recipe)), "inputs": inputs}
        if self.under_way:
            self._check_same(asked)
            return
        if self.facts.get("asked") != asked:
            self._drop_derived()
        write_json(self.path / "run.json", {"asked": asked, "finished": False})
        text = yaml.safe_dump(as_data(recipe), sort_keys=False, allow_unicode=True, width=120)
        write_bytes(self.path / "recipe.yaml", text.encode())

    def _check_same(self, asked: dict[str, Any]) -> None:
        """Raises RequestError naming what differs between this run and what is asked.

        What an older version wrote is the same where the options that it did not know are at their defaults.
        """
        known = self.facts["asked"]
        with_new_options = deciding(as_data(load_recipe(self.path / "recipe.yaml", Recipe)))
        differing = sorted(_differences(with_new_options | known["recipe"], asked["recipe"]))
        differing += sorted(_differences(known["inputs"], asked["inputs"]))
        if differing:
            raise RequestError(
                f"this folder holds a run with another {', '.join(differing)}",
                where=self.path,
                todo="choose another train.run, or put the recipe back",
            )

    def _drop_derived(self) -> None:
        """Remove what an attempt with another recipe has left."""
        (self.path / TEXTS).unlink(missing_ok=True)
        shutil.rmtree(self.path / TEACHERS, ignore_errors=True)

    def finish(self, facts: dict[str, Any]) -> None:
        """State that nothing is left to do."""
        write_json(self.path / "run.json", {**self.facts, **facts, "finished": True})


def deciding(tree: dict[str, Any]) -> dict[str, Any]:
    """The part of a recipe that decides the weights, as dotted path -> value. The corpus counts by its hash."""
    flat = {path: value for name in ("seed", "model", "train") for path, value in _flat(tree[name], name)}
    return {path: value for path, value in flat.items() if path not in NO_MATTER}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}")
    else:
        yield path, value


def _differences(known: dict[str, Any], asked: dict[str, Any]) -> set[str]:
    return {path for path in known.keys() | asked.keys() if known.get(path) != asked.get(path)}
