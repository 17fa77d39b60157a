"""Everything of a run that is under way: made from a recipe, kept in checkpoints, taken up again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from medweave.cores import share_of_cores
from medweave.corpus.captions.bank import Triplet
from medweave.corpus.order import Numbers, Order, Ranges
from medweave.corpus.store import Corpus, open_corpus
from medweave.corpus.views import strata_of
from medweave.errors import RequestError
from medweave.evaluation.parts import ranges_of
from medweave.files import hash_of, write_json
from medweave.models import dual
from medweave.models.teachers.licences import Inherited, inherited
from medweave.models.towers import drops
from medweave.models.two_towers import DualModel
from medweave.progress import say
from medweave.training import checkpoint, distributed, texts
from medweave.training.captions import Captions, bank_hash, captions_of
from medweave.training.counts import Counts, report
from medweave.training.distributed import Ranks
from medweave.training.embed import Towers
from medweave.training.labels import Labels, labels_of
from medweave.training.loader import Look, Share, Steps
from medweave.training.menu import Menu, findings_of
from medweave.training.mix import Mix, mix_of
from medweave.training.objective import Batch, Given, Objectives, TeacherRows
from medweave.training.optim import Average, optimiser_of
from medweave.training.recipe import Recipe, TrainRecipe, section
from medweave.training.run import TEXTS, Run
from medweave.training.teachers import Teachers, teachers_of
from medweave.training.validate import Validation, exam_of

SHOWN = 5  # names in a line
MOST_LOADERS = 8


@dataclass(frozen=True)
class Data:
    """What is trained on, in which order, with which texts."""

    corpus: Corpus
    mix: Mix
    order: Order
    captions: Captions
    labels: Labels
    teachers: Teachers | None
    inherited: Inherited

    def hashes(self) -> dict[str, str]:
        """Of all that decides what a step sees, beside the recipe."""
        shares = {source: shares.model_dump() for source, shares in self.captions.shares.items()}
        captions = hash_of([bank_hash(self.captions.bank), shares])
        data = {"corpus": self.corpus.hash, "captions": captions, "training samples": self.mix.hash}
        block = {"train.mix.block": str(self.mix.block)} if self.mix.block > 1 else {}
        taught = self.teachers.hashes() if self.teachers is not None else {}
        return data | block | taught | self.corpus.overlay_hashes(self.corpus.labels)

    def batch(self, numbers: Numbers, menu: Menu | None) -> Batch:
        """What is known of the samples of a batch, by their numbers [B]."""
        labels = self.labels.of(numbers)
        if menu is None:
            return Batch(torch.from_numpy(numbers), labels)
        near = menu.near(self.labels.modalities(numbers))
        return Batch(torch.from_numpy(numbers), labels, menu.truth(labels), near)

    @property
    def training(self) -> Ranges:
        """All training samples."""
        return Ranges.of_mask(np.any([ranges.mask(len(self.corpus)) for ranges in self.mix.ranges], axis=0))

    @cached_property
    def findings(self) -> list[Triplet]:
        """What training images show: (modality, anatomy, finding), in sorted order."""
        return findings_of(labels for ranges in self.mix.ranges for labels in self.labels.among(ranges))

    @property
    def bank_captions(self) -> list[str]:
        """Every caption of the bank for these findings, sorted."""
        bank = self.captions.bank
        return sorted({caption for triplet in self.findings for caption in bank.captions(*triplet)})


@dataclass
class Work:
    """A run under way. step: steps made. best: step and value of the best validation so far."""

    recipe: Recipe
    settings: TrainRecipe
    run: Run
    ranks: Ranks
    data: Data
    loader: Steps
    towers: Towers
    objectives: Objectives
    optimiser: torch.optim.AdamW
    average: Average | None
    validation: Validation
    counts: Counts
    step: int = 0
    best: dict[str, Any] | None = None

    @property
    def model(self) -> DualModel:
        """The model as it learns."""
        return self.towers.model

    @property
    def menu(self) -> Menu | None:
        """All findings with their captions, when an objective needs them."""
        return self.loader.menu

    def batch(self, order: Order, share: Share) -> Batch:
        """What is known of the whole global batch of which a process has this share."""
        rows = {name: self._of_all(of_one) for name, of_one in share.rows.items()}
        return replace(self.data.batch(order.numbers(share.step), self.menu), rows=rows, step=share.step)

    def _of_all(self, rows: TeacherRows) -> TeacherRows:
        """A teacher's rows of every process's samples, on this process's device; the menu's are the same everywhere."""

        def moved(own: Tensor) -> Tensor:
            return own.to(self.ranks.device, non_blocking=True)

        menu = None if rows.menu is None else moved(rows.menu)
        return replace(rows.each(lambda own: self.ranks.gather(moved(own))), menu=menu)

    @property
    def workers(self) -> int:
        """Loader processes of this process."""
        return loader_processes(self.settings, self.ranks.device)

    @property
    def frozen_norm(self) -> bool:
        """Whether batch norm keeps its statistics."""
        return self.settings.norm == "frozen" or self.ranks.world > 1 or self.settings.accumulate > 1


def data_of(recipe: Recipe, ranks: Ranks) -> Data:
    """The training data of a recipe. Raises RequestError when it does not fit the corpus."""
    settings: TrainRecipe = section(recipe, "train")
    path = settings.corpus or (recipe.corpus.path if recipe.corpus else None)
    if path is None:
        raise RequestError("the recipe names no corpus", where="train.corpus", todo="give it, or a section `corpus:`")
    distributed.check_batch(settings.batch, settings.accumulate, ranks)
    corpus = open_corpus(path, labels=settings.labels)
    mix = mix_of(corpus, settings)
    order = mix.order(settings.batch, recipe.seed)
    captions = captions_of(corpus, settings.captions, recipe.seed)
    teachers = teachers_of(corpus, settings.teachers) if settings.teachers is not None else None
    data = Data(corpus, mix, order, captions, labels_of(corpus), teachers, inherited_by(corpus, mix, teachers))
    return data if teachers is None else replace(data, teachers=teachers.drawing(data.bank_captions))


def inherited_by(corpus: Corpus, mix: Mix, teachers: Teachers | None) -> Inherited:
    """What the model's card states of licences. Raises RequestError where a teacher must be accepted first."""
    own = sorted({row["licence_class"] for row in corpus.facts["licences"] if row["source"] in mix.sources})
    if teachers is None:
        return inherited([], own=own)
    return inherited([one.terms for one in teachers.taught], teachers.recipe.accept, own)


