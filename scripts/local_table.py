"""The table of real data: every arm on every fold, one after the other, then what it all says.

    python scripts/local_table.py FOLDER [--out runs/table] [--folds 5] [--only NAME] [--images N] [--jobs 2]

FOLDER holds manifest_images.csv and manifest_text.csv, as recipes/local-corpus.yaml says; or it is a recipe whose
section `corpus` tells of other data. The arms are data: local_table.yaml beside this file, or another such file
(--table). Those of modalities or sources that the corpus lacks are left out. An arm may learn from others of the same
fold: each of these leaves its rows when it is trained. Each (arm, fold) runs in a fresh process with a log of its own
and is done once, two at a time where asked (each then has its share of the cores, which wastes less than one that has
them all); the same command after a stop goes on where it stopped. An arm whose teachers are not done with what they are
made of now fails. Arms of `evaluate: validation` never open a test part.

OUT/corpus  OUT/runs/ARM/FOLD  OUT/rows/FOLD/ARM  OUT/logs/ARM-FOLD.log  OUT/pooled/ARM
->  OUT/table.md  table.json  charts/*.svg  *.html
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from local_table_combine import combine  # beside this file, as the next
from local_table_page import write_page
from pydantic import Field

from medweave.corpus.build import build
from medweave.corpus.store import Corpus
from medweave.errors import RequestError, UserError, unknown_name
from medweave.evaluation import benchmark
from medweave.evaluation.evaluate import code_version, evaluate
from medweave.evaluation.pool import pool
from medweave.evaluation.recipe import Part
from medweave.files import hash_of, read_json, write_json
from medweave.progress import say
from medweave.recipe import Section, as_data, load_recipe, merged
from medweave.training.recipe import Recipe, read
from medweave.training.run import Run, deciding

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent / "recipes"
ZERO_SHOT = "corpus-zero-shot"


class Arm(Section):
    """One line of the table."""

    name: str = Field(description="name in the table")
    recipe: str = Field(description="a recipe of recipes/")
    overrides: list[str] = Field([], description="a.b.c=value, what is changed in it")
    train: bool = Field(True, description="false: the recipe's towers as they are before training")
    evaluate: Literal["test", "validation", "left out"] = Field("test", description="what it is scored on")
    benchmarks: list[str] | None = Field(None, description="none: the recipe's")
    folds: int | None = Field(None, ge=1, description="the first folds only; none: all that are asked for")
    model: str | None = Field(None, description="a model of this reference, as it is, instead of a training")
    teachers: list[str] = Field([], description="arms, named before, whose rows on the same fold it learns from")
    views: int = Field(0, ge=0, description="augmented views whose rows these leave, besides that of the whole picture")
    combine: Literal["best", "mean"] | None = Field(
        None, description="no model of its own: its teachers' answers, of the best by validation or the mean of all"
    )
    by: Literal["macro_auroc", "balanced_accuracy"] = Field("macro_auroc", description="figure the best is picked by")


class Comparison(Section):
    """Columns that are compared, the first with all others."""

    name: str = Field(description="name of its files")
    title: str = Field(description="heading")
    columns: list[str] = Field(min_length=2, description="ARM@FAMILY of benchmarks")


class Table(Section):
    """All arms, and what is compared with what."""

    reference: str = Field(description="arm that ablations and left-out sets are compared with")
    against_oracle: list[str] = Field(
        [], description="arms compared with the best of the teachers; none: the reference"
    )
    arms: list[Arm]
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Job:
    """One arm on one fold. teachers: the jobs that it learns from. views: of rows for others; None: nobody learns."""

    arm: Arm
    fold: int
    out: Path
    common: tuple[str, ...]
    teachers: tuple[Job, ...] = ()
    views: int | None = None

    @property
    def name(self) -> str:
        """For logs."""
        return f"{self.arm.name}-{self.fold}"

    @property
    def learns(self) -> bool:
        """Whether it is a student."""
        return bool(self.teachers) and self.arm.combine is None

    @property
    def folder(self) -> Path:
        """The run, with its evaluations."""
        return self.out / "runs" / self.arm.name / str(self.fold)

    @property
    def rows(self) -> Path:
        """The folder of all teachers' rows on this fold."""
        return self.out / "rows" / str(self.fold)

    @property
    def results(self) -> Path:
        """The folder of test results."""
        return self.folder / "evaluations"

    @property
    def recipe(self) -> Recipe:
        """The arm's recipe on this fold."""
        here = [f"train.run={self.folder}", f"train.data.fold={self.fold}", f"evaluate.data.fold={self.fold}"]
        if self.learns:
            here.append(f"train.teachers.rows={json.dumps([job.arm.name for job in self.teachers])}")
            here.append(f"train.teachers.folder={json.dumps(str(self.rows))}")
        return read(RECIPES / f"{self.arm.recipe}.yaml", [*self.common, *self.arm.overrides, *here])

    def inputs(self, corpus: Corpus) -> dict[str, str]:
        """All that its figures depend on, but for the code of its training: a finished run stays as it is."""
        recipe = as_data(self.recipe)
        learnt = deciding(recipe)
        learnt.pop("train.teachers.folder", None)  # they count by what they are made of
        arm = {name: value for name, value in as_data(self.arm).items() if name not in ("folds", "views")}
        others = {"teachers": hash_of([job.inputs(corpus) for job in self.teachers])} if self.teachers else {}
        rows = {"views": str(self.views)} if self.views is not None else {}
        asked = hash_of([learnt, recipe["evaluate"], arm])
        return {"recipe": asked, "corpus": corpus.hash, "code": code_version()} | others | rows

    def done(self, corpus: Corpus) -> bool:
        """Whether it was done with the same inputs."""
        note = self.folder / "done.json"
        return note.exists() and read_json(note) == self.inputs(corpus)

    @property
    def minutes(self) -> float | None:
        """Minutes of training; None when it was interrupted, or there was none."""
        note = self.folder / "minutes.json"
        return read_json(note) if note.exists() else None


