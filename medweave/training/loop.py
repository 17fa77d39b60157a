"""Training, from a recipe to a run: prepare (work), then step by step, then the model.

A step: this process's share of the batch arrives (loader); both towers embed it, all processes see the same whole
batch, and the objectives' gradient goes back (embed); AdamW steps (optim). Everything random is a function of (seed,
step, sample), so a run that was killed goes on from its checkpoint to the same final weights.
"""

from __future__ import annotations

import errno
import math
import time
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medweave import memory
from medweave.corpus.captions.bank import Bank, shipped
from medweave.errors import UserError
from medweave.files import only_writer
from medweave.models import folder
from medweave.models.teachers.licences import continued
from medweave.progress import say
from medweave.recipe import as_data, recipe_hash
from medweave.training import checkpoint, distributed, soup
from medweave.training.distributed import Ranks
from medweave.training.embed import backward
from medweave.training.heads import check_separable, head_finish, head_start
from medweave.training.kept import as_kept, averaged, learn
from medweave.training.loader import Share, batches
from medweave.training.log import Log, Stopwatch
from medweave.training.objective import Losses
from medweave.training.optim import rate, set_rate, step_
from medweave.training.recipe import Recipe, section
from medweave.training.run import Run
from medweave.training.work import Work, data_of, prepare, resume, save, totals

LICENCE = "that of its training data and teachers"


def train(recipe: Recipe) -> Run:
    """Train the recipe's model and leave a run; the same call again goes on where it stopped, or finds it finished.

    Under torchrun every process calls it. Raises RequestError for a recipe that does not fit its corpus or its folder,
    UserError when training fails.
    """
    run = Run(section(recipe, "train").run)
    section(recipe, "model")
    run.check_folder()
    ranks = distributed.start()
    if ranks.device.type == "cpu":
        memory.keep()
    try:
        data = data_of(recipe, ranks)
        with only_writer(run.path) if ranks.first else nullcontext():
            if ranks.first:
                run.begin(recipe, data.hashes())
            if ranks.gather_objects(ranks.first and run.finished)[0]:
                say(f"{run.path} is finished: nothing to do")
                return run
            work = prepare(recipe, run, data, ranks)
            check_separable(work)
            resume(work)
            if work.step == 0 and work.settings.head_start is not None:
                head_start(work)
            with Log(run, recipe.name, work.step, work.settings.total_steps) if ranks.first else nullcontext() as log:
                _steps(work, log)
                _keep(work)
                if work.settings.head_finish is not None:
                    head_finish(work)
                    _log_validation(work, log)
            if ranks.first:
                _finish(work)
    except torch.cuda.OutOfMemoryError as error:
        todo = "raise train.accumulate, which keeps the whole contrastive batch, or lower train.batch"
        raise UserError("the GPU's memory is full", where=run.path, todo=todo) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError("the disk is full", where=run.path, todo="free space: the same command goes on") from error
    finally:
        distributed.stop(ranks)
    return run


def _steps(work: Work, log: Log | None) -> None:
    """Train from `work.step` to the end."""
    settings, total = work.settings, work.settings.total_steps
    validate, keep = settings.every(settings.validation.every), settings.every(settings.checkpoint)
    watch = Stopwatch()
    if work.validation and work.step == 0 and settings.head_start is not None:
        _validate(work, log)
    learn(work)
    for share, waited in batches(work.loader, work.step, total, work.workers, work.ranks.device.type == "cuda"):
        soup.begin_branch(work)
        set_rate(work.optimiser, rate(_in_branch(work), settings.branch_steps, settings.optimiser.warmup))
        made = one_step(work, share)
        work.counts.add(share)
        work.step += 1
        watch.add(settings.batch, waited)
        soup.add(work)

        if _due(work.step, settings.log, total) or _due(work.step, keep, total):
            line = _line(work, made)
            if log is not None and _due(work.step, settings.log, total):
                log.train(work.step, line | watch.read())
        if _new_epoch(work):
            counts = totals(work)
            if log is not None:
                log.counts(work.step, counts)
        paused = time.perf_counter()
        if work.validation and _due(work.step, validate, total):
            _validate(work, log)
        if _due(work.step, keep, total):
            save(work)
        watch.skip(time.perf_counter() - paused)


class _Made(NamedTuple):
    """One optimiser step: its losses, what they could not go below (where a line of the log is due), the norm of their
    gradient, and the share of samples that each teacher told.
    """

    losses: Losses
    floors: Losses
    norm: torch.Tensor
    taught: dict[str, float]


def one_step(work: Work, share: Share) -> _Made:
    """One step of the run: forward, backward, optimiser, averages."""
    read = _readable(share, work.ranks)
    batch = work.batch(work.data.order, share)
    losses = backward(work.towers, work.objectives, share, batch, read, work.ranks)
    norm = step_(work.optimiser, work.model, work.objectives, work.settings.optimiser.clip)
    if work.average is not None:
        work.average.update(_in_branch(work))
    taught = {name: float(rows.covered.float().mean()) for name, rows in batch.rows.items()}
    told = _due(work.step + 1, work.settings.log, work.settings.total_steps)
    return _Made(losses, work.objectives.floors(batch) if told else {}, norm, taught)


def _readable(share: Share, ranks: Ranks) -> torch.Tensor:
    """Which samples of the global batch could be read: [B] bool on the CPU."""
    return ranks.gather(torch.tensor([not problem for problem in share.problems]))