def prepare(recipe: Recipe, run: Run, data: Data, ranks: Ranks) -> Work:
    """Build the model and all that a step needs.

    Raises RequestError when an objective asks for another head, or for findings that no image has.
    """
    settings: TrainRecipe = section(recipe, "train")
    model = dual.build(section(recipe, "model"), recipe.seed).to(ranks.device)
    check_heads(recipe, model)
    teachers, given = data.teachers, Given(model.dim)
    asked = Objectives(settings.objectives, teachers.outlined(model.dim) if teachers is not None else given)
    check_teachers(recipe, asked)  # before any is measured, which may take hours
    if ranks.first:
        say_left_out(asked)
    if teachers is not None:
        teachers = teachers.measured(data.training, held_out(data.corpus, settings), run.path, ranks)
        given = teachers.given(model.dim, data.training, ranks)
    objectives = Objectives(settings.objectives, given, recipe.seed).to(ranks.device)
    menu = menu_of(data, objectives, recipe.seed)
    ranks.same_start([*model.state_dict().values(), *objectives.state_dict().values()])
    look = look_of(model, settings, teachers)
    tokenize = None if model.frozen_text else model.tokenize
    loader = Steps(data.corpus, data.order, data.captions, look, tokenize, ranks, settings.accumulate, menu, teachers)
    pooled, loaders = None, loader_processes(settings, ranks.device)
    if model.frozen_text:
        file = run.path / TEXTS
        pooled = texts.of_run(model, loader, settings.total_steps, loaders, data.bank_captions, file, ranks)
    exam = exam_of(data.corpus, settings, data.captions.bank, data.labels.known, recipe.seed)
    work = Work(
        recipe,
        settings,
        run,
        ranks,
        data,
        loader,
        towers=Towers(
            model,
            ranks.device,
            recipe.seed,
            pooled=pooled,
            bf16=in_bf16(settings, ranks.device),
            compile=settings.compile,
        ),
        objectives=objectives,
        optimiser=optimiser_of(model, objectives, settings.optimiser),
        average=Average(model, settings.ema) if settings.ema is not None else None,
        validation=Validation(data.corpus, exam, model, ranks),
        counts=Counts(data.corpus),
    )
    if ranks.first:
        say_facts(work)
    return work


