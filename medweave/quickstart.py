"""The whole way in minutes, on phantoms: build, check the split, train, evaluate, report, classify one image.

The phantoms are simulated, so nothing is downloaded and the truth is known. A logistic regression on a 32-bin histogram
of each image is scored beside the model: where that does well, brightness alone tells the finding.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import medweave
from medweave.corpus.store import Corpus
from medweave.errors import UserError
from medweave.evaluation.baselines import Histogram
from medweave.evaluation.results import Results
from medweave.progress import say
from medweave.reports.run import write_report
from medweave.training.recipe import read, section

RECIPE = Path(str(files("medweave"))) / "quickstart.yaml"


def run(out: Path) -> str:
    """Do it all in the folder `out` and return the last lines for the user. Resumable: run it again after a stop."""
    recipe = read(RECIPE, [f"corpus.path={out / 'corpus'}", f"train.run={out / 'run'}"])
    tests = section(recipe, "evaluate")
    say("1/5  building a corpus of phantoms")
    corpus = medweave.build(section(recipe, "corpus"))
    check_split(corpus)
    say("2/5  training")
    run_folder = medweave.train(recipe).path
    say("3/5  evaluating on unseen patients")
    results = medweave.evaluate(str(run_folder), None, corpus, run_folder / "evaluations", recipe=tests)
    baseline = medweave.evaluate(Histogram(), ["corpus-probe"], corpus, out / "histogram", recipe=tests)
    say("4/5  writing the report")
    report = _report(out, results, baseline, corpus, run_folder)
    say("5/5  classifying one test image")
    answer = classify_one(run_folder, corpus, out)
    return f"{results.text()}\n\n{answer}\n\nReport: {report}"


def check_split(corpus: Corpus) -> None:
    """No patient may be on two sides. Raises UserError naming one that is."""
    table = corpus.index(["patient", "split"])
    sides: dict[str, str] = {}
    for patient, side in zip(table["patient"].to_pylist(), table["split"].to_pylist(), strict=True):
        if patient is not None and sides.setdefault(patient, side) != side:
            raise UserError(f"patient {patient} is on two sides of the split", where=corpus.path)
    counts = {side: list(sides.values()).count(side) for side in ("train", "validation", "test")}
    say("     patients: " + ", ".join(f"{n} {side}" for side, n in counts.items()) + "; none on two sides")


def classify_one(model: Path, corpus: Corpus, out: Path) -> str:
    """Write the first test image to a file and ask the model what it shows."""
    from medweave.corpus.captions.bank import Bank
    from medweave.models.load import load
    from medweave.serving.classify import classify, prompts_for

    table = corpus.index(["split", "modality", "anatomy", "format", "findings"]).to_pylist()
    number = next(i for i, row in enumerate(table) if row["split"] == "test")
    row = table[number]
    image = out / f"example.{row['format']}"
    image.write_bytes(corpus.read(number))
    findings = sorted({f["name"] for f in row["findings"]})
    answer = classify(load(str(model)), [image], prompts_for(Bank.load(), row["modality"], row["anatomy"], findings))[0]
    truth = ", ".join(f["name"] for f in row["findings"] if f["state"] == "present")
    lines = [f"  {p:6.1%}  {name}" for name, p in zip(answer.findings, answer.probabilities, strict=True)]
    return "\n".join([f"{image} ({row['modality']}, {row['anatomy']}), which shows: {truth}", *lines])


def _report(out: Path, results: Results, baseline: Results, corpus: Corpus, run_folder: Path) -> Path:
    return write_report(
        out / "report.html",
        results,
        corpus,
        title="Medweave quickstart: one model for eight simulated modalities",
        about="Simulated images with known truth. One image-text model was trained on captions for findings and is "
        "tested here on patients it has not seen.",
        run=run_folder,
        baseline=baseline,
    )