def _line(work: Work, made: _Made) -> dict[str, Any]:
    """A line of the log. Raises UserError when the loss is no number any more."""
    values = {name: float(loss) for name, loss in made.losses.items()}
    if not all(map(math.isfinite, (*values.values(), float(made.norm)))):
        raise UserError(
            f"the loss or its gradient is not finite at step {work.step}",
            where=work.run.path,
            todo="lower train.optimiser.lr or set train.optimiser.clip, in a new run",
        )
    images, bias = work.step * work.settings.batch, work.model.logit_bias
    return {
        "loss": sum(values.values()),
        "losses": values,
        "floors": {name: float(floor) for name, floor in made.floors.items()},
        "lr": max(group["lr"] for group in work.optimiser.param_groups),
        "gradient": float(made.norm),
        "scale": work.model.logit_scale.exp().item(),
        "bias": bias.item() if bias is not None else 0.0,
        "images": images,
        "epoch": images / work.data.mix.samples,
        "taught": made.taught,
    }


def _validate(work: Work, log: Log | None) -> None:
    """Score the weights that would be kept, and keep them if they are the best so far."""
    with as_kept(work):
        figures = work.validation(work.towers)
        value = figures[work.settings.validation.metric]
        if value is not None and (work.best is None or value > work.best["value"]):
            work.best = {"step": work.step, "value": value}
            if work.ranks.first and work.settings.keep == "best":
                checkpoint.save_weights(work.run.checkpoints / checkpoint.BEST, work.model)
    if log is not None:
        log.validation(work.step, figures)


def _keep(work: Work) -> None:
    """Put the weights that are kept into the model, in every process; it is left in eval()."""
    if work.settings.soup is not None:
        work.best = soup.cook(work)
        return
    best = work.run.checkpoints / checkpoint.BEST
    if work.settings.keep == "best" and work.best is not None:
        work.ranks.wait()
        checkpoint.fill(work.model, checkpoint.read_weights(best), best)
    elif work.average is not None:
        averaged(work)
    work.model.eval()


def _log_validation(work: Work, log: Log | None) -> None:
    """Score the weights that became the model."""
    if work.validation:
        figures = work.validation(work.towers)
        if log is not None:
            log.validation(work.step, figures)


def _finish(work: Work) -> None:
    """Write the model and close the run."""
    folder.save(work.model, work.run.model, _facts(work))
    work.run.finish({"best": work.best, "steps": work.step})
    checkpoint.clear(work.run.checkpoints)
    counts = work.run.counts
    skipped, texts = sum(counts["skipped"].values()), ", ".join(f"{n} {kind}" for kind, n in counts["texts"].items())
    say(f"{counts['read']} images read, {skipped} skipped, {counts['repeated']} seen again; texts: {texts}")


def _facts(work: Work) -> dict[str, Any]:
    """What the model's card says of its training."""
    settings, corpus, counts = work.settings, work.data.corpus, work.run.counts
    path = str(corpus.path.resolve() if isinstance(corpus.path, Path) else corpus.path)
    unseen = sorted({stratum.source for stratum in corpus.strata} - set(work.data.mix.sources))
    part = as_data(settings.data)
    trained_on: dict[str, Any] = {"corpus": corpus.hash, "path": path, "part": part, "leave_out": unseen}
    inherited, start = work.data.inherited, work.model.facts
    if section(work.recipe, "model").start is not None:
        inherited = continued(inherited, start)
        trained_on["before"] = start.get("trained_on")
    return {
        "name": work.recipe.name,
        "domains": settings.modalities,
        "licence": LICENCE,
        "licence_class": inherited.licence_class,
        "binds_students": inherited.binds_students,
        "inherits": list(inherited.sentences),
        "teachers": [
            *start.get("teachers", ()),
            *(one.facts for one in (work.data.teachers.taught if work.data.teachers is not None else ())),
        ],
        "recipe": recipe_hash(work.recipe),
        "trained_on": trained_on,
        "places": _places(work),
        "reading": {name: corpus.facts["recipe"][name] for name in ("limits", "image")},
        "licences": [row for row in corpus.facts["licences"] if row["source"] in counts["mix"]["source"]],
        "images_seen": counts["read"],
        "steps": work.step,
        "kept": work.best if work.best and (settings.soup or settings.keep == "best") else {"step": work.step},
    }


def _places(work: Work) -> list[dict[str, Any]]:
    """What was trained on, for `classify`: by modality and anatomy the findings shown, each with its test prompts."""
    bank = Bank.load([*shipped(), *work.data.corpus.banks()])
    return [
        {"modality": m, "anatomy": a, "findings": {name: bank.all_prompts(m, a, name) for _, _, name in group}}
        for (m, a), group in groupby(work.data.findings, key=lambda triplet: triplet[:2])
    ]


def _new_epoch(work: Work) -> bool:
    """Whether this step brought the images seen to one more pass over the training samples, or was the last."""
    images, batch, samples = work.step * work.settings.batch, work.settings.batch, work.data.mix.samples
    return images // samples > (images - batch) // samples or work.step == work.settings.total_steps


def _in_branch(work: Work) -> int:
    """Steps that this branch has made: all, where there is but one."""
    return work.step % work.settings.branch_steps


def _due(step: int, every: int, total: int) -> bool:
    return step % every == 0 or step == total