def held_out(corpus: Corpus, settings: TrainRecipe) -> Ranges:
    """The validation samples of what is trained on."""
    view = ranges_of(corpus, settings.data, "validation")
    return strata_of(corpus, view, "all", settings.leave_out, settings.modalities).get("all", Ranges.of([]))


def check_heads(recipe: Recipe, model: DualModel) -> None:
    """Raises RequestError unless the objectives train the head that the model has: sigmoid has a bias, softmax none."""
    own = "model.head" if section(recipe, "model").start is None else "the head of model.start"
    for at, objective in enumerate(section(recipe, "train").objectives):
        head = getattr(objective, "head", model.kind)
        if head != model.kind:
            raise RequestError(
                f"train.objectives.{at}.head is {head}, but {own} is {model.kind}", todo="both must be the same"
            )


def check_teachers(recipe: Recipe, objectives: Objectives) -> None:
    """Raises RequestError when objectives learn from teachers and there are none, or the other way round."""
    kinds = [of_one.kind for of_one in section(recipe, "train").objectives]
    learning = [kind for kind, part in zip(kinds, objectives.parts, strict=True) if part.learns_from_teachers]
    named = section(recipe, "train").teachers is not None
    if learning and not named:
        todo = "name rows that `medweave features` made: train.teachers.rows=[NAME]"
        raise RequestError(f"{' and '.join(learning)} learn from teachers", where="train.objectives", todo=todo)
    if named and not learning:
        todo = "add one, such as feature or affinity, or leave the teachers out"
        raise RequestError("no objective learns from teachers", where="train.objectives", todo=todo)


def say_left_out(objectives: Objectives) -> None:
    """Which teachers an objective learns nothing from."""
    for kind, names in objectives.left_out.items():
        say(f"{kind} leaves out {' and '.join(names)}, whose own scale is not known (give `scale:` to use it)")


def menu_of(data: Data, objectives: Objectives, seed: int) -> Menu | None:
    """All findings with their captions, when an objective needs them. Raises RequestError when no image has one."""
    if not objectives.menu_captions:
        return None
    if not data.findings:
        todo = "leave out menu and answer, which ask for findings, or give labels to the corpus"
        raise RequestError("no training image has a finding", where="train.objectives", todo=todo)
    return Menu(data.findings, data.captions.bank, seed, objectives.menu_captions)


def look_of(model: DualModel, settings: TrainRecipe, teachers: Teachers | None) -> Look:
    """What becomes of training pictures. Raises RequestError when stored views fit the model's way to a square not."""
    views = teachers.views if teachers is not None else None
    own = model.preprocess.policy
    if views is not None and views.policy != own:
        raise RequestError(
            f"stored views become squares by {views.policy}, the model's pictures by {own}",
            where="train.teachers",
            todo=f"set model.image.resize={views.policy}, make views with --resize {own}, or replay=false",
        )
    return Look(model.preprocess.size, own, settings.augment, views)


