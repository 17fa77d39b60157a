"""Sources -> corpus: plan, then shards in parallel, then the index.

A shard is a pure function of its slice of the plan, and is either whole with a record beside it in `.build/`, or not
there. A build that was killed therefore goes on where it stopped, and any number of workers gives the same bytes. On a
corpus that is there already, new images get new shards; what is there never changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medweave.cores import cores
from medweave.corpus import assemble, columns, own, records
from medweave.corpus.engines import run
from medweave.corpus.listing import SCHEMA, open_source
from medweave.corpus.make_shard import Cost, Task, cost_of, make_shard
from medweave.corpus.plan import Plan, listed, make_plan
from medweave.corpus.plan_text import dry_run_text, warnings_of
from medweave.corpus.recipe import SIDES, CorpusRecipe
from medweave.corpus.salt import with_salts
from medweave.corpus.sample import MODALITIES
from medweave.corpus.shards import stem_of
from medweave.corpus.store import Corpus, open_corpus
from medweave.errors import RequestError, UserError
from medweave.files import only_writer
from medweave.progress import say, track
from medweave.seeds import generator

OURS = {"corpus.json", records.FOLDER}  # one of these is in every folder that a build has begun
BEFORE = {".lock", "fingerprints"}  # what a dry run, or a build that was stopped at once, leaves
SAMPLED = 16  # images of a source that a dry run prepares
GROWS = ("sources", "accept", "folds")  # parts of a recipe that may gain entries when a corpus is added to
FREE = ("banks", "findings")  # parts that may change: captions as they like, findings as `own.check_names` allows

Engine = Literal["local", "ray"]


def build(recipe: CorpusRecipe, engine: Engine | None = None) -> Corpus:
    """Build a corpus, go on with one, or add new images to one.

    Raises RequestError for a recipe that would change what is there already and for wrong banks and findings, UserError
    for a full disk, for a second build into the same folder, and when no image at all can be read.
    """
    _check_folder(recipe.path)
    own.check_own(recipe)
    with only_writer(recipe.path):
        (recipe.path / records.FOLDER).mkdir(exist_ok=True)
        corpus = _existing(recipe)
        recipe = with_salts(recipe, corpus.facts if corpus else None)
        if corpus:
            _restore(corpus, recipe, engine)
        made = plan_of(recipe, corpus)
        for line in warnings_of(made):
            say(line)
        own.keep(recipe, made.table)
        tasks = cut(made.table, recipe, [shard["name"] for shard in corpus.shards] if corpus else [])
        records.forget_others(recipe.path, {task.name for task in tasks}, corpus)
        _make(tasks, recipe, engine)
        assemble.assemble(made, [task.name for task in tasks], corpus)
        own.forget_others(recipe)
    return open_corpus(recipe.path)


def dry_run(recipe: CorpusRecipe) -> str:
    """What `build` would do, as a page of text. Nothing is written but the fingerprints that it goes by.

    Raises RequestError where `build` would: for a folder of other files, wrong banks and findings, or a recipe that
    would change a corpus.
    """
    _check_folder(recipe.path)
    own.check_own(recipe)
    corpus = _existing(recipe)
    recipe = with_salts(recipe, corpus.facts if corpus else None, keep=False)
    made = plan_of(recipe, corpus)
    return dry_run_text(made, _cost(made))


def plan_of(recipe: CorpusRecipe, corpus: Corpus | None) -> Plan:
    """The plan of what is to be added to `corpus`, or of a new one."""
    if corpus is None:
        return make_plan(recipe)
    known = [name for name in SCHEMA.names if name not in ("recipe", "place")]
    folds = corpus.overlay("folds") if corpus.has_overlay("folds") else None
    return make_plan(recipe, corpus.index(known), folds)


def cut(table: pa.Table, recipe: CorpusRecipe, taken: Sequence[str] = ()) -> list[Task]:
    """The plan's rows as shards: one source and split each, modality after modality, shuffled by seed within these.

    taken: names of shards that are there already; numbers go on after them, and where two sources share a stem.
    """
    source, names = columns.numbers(table["source"])
    split, modality = columns.codes(table["split"], SIDES), columns.codes(table["modality"], MODALITIES)
    together = source * len(SIDES) + split
    used = Counter[str]()  # the next number of each stem: shards without an image leave gaps
    for name in taken:
        stem, number = name.removesuffix(".tar").rsplit("-", 1)
        used[stem] = max(used[stem], int(number) + 1)
    tasks = []
    for value in np.unique(together):
        rows = np.flatnonzero(together == value)
        stem = stem_of(names[source[rows[0]]], SIDES[split[rows[0]]])
        rows = rows[generator(recipe.seed, "shards", stem, used[stem]).permutation(len(rows))]
        rows = rows[np.argsort(modality[rows], kind="stable")]
        for start in range(0, len(rows), recipe.shard):
            name = f"{stem}-{used[stem]:05d}.tar"
            tasks.append(Task(name, recipe, table, rows[start : start + recipe.shard]))
            used[stem] += 1
    return tasks


def _cost(plan: Plan) -> Cost:
    """About what a build takes on disk, and how long: a few images of each source are made, and all taken as alike."""
    recipe = plan.recipe
    source, names = columns.numbers(plan.table["source"])
    size = seconds = 0.0
    for code, name in enumerate(track(names, "a few images of each source", len(names))):
        rows = np.flatnonzero(source == code)
        some = generator(recipe.seed, "cost", name).choice(rows, min(SAMPLED, len(rows)), replace=False)
        cost = cost_of(Task("", recipe, plan.table, some))
        size += cost.bytes * len(rows) / len(some)
        seconds += cost.seconds * len(rows) / len(some)
    workers = recipe.workers or cores()
    return Cost(size, seconds / max(1, min(workers, len(cut(plan.table, recipe)))))


def _make(tasks: Sequence[Task], recipe: CorpusRecipe, engine: Engine | None) -> None:
    names = run(make_shard, tasks, engine or recipe.engine, recipe.workers)
    for _ in track(names, f"building {recipe.path.name}, shards of {recipe.shard}", len(tasks)):
        pass


def _existing(recipe: CorpusRecipe) -> Corpus | None:
    """The corpus that is there already. Raises RequestError when the recipe does not fit it."""
    if not (recipe.path / "corpus.json").exists():
        return None
    corpus = open_corpus(recipe.path)
    old, new = corpus.facts["recipe"], assemble.content_of(recipe)
    changed = [name for name in new if old.get(name) != new[name] and name not in (*GROWS, *FREE)]
    changed += [name for name in ("sources", "accept") if any(entry not in new[name] for entry in old[name])]
    changed += ["folds"] * (old["folds"] not in (None, new["folds"]))
    if changed:
        names = ", ".join(f"corpus.{name}" for name in changed)
        todo = "choose a new path, or only add sources; corpus.json holds the recipe it was built from"
        raise RequestError(f"{names} differ from what this corpus was built from", where=recipe.path, todo=todo)
    own.check_names(recipe, corpus)
    return corpus


def _restore(corpus: Corpus, recipe: CorpusRecipe, engine: Engine | None) -> None:
    """Write shards anew that are missing or cut short. Raises UserError when their images have changed meanwhile."""
    lost = [n for n, shard in enumerate(corpus.shards) if not records.is_whole(recipe.path, shard["name"], shard)]
    if not lost:
        return
    say(f"{len(lost)} damaged shards are written anew")
    index = corpus.index()
    index = index.filter(pc.is_in(index["shard"], value_set=pa.array(lost, pa.int32())))
    recipe = recipe.model_copy(update={"banks": [Path(bank) for bank in corpus.facts["recipe"].get("banks", [])]})
    offered = listed(recipe, [open_source(source) for source in recipe.sources], corpus.vocabulary()).table
    at = pc.index_in(index["id"], value_set=offered["id"].combine_chunks())
    if at.null_count:
        gone = index["id"].filter(pc.is_null(at))[0]
        raise UserError(f"{gone} is in a damaged shard, and no longer in its source", where=recipe.path)
    origin = offered.select(["recipe", "place"]).take(at)
    table = pa.table([*index.select(SCHEMA.names[:-2]).columns, *origin.columns], schema=SCHEMA)
    rows = {n: np.flatnonzero(index["shard"].to_numpy() == n) for n in lost}
    shards = {n: corpus.shards[n] for n in lost}
    _make([Task(shards[n]["name"], recipe, table, rows[n], shards[n]["sha256"]) for n in lost], recipe, engine)


def _check_folder(folder: Path) -> None:
    """Never mix a corpus into a folder that holds something else."""
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held - BEFORE and not held & OURS:
        raise RequestError("the folder holds other files", where=folder, todo="choose a new or an empty folder")
