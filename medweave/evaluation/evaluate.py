"""Model x benchmarks -> results: each case is answered by its task, then its test labels are opened, then it is scored.

A case that fails is recorded and the others go on. A case that was finished with the same inputs is not run again, so
the same command after a crash goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medweave import memory
from medweave.errors import RequestError, UserError
from medweave.evaluation import benchmark as benchmarks_
from medweave.evaluation import predictions as predictions_
from medweave.evaluation import scoring
from medweave.evaluation.answer import Answer, BankLike, Setting
from medweave.evaluation.benchmark import Benchmark
from medweave.evaluation.cache import Embedder, EncoderLike
from medweave.evaluation.calibration import fit_temperature
from medweave.evaluation.cases import Broken, Case, cases
from medweave.evaluation.leaks import Met, training_bank
from medweave.evaluation.predictions import Predictions
from medweave.evaluation.recipe import EvaluateRecipe, Part
from medweave.evaluation.results import Result, Results
from medweave.evaluation.sealed import Ledger
from medweave.evaluation.trainings import Trained, check_unseen, trainings_of, without_places
from medweave.files import hash_of, only_writer, read_json, write_json
from medweave.progress import say
from medweave.recipe import Section, as_data, check, merged

if TYPE_CHECKING:
    from medweave.corpus.captions.bank import Bank
    from medweave.corpus.store import Corpus

PLAIN = Path(__file__).with_name("plain.yaml")  # the recipe of a model that brings none
PREDICTIONS = "predictions.parquet"
FOR_SERVING = ("calibration", "places", "reading")  # facts of a model that no result rests on


@dataclass
class _Work:
    """What all cases of one evaluation share."""

    encoder: EncoderLike
    recipe: EvaluateRecipe
    corpus: Corpus
    embedder: Embedder
    bank: BankLike
    ledger: Ledger
    met: Met
    captions: Bank | None


def evaluate(
    model: EncoderLike | Path | str,
    benchmarks: Sequence[str | Benchmark] | None = None,
    corpus: Corpus | Path | str | None = None,
    out: Path | str | None = None,
    recipe: EvaluateRecipe | None = None,
) -> Results:
    """Score a model on benchmarks and write `out`/results.json with predictions.

    model: an Encoder or a reference that `load` takes. What is not given is as the recipe says, that is the `evaluate:`
    section of a run's own; `out` is then evaluations/ of a model's folder. The temperatures of prompted cases are
    written into that folder, for `classify`.
    Raises RequestError when the request itself is wrong; a benchmark that fails is listed in `.failed`.
    """
    return evaluated(model, benchmarks, corpus, out, recipe)[0]


def evaluated(
    model: EncoderLike | Path | str,
    benchmarks: Sequence[str | Benchmark] | None = None,
    corpus: Corpus | Path | str | None = None,
    out: Path | str | None = None,
    recipe: EvaluateRecipe | None = None,
) -> tuple[Results, Corpus | None]:
    """As `evaluate`, with the corpus that all results rest on; None where there are several, or no result."""
    memory.keep()
    encoder = _loaded(model)
    home = Path(model) if isinstance(model, str | Path) and Path(model).is_dir() else None
    recipe = recipe or (recipe_of(home) if home else EvaluateRecipe())
    folder = Path(out) if out is not None else recipe.out or (home / "evaluations" if home else None)
    if folder is None:
        raise RequestError("no folder for the results", todo="give `out`")
    asked = [b if isinstance(b, Benchmark) else benchmarks_.load(b) for b in benchmarks or recipe.benchmarks]
    facts = {name: value for name, value in encoder.facts.items() if name not in FOR_SERVING}
    results = Results(folder, {"name": encoder.name, "weights": encoder.weights_hash, "facts": facts})
    with only_writer(folder):
        given = corpus if corpus is not None else recipe.corpus
        opened = [_run_benchmark(one, encoder, given, recipe, results, home) for one in asked]
        results.write(recipe.draws, recipe.seed)
    if home:
        _keep_temperatures(home, results)
    return results, _only_one(opened, results)


def recipe_of(run: Path, overrides: Sequence[str] = ()) -> EvaluateRecipe:
    """The `evaluate:` section of a run's recipe; the defaults for a model that has none.

    overrides: `evaluate.a.b=c`, of either. Raises RequestError for others.
    """
    wrong = [one for one in overrides if not one.startswith("evaluate.")]
    if wrong:
        raise RequestError(f"{wrong[0]!r} does not override how a model is evaluated", todo="write evaluate.a.b=c")
    own = run / "recipe.yaml"
    path, where = (own, own) if own.is_file() else (PLAIN, run)
    tree, mistakes = merged(path, overrides)
    return check({"evaluate": tree.get("evaluate") or {}}, _OfRun, where, mistakes).evaluate


def _only_one(opened: Iterable[Corpus | None], results: Results) -> Corpus | None:
    """The one corpus that all results rest on, if so."""
    tested = {result["inputs"]["corpus"] for result in results.results}
    found = {corpus.hash: corpus for corpus in opened if corpus is not None and corpus.hash in tested}
    return found.popitem()[1] if len(found) == 1 else None


class _OfRun(Section):
    """What evaluation reads of a run's recipe; mistakes are named by their path in it."""

    evaluate: EvaluateRecipe