def in_bf16(settings: TrainRecipe, device: torch.device) -> bool:
    """Whether the towers run in bf16: where it is asked for, and on GPUs that have it unless fp32 is asked for."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.precision == "bf16" or (settings.precision == "auto" and able)


def loader_processes(settings: TrainRecipe, device: torch.device) -> int:
    """Those that are asked for; else one, for the towers need the cores, and with a GPU all cores but one."""
    if settings.workers is not None:
        return settings.workers
    if device.type != "cuda":
        return 1
    return min(MOST_LOADERS, max(1, share_of_cores() - 1))


def say_facts(work: Work) -> None:
    """What a user would want to know before a long run begins."""
    mix, settings = work.data.mix, work.settings
    say(f"{mix.samples} training images in {len(mix.names)} strata; {settings.total_steps} steps of {settings.batch}")
    bare = untold(work.data)
    if bare:
        say(f"WARNING: {bare} of {mix.samples} training images have neither text nor finding")
    idle = {s.source for s in work.data.corpus.strata} - {*mix.sources, *settings.leave_out}
    if idle:
        say(f"no training image from {', '.join(sorted(idle))}")
    missing = [finding for _, _, finding in work.data.captions.bank.missing(work.data.findings)]
    if missing and settings.captions.banks != []:
        more = " …" if len(missing) > SHOWN else ""
        say(f"no bank captions for {len(missing)} findings ({', '.join(missing[:SHOWN])}{more}): generic sentences")
    if work.frozen_norm and settings.norm == "batch":
        say("batch norm keeps its statistics: several processes or accumulation must agree with one")
    if (work.ranks.world > 1 or settings.accumulate > 1) and drops(work.model):
        say("dropout is drawn anew for each micro-batch: other processes or accumulation give other weights")
    if settings.data.held_out and not work.validation:
        say("no source of the validation part has two findings: nothing to choose by, the last weights are kept")


def untold(data: Data) -> int:
    """How many training images have neither a text nor a finding."""
    known = data.labels.known
    unknown = np.array([not labels.told for labels in known.sets])[known.codes] & data.training.mask(len(data.corpus))
    if not unknown.any():
        return 0
    count = first = 0
    for batch in data.corpus.batches(["texts"]):
        wordless = pc.list_value_length(batch["texts"]).fill_null(0).to_numpy() == 0
        count += int((wordless & unknown[first : first + len(batch)]).sum())
        first += len(batch)
    return count


def totals(work: Work) -> dict[str, Any]:
    """The counts of all processes so far. Raises UserError if they do not add up."""
    return report(_all_counts(work), work.step, work.data.mix, work.data.order)


def save(work: Work) -> None:
    """Write the state to go on from, and the counts so far."""
    texts.write_met(work.towers.pooled, work.run.checkpoints, work.ranks, work.step)
    total = _all_counts(work)  # every process has written its texts before the first one writes the state
    if not work.ranks.first:
        return
    write_json(work.run.path / "counts.json", report(total, work.step, work.data.mix, work.data.order))
    state = {
        "step": work.step,
        "best": work.best,
        "model": work.model.state_dict(),
        "objectives": work.objectives.state_dict(),
        "optimiser": work.optimiser.state_dict(),
        "average": work.average.values if work.average is not None else {},
        "counts": total.state(),
    }
    checkpoint.save(work.run.checkpoints, work.step, state)


def resume(work: Work) -> None:
    """Go on from the newest checkpoint, if there is one."""
    state = checkpoint.latest(work.run.checkpoints, work.ranks.device)
    if state is None:
        return
    where = work.run.checkpoints
    checkpoint.fill(work.model, state["model"], where)
    checkpoint.fill(work.objectives, state["objectives"], where)
    work.optimiser.load_state_dict(state["optimiser"])
    if work.average is not None:
        work.average.values = state["average"]
    texts.read_met(work.towers.pooled, where, work.ranks, state["step"])
    if work.ranks.first:
        work.counts.load([state["counts"]])
        say(f"{work.run.path}: going on at step {state['step']} of {work.settings.total_steps}")
    work.step, work.best = state["step"], state["best"]


def _all_counts(work: Work) -> Counts:
    total = Counts(work.data.corpus)
    total.load(work.ranks.gather_objects(work.counts.state()))
    return total