def main(
    data: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="folder with both manifests, or a recipe with a `corpus:` of your own"),
    ],
    arms: Annotated[Path, typer.Option("--table", help="YAML file of arms")] = HERE / "local_table.yaml",
    out: Annotated[Path, typer.Option(help="folder for corpus, runs and the table")] = Path("runs/table"),
    folds: Annotated[int, typer.Option(min=1, help="how many of the folds are run")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="run this arm only; may be repeated")] = None,
    images: Annotated[
        int | None, typer.Option(help="images seen in training instead of the recipes' (a trial)")
    ] = None,
    at_once: Annotated[int, typer.Option("--jobs", min=1, help="runs at a time, each on its share of the cores")] = 1,
) -> None:
    """Run what is not done yet, then write the table of all that is."""
    table = load_recipe(arms, Table)
    names = [arm.name for arm in table.arms]
    for name in only or ():
        if name not in names:
            raise unknown_name("arm", name, names)
    common = _common(data, out, images)
    corpus = build(read(RECIPES / f"{table.arms[0].recipe}.yaml", common).corpus)
    table = fitting(table, corpus)
    names = [arm.name for arm in table.arms]
    jobs = jobs_of(table, folds, out, common)
    failed = run_all([job for job in jobs if job.arm.name in (only or names)], corpus, at_once)
    lacking = {job.arm.name for job in jobs if not job.done(corpus)}
    whole = [job for job in jobs if job.arm.name not in lacking]
    table_file = f"scripts/{arms.name}" if arms.resolve().parent == HERE else arms
    command = f"python scripts/local_table.py FOLDER --table {table_file} --folds {folds}"
    unfinished = [name for name in names if name in lacking]
    print(write_page(table, whole, unfinished, corpus, pooled(whole), out, command))
    if failed:
        raise typer.Exit(1)