def _keep_temperatures(home: Path, results: Results) -> None:
    """Write the temperatures of prompted cases into the model's folder, beside those of other cases and corpora."""
    from medweave.models.folder import add_facts, facts_of
    from medweave.models.public import model_folder

    prompted = [result for result in results.results if result["task"] == "zero_shot"]
    fitted = [_temperature(result) for result in prompted if result["calibration"]["served"] is not None]
    if not fitted:
        return
    folder, weights = model_folder(str(home)), results.model["weights"]
    known = facts_of(folder).get("calibration") or {}
    anew = {(result["inputs"]["corpus"], result["benchmark"]) for result in prompted}
    kept = known["cases"] if known.get("weights") == weights else []
    kept = [case for case in kept if (case["corpus"], case["benchmark"]) not in anew]
    try:
        add_facts(folder, {"calibration": {"weights": weights, "cases": kept + fitted}})
    except OSError as error:
        say(f"{folder} cannot be written to ({error.strerror}): its temperatures are not kept for classify")


def _temperature(result: Result) -> dict[str, Any]:
    """What `classify` must know of one calibrated case."""
    named = {name: result[name] for name in ("benchmark", "source", "modality", "anatomy")}
    fitted = {name: result["calibration"][name] for name in ("images", "groups")}
    return {**named, "corpus": result["inputs"]["corpus"], "temperature": result["calibration"]["served"], **fitted}


def _run_benchmark(
    one: Benchmark,
    encoder: EncoderLike,
    given: Corpus | Path | str | None,
    recipe: EvaluateRecipe,
    results: Results,
    home: Path | None,
) -> Corpus | None:
    """Add a benchmark's results. Returns its corpus; None where that, or a part of it, is not to be had."""
    try:
        corpus = _opened(one, given, encoder)
        corpus = corpus.with_labels(recipe.labels) if recipe.labels else corpus
        trained = trainings_of(encoder.facts, corpus)
    except UserError as error:
        results.failed.append({"benchmark": one.name, "reason": str(error)})
        return None
    part = _part(one, corpus, recipe, trained)
    try:
        found = list(cases(one, corpus, part, recipe.confounded))
        work = _work(encoder, corpus, recipe, home, Met(trained, corpus, _looked_at(found)))
    except UserError as error:
        results.failed.append({"benchmark": one.name, "reason": str(error)})
        return None
    if not found:
        results.failed.append({"benchmark": one.name, "reason": "no source of the corpus has two classes or more"})
    for case in found:
        if isinstance(case, Broken):
            listed = results.skipped if case.skipped else results.failed
            listed.append({"benchmark": case.name, "reason": case.reason})
            continue
        try:
            results.results.append(_finished(case, one, part, work, results.folder / case.name))
        except Exception as error:  # whatever breaks one case must not lose the others
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            results.failed.append({"benchmark": case.name, "reason": reason})
            say(f"{case.name} failed: {reason}")
    return corpus


def _looked_at(found: Sequence[Case | Broken]) -> NDArray[np.int64]:
    """The numbers of the samples that temperatures are fitted on, or that are tested."""
    parts = [part.numbers for case in found if isinstance(case, Case) for part in (case.validation, case.test)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _finished(case: Case, one: Benchmark, part: Part, work: _Work, folder: Path) -> Result:
    """The result of a case: read, if it was finished with the same inputs; else run, scored and written."""
    task = importlib.import_module(f"medweave.evaluation.tasks.{one.task.kind}")
    setting = Setting(one, work.embedder, work.bank, work.recipe.seed, work.captions)
    inputs = _inputs(case, part, work, task, setting)
    path = folder / "result.json"
    if path.exists() and (folder / PREDICTIONS).exists() and read_json(path)["inputs"] == inputs:
        return dict(read_json(path))
    path.unlink(missing_ok=True)
    result = _run(case, one, part, work, task, setting, folder)
    result["inputs"] = inputs
    write_json(path, result)
    return result


def _run(
    case: Case, one: Benchmark, part: Part, work: _Work, task: ModuleType, setting: Setting, folder: Path
) -> Result:
    _check_images(case, one)
    answer: Answer = task.run(case, setting)
    calibration = _calibrated(case, answer, work)
    choices = answer.choices | {"temperature": calibration["temperature"]}
    truth = case.test.open(choices, work.ledger)
    predictions = _predictions(case, answer, calibration["temperature"], part, truth)
    predictions_.write(predictions, folder / PREDICTIONS)
    _check_classes(predictions, one)
    numbers = scoring.numbers(predictions, work.recipe.draws, work.recipe.seed)
    met = work.met.counts(case.test.numbers)
    return {
        "benchmark": case.name,
        "family": case.family,
        "source": case.source,
        "task": one.task.kind,
        "title": one.title or one.task.title,
        "model": work.encoder.name,
        "modality": case.modality,
        "anatomy": case.anatomy,
        "confounded": case.confounded,
        "positive": one.positive,
        "left_out": case.left_out,
        "fold": part.fold,
        **scoring.with_positive(numbers, one.positive),
        "in_domain": work.met.includes(case.test.numbers),
        "leaks": met["all"] if met else None,
        "leaks_by": met,
        "calibration": calibration,
        "choices": choices,
        "openings": work.ledger.count(case.test.data_hash),
        "published": one.published,
        "licence": one.licence,
    }


def _calibrated(case: Case, answer: Answer, work: _Work) -> dict[str, Any]:
    """The temperature from the validation part, or None with the reason.

    served: the temperature for the head's own probabilities, which `classify` gives; another one where a sigmoid head
    is scored on a single-label case.
    """
    reason = _no_temperature(case, answer, work)
    if answer.validation is None or reason is not None:
        return {"temperature": None, "served": None, "images": 0, "groups": 0, "reason": reason}
    known = answer.validation, case.validation.truth, case.validation.groups
    fitted, sigmoid = fit_temperature(*known, case.multi), work.encoder.head.kind == "sigmoid"
    served = fitted if case.multi == sigmoid else fit_temperature(*known, sigmoid)
    return fitted | {"served": served["temperature"]}


def _no_temperature(case: Case, answer: Answer, work: _Work) -> str | None:
    """Why no temperature can be fitted, if so."""
    if not answer.calibratable:
        return "scores are no log-odds"
    if answer.validation is None:
        return "the task trains on the validation part"
    learnt = work.met.learnt(case.validation.numbers)
    return f"{learnt} validation images are images that the model was trained on" if learnt else None


def _predictions(case: Case, answer: Answer, temperature: float | None, part: Part, truth: np.ndarray) -> Predictions:
    """Answer and truth side by side, at the precision in which they are kept."""
    scores = dict(answer.scores)
    if temperature is not None:
        scores[scoring.CALIBRATED] = next(iter(scores.values())) / temperature
    return Predictions(
        classes=case.classes,
        multi=case.multi,
        ids=case.test.ids,
        groups=case.test.groups,
        folds=np.full(len(case.test), part.fold or 0, np.int64),
        truth=truth,
        scores={name: values.astype(np.float32).astype(np.float64) for name, values in scores.items()},
        variants=answer.variants,
        calibratable=answer.calibratable,
    )


def _inputs(case: Case, part: Part, work: _Work, task: ModuleType, setting: Setting) -> dict[str, str]:
    """Hashes of all that a result depends on. Two results are comparable when `data` agrees."""
    recipe = {"benchmark": as_data(setting.benchmark), "part": as_data(part), "confounded": case.confounded}
    trained_on = without_places(work.encoder.facts.get("trained_on"))
    return {
        "data": case.test.data_hash,
        "labels": case.test.labels_hash,
        "corpus": work.corpus.hash,
        "weights": work.encoder.weights_hash,
        "preprocess": work.embedder.preprocess_hash,
        "recipe": hash_of([recipe, work.recipe.draws, work.recipe.seed, trained_on]),
        "code": code_version(),
        **work.corpus.overlay_hashes(part.overlay, work.recipe.labels),
        **task.inputs(case, setting),
    }


@cache
def code_version() -> str:
    """Version of Medweave and hash of the evaluation's code."""
    here = Path(__file__).parent
    code = b"".join(path.read_bytes() for path in sorted(here.rglob("*.py")))
    return f"{importlib.metadata.version('medweave')}+{hashlib.sha256(code).hexdigest()[:12]}"


def _check_images(case: Case, one: Benchmark) -> None:
    expected = one.expected
    if expected.images is not None and expected.images != len(case.test):
        raise UserError(f"expected {expected.images} test images, found {len(case.test)}", where=case.name)
    if expected.data is not None and expected.data != case.test.data_hash:
        raise UserError("the test images are not those of the benchmark (their hash differs)", where=case.name)


def _check_classes(predictions: Predictions, one: Benchmark) -> None:
    counts = dict(zip(predictions.classes, (predictions.truth == 1).sum(0).tolist(), strict=True))
    wrong = [
        f"{name}: {counts.get(name, 0)}, not {n}" for name, n in one.expected.classes.items() if counts.get(name) != n
    ]
    if wrong:
        raise UserError(f"test images of each class differ from the benchmark's: {'; '.join(wrong)}", where=one.name)


def _work(encoder: EncoderLike, corpus: Corpus, recipe: EvaluateRecipe, home: Path | None, met: Met) -> _Work:
    from medweave.corpus.captions.bank import Bank, shipped

    folder = recipe.cache or _cache_of(corpus)
    banks = recipe.banks if recipe.banks is not None else [*shipped(), *corpus.banks()]
    embedder = Embedder(encoder, corpus, folder, recipe.batch)
    ledger = Ledger(folder / "openings.jsonl")
    captions = training_bank(encoder.facts, corpus, home)
    return _Work(encoder, recipe, corpus, embedder, Bank.load(banks), ledger, met, captions)


def _cache_of(corpus: Corpus) -> Path:
    """cache/ inside a corpus on this machine; for one behind a URL, beside what is kept of it."""
    from medweave.corpus.remote import cache_folder

    return (corpus.path if isinstance(corpus.path, Path) else cache_folder() / corpus.hash) / "cache"


def _part(one: Benchmark, corpus: Corpus, recipe: EvaluateRecipe, trained: Trained) -> Part:
    """What the recipe says; else the fold that the model has not seen; else what the benchmark says.

    Raises RequestError when that is a test on images that the model was trained on.
    """
    trainings = trained.on(corpus)
    if recipe.data is not None:
        part = recipe.data
    elif trainings:
        part = trainings[0].part
    else:
        part = Part.model_validate(one.data.model_dump(exclude={"corpus", "source"}))
    check_unseen(part, trainings, one.data.source, one.name)
    return part


def _opened(one: Benchmark, given: Corpus | Path | str | None, encoder: EncoderLike) -> Corpus:
    """The corpus of a benchmark; where it leaves that open and nobody says, the one that the model was trained on."""
    from medweave.corpus.store import open_corpus

    wanted = one.data.corpus if one.data.corpus != "given" else given
    if wanted is None:
        wanted = (encoder.facts.get("trained_on") or {}).get("path")
    if wanted is None:
        raise RequestError(f"benchmark {one.name} needs a corpus", todo="give --corpus")
    return open_corpus(wanted) if isinstance(wanted, str | Path) else wanted


def _loaded(model: EncoderLike | Path | str) -> EncoderLike:
    if not isinstance(model, str | Path):
        return model
    from medweave.models.load import load

    return load(str(model))