def fitting(table: Table, corpus: Corpus) -> Table:
    """The table without arms of modalities, and of sources to leave out, that the corpus lacks; none learns of them.

    Raises RequestError where the arm that others are compared with is one of them.
    """
    sources = {stratum.source for stratum in corpus.strata}
    modalities = {stratum.modality for stratum in corpus.strata}
    arms: list[Arm] = []
    for arm in table.arms:
        train = merged(RECIPES / f"{arm.recipe}.yaml", arm.overrides)[0]["train"]
        asked = train.get("modalities", [])
        there = [modality for modality in asked if modality in modalities]
        if bool(there) != bool(asked) or not sources >= set(train.get("leave_out", [])):
            continue
        own = [*arm.overrides, f"train.modalities={json.dumps(there)}"] if there != asked else arm.overrides
        arms.append(arm.model_copy(update={"overrides": own}))
    names = {arm.name for arm in arms}
    if table.reference not in names:
        raise RequestError("the corpus has no images for it", where=f"arm {table.reference}")
    if lacking := [arm.name for arm in table.arms if arm.name not in names]:
        say(f"left out, as the corpus lacks their modalities or sources: {', '.join(lacking)}")
    learning = [arm.model_copy(update={"teachers": [name for name in arm.teachers if name in names]}) for arm in arms]
    return table.model_copy(update={"arms": learning})


def jobs_of(table: Table, folds: int, out: Path, common: tuple[str, ...]) -> list[Job]:
    """Every arm on every fold. Raises RequestError for a teacher that is no arm before those who learn from it."""
    asked: dict[tuple[str, int], int] = {}
    for arm in table.arms:
        for name in arm.teachers if arm.combine is None else ():
            for fold in _folds(arm, folds):
                asked[name, fold] = max(arm.views, asked.get((name, fold), 0))
    made = dict[tuple[str, int], Job]()
    for arm in table.arms:
        for fold in _folds(arm, folds):
            for name in arm.teachers:
                if (name, fold) not in made:
                    raise unknown_name("arm before it", name, {n for n, _ in made}, where=f"teachers of {arm.name}")
            teachers = tuple(made[name, fold] for name in arm.teachers)
            made[arm.name, fold] = Job(arm, fold, out, common, teachers, asked.get((arm.name, fold)))
    return list(made.values())


def run_all(jobs: list[Job], corpus: Corpus, at_once: int = 1) -> list[Job]:
    """Run the jobs that are not done, each in a fresh process. Returns those that failed; the others go on."""
    todo = [job for job in jobs if not job.done(corpus)]
    say(f"{len(jobs)} runs, {len(jobs) - len(todo)} done already")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))  # for the children's torch
    began, ended = time.monotonic(), count(1)
    doing: dict[str, Future[bool]] = {}

    def run(job: Job) -> bool:
        for teacher in job.teachers:
            if teacher.name in doing:
                doing[teacher.name].result()
        log, started = job.out / "logs" / f"{job.name}.log", time.monotonic()
        missing = missing_teachers(job, corpus)
        problem = missing or (None if in_fresh_process(job, log) else last_line(log))
        now, number = time.monotonic(), next(ended)
        left = (now - began) / number * (len(todo) - number)
        end = (f" failed: {problem}" if problem else "") + ("" if missing else f" {log}")
        say(f"[{number}/{len(todo)}] {job.name}: {(now - started) / 60:.1f} min, about {left / 60:.0f} left;{end}")
        return not problem

    with ThreadPoolExecutor(at_once) as pool:
        for job in todo:
            doing[job.name] = pool.submit(run, job)
        return [job for job in todo if not doing[job.name].result()]


def missing_teachers(job: Job, corpus: Corpus) -> str | None:
    """Why a job cannot run: teachers of it are not done with what they are made of now; None where all are."""
    names = [teacher.name for teacher in job.teachers if not teacher.done(corpus)]
    return f"of its teachers {' and '.join(names)} must be done first, as the table has them now" if names else None


def last_line(log: Path) -> str:
    """What a job that failed said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "killed"


def in_fresh_process(job: Job, log: Path) -> bool:
    """Do a job in a process of its own, its output in `log`. False when it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_logged, args=(job, log))
    process.start()
    process.join()
    return process.exitcode == 0


def _logged(job: Job, log: Path) -> None:
    """The child's whole life: it ends with its parent, so that the next start finds no second writer."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        do(job)
    except UserError as error:
        say(f"{error}")
        sys.exit(error.status)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do(job: Job) -> None:
    """Train and evaluate one arm on one fold, and note what went in."""
    from medweave.corpus.store import open_corpus
    from medweave.models import dual
    from medweave.models.encoder import Encoder
    from medweave.models.load import load

    recipe, corpus = job.recipe, open_corpus(job.recipe.corpus.path)
    if job.arm.combine is not None:
        combine(job)
        write_json(job.folder / "done.json", job.inputs(corpus))
        return
    if job.arm.model is not None:
        encoder = load(job.arm.model)
    elif job.arm.train:
        _train(job)
        encoder = load(job.folder)
    else:
        encoder = Encoder(dual.build(recipe.model, recipe.seed), "")
    encoder.name = job.name
    if job.views is not None:
        _leave_rows(job, encoder, corpus)
    if job.arm.evaluate == "test":
        evaluate(encoder, job.arm.benchmarks, corpus, job.results, recipe.evaluate)
    elif job.arm.evaluate == "left out":
        _evaluate_left_out(encoder, recipe, corpus, job.results)
    write_json(job.folder / "done.json", job.inputs(corpus))


def _leave_rows(job: Job, encoder: Any, corpus: Corpus) -> None:
    """Store the rows of a teacher for those who learn from it, as the pictures of their recipes are seen."""
    from medweave.features.extract import extract
    from medweave.features.views import Views

    policy = job.recipe.model.image.resize
    views = Views(count=job.views, policy=policy) if job.views else None
    extract(corpus, encoder, job.arm.name, views=views, workers=1, root=job.rows, replace=True)


def _train(job: Job) -> None:
    """Train, or go on; how long it took is noted when it was done in one go."""
    from medweave.training.loop import train

    began, new = time.monotonic(), not Run(job.folder).facts
    train(job.recipe)
    if new:
        write_json(job.folder / "minutes.json", (time.monotonic() - began) / 60)


def _evaluate_left_out(encoder: Any, recipe: Recipe, corpus: Corpus, out: Path) -> None:
    """All images of the sets that were not trained on: fold by fold, for nothing of them was seen in any."""
    given = benchmark.load(ZERO_SHOT)
    data = [given.data.model_copy(update={"source": source}) for source in recipe.train.leave_out]
    benchmarks = [given.model_copy(update={"data": one}) for one in data]
    for fold in range(recipe.corpus.folds.count):
        part = Part(overlay=recipe.evaluate.data.overlay, fold=fold)
        asked = recipe.evaluate.model_copy(update={"data": part})
        evaluate(encoder, benchmarks, corpus, out / str(fold), asked)


def pooled(jobs: list[Job]) -> dict[str, Path]:
    """The folders of pooled results of all arms with test results: every image once."""
    found = {}
    for arm in {job.arm.name: job.arm for job in jobs if job.arm.evaluate != "validation"}.values():
        folders = [job.results for job in jobs if job.arm.name == arm.name]
        if arm.evaluate == "left out":
            folders = sorted(path.parent for path in folders[0].glob("*/results.json"))
        if len(folders) > 1:
            settings = jobs[0].recipe.evaluate
            pool(folders, jobs[0].out / "pooled" / arm.name, arm.name, settings.draws, settings.seed)
        found[arm.name] = jobs[0].out / "pooled" / arm.name if len(folders) > 1 else folders[0]
    return found


def _common(data: Path, out: Path, images: int | None) -> tuple[str, ...]:
    """Overrides of every recipe: where the data are, and how long to train."""
    budget = [] if images is None else [f"train.images={images}"]
    return (*_corpus(data), f"corpus.path={json.dumps(str(out / 'corpus'))}", *budget)


def _corpus(data: Path) -> list[str]:
    """Overrides that lead every recipe to a folder with both manifests, or to the corpus of another recipe."""
    if data.is_file():
        corpus = merged(data)[0].get("corpus")
        if not isinstance(corpus, dict):
            raise RequestError("the recipe has no section `corpus:`", where=data)
        return [f"corpus={json.dumps({'folds': {'count': 5}} | corpus)}"]
    if not data.is_dir():
        raise RequestError("no such folder or recipe", where=data)
    return [f"corpus.sources.0.path={json.dumps(str(data))}"]


def _folds(arm: Arm, folds: int) -> range:
    """A left-out set needs one model, any other arm one a fold, or as many as it says."""
    return range(1 if arm.evaluate == "left out" else min(folds, arm.folds or folds))


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        say(f"local_table: {error}")
        sys.exit(error.status)
