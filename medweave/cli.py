"""The command line: one verb a stage. Parses, calls, prints; every heavy import waits for the command that needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medweave import __version__
from medweave.errors import RequestError, UserError
from medweave.progress import say

app = typer.Typer(
    name="medweave",
    help="Medical images, their text and the knowledge of many models, woven into one image-text model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe (YAML)")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="a.b=c", help="values that replace those of the recipe", show_default=False),
]
CorpusPlace = Annotated[str, typer.Argument(metavar="CORPUS", help="folder or URL of a built corpus")]
MODELS = "run or model folder, hf-hub:owner/name, open_clip:ARCH/TAG, transformers:NAME, timm:NAME, teacher:NAME"
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help=MODELS)]
SHOWN = 20  # unreadable files that are named
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def _version(asked: bool) -> None:
    """Print the version, and end."""
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What may stand before a verb."""


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="folder for corpus, run and report")] = Path("quickstart"),
) -> None:
    """Phantoms to a proven model: build, check, train, evaluate, report, classify one image."""
    from medweave.quickstart import run

    print(run(out))


@app.command()
def build(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, build nothing")] = False,
) -> None:
    """Sources to a corpus: images, texts and findings in tar shards with an index."""
    from medweave.corpus.build import build as build_corpus
    from medweave.corpus.build import dry_run as plan_text
    from medweave.corpus.info import info_text
    from medweave.training.recipe import read, section

    corpus_recipe = section(read(recipe, overrides or ()), "corpus", recipe)
    if dry_run:
        print(plan_text(corpus_recipe))
        return
    corpus = build_corpus(corpus_recipe)
    print(info_text(corpus.path))


@app.command()
def info(corpus: CorpusPlace, as_json: Json = False) -> None:
    """What is in a corpus: counts, licences, groups, what was skipped."""
    from medweave.corpus.info import info_text
    from medweave.corpus.store import open_corpus

    print(json.dumps(open_corpus(corpus).facts, indent=2) if as_json else info_text(corpus))


@app.command()
def preview(
    corpus: CorpusPlace,
    out: Annotated[Path | None, typer.Option(help="HTML file; preview.html in the corpus, here for a URL")] = None,
    count: Annotated[int, typer.Option(min=1, help="images shown")] = 120,
    seed: Annotated[int, typer.Option(help="seed of the choice")] = 0,
) -> None:
    """A contact sheet of a corpus with captions, as one HTML page."""
    from medweave.reports.preview import preview as write_preview

    print(write_preview(corpus, out, count, seed))


@app.command()
def features(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="folder of a built corpus")],
    teacher: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]MODEL",
            help=f"model whose rows are stored, under its own name or another; may be repeated: {MODELS}",
        ),
    ],
    views: Annotated[int, typer.Option(min=0, help="augmented views of each image, besides the whole one")] = 0,
    resize: Annotated[
        str, typer.Option(help="how views become squares: pad, crop or squash, as the student's")
    ] = "pad",
    int8: Annotated[bool, typer.Option("--int8", help="eight bits a number instead of sixteen")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one a core, or one that uses a GPU")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="delete rows of another model, or other views, under that name")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(metavar="OVERLAY", help="corrected labels, as train.labels: their captions get rows")
    ] = None,
    bank: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="caption bank, as train.captions.banks, to get rows too; may be repeated"),
    ] = None,
) -> None:
    """Corpus and teachers to stored rows, and where each is trusted; the same command goes on where it stopped."""
    from medweave.features.run import run

    status = 0
    outcomes = run(
        corpus,
        teacher,
        views,
        resize,
        int8=int8,
        workers=workers,
        replace=replace,
        labels=labels,
        banks=bank or (),
    )
    for outcome in outcomes:
        tell = say if outcome.status else print
        tell(outcome.text)
        status = max(status, outcome.status)
    if status:
        raise typer.Exit(status)


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Corpus to a run: train the model of a recipe; the same command again goes on where it stopped."""
    from medweave.training.loop import train as train_model
    from medweave.training.recipe import read

    print(train_model(read(recipe, overrides or ())).path)


@app.command()
def evaluate(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODELS)] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="evaluate.a.b=c",
            help="values that replace those of the run's recipe, or the defaults for a model without one",
            show_default=False,
        ),
    ] = None,
    benchmark: Annotated[list[str] | None, typer.Option(help="benchmark by name or path; may be repeated")] = None,
    corpus: Annotated[str | None, typer.Option(help="folder or URL of the corpus to test on")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of results; MODEL/evaluations if MODEL is a folder")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="list the shipped benchmarks")] = False,
    as_json: Json = False,
) -> None:
    """Model and benchmarks to results: metrics with intervals, predictions, a report."""
    from medweave.evaluation.benchmark import listing
    from medweave.evaluation.evaluate import evaluated, recipe_of

    if list_all:
        print(listing())
        return
    if model is None:
        raise RequestError("no model to evaluate", todo="name a run folder, or another model (see --help)")
    from medweave.reports.run import write_evaluation

    recipe = recipe_of(Path(model), overrides or ())
    results, tested = evaluated(model, benchmark, corpus, out, recipe)
    print(json.dumps(results.as_data(), indent=2) if as_json else results.text(), flush=True)
    page = write_evaluation(results, tested, Path(model) if Path(model).is_dir() else None)
    if page is not None:
        say(f"report: {page}")
    if results.failed:
        raise typer.Exit(1)


@app.command()
def pool(
    folds: Annotated[list[Path], typer.Argument(metavar="FOLDERS", help="folders of results, one a fold")],
    out: Annotated[Path, typer.Option(help="folder of the pooled results")],
    name: Annotated[str | None, typer.Option(help="of the pooled model in tables; the name of the folder")] = None,
    corpus: Annotated[str | None, typer.Option(help="folder or URL of the corpus, for a report")] = None,
    as_json: Json = False,
) -> None:
    """Results of the folds of one model to one result: every image tested once."""
    from medweave.evaluation.pool import pool as pool_results

    results = pool_results(folds, out, name)
    print(json.dumps(results.as_data(), indent=2) if as_json else results.text(), flush=True)
    if corpus is not None and results.results:
        from medweave.reports.run import write_evaluation

        say(f"report: {write_evaluation(results, corpus, None)}")
    if results.failed:
        raise typer.Exit(1)


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS", help="folders of results, one a model")],
    out: Annotated[Path | None, typer.Option(help="HTML page of the comparison")] = None,
    draws: Annotated[
        int, typer.Option(min=100, help="bootstrap draws behind intervals and p values; many tests get more for p")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Several models' results to one table with paired differences."""
    from medweave.evaluation.compare import compare as compare_results

    table = compare_results(results, draws)
    print(json.dumps(table.as_data(), indent=2) if as_json else table.text())
    if out is not None:
        from medweave.reports.comparison import write

        say(f"page: {write(table, out)}")


@app.command()
def classify(
    model: ModelName,
    images: Annotated[list[Path], typer.Argument(help="image files or folders of them")],
    modality: Annotated[str | None, typer.Option(help="modality of the images; the only one of the model's")] = None,
    anatomy: Annotated[str | None, typer.Option(help="body part; the only one that the model has for it")] = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="candidate; may be repeated; all that the model was trained on")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="a candidate in your own words; may be repeated")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which finding does each image look most like? Probabilities of the candidates; no diagnosis."""
    from medweave.models.load import load
    from medweave.serving.classify import as_data, as_text
    from medweave.serving.classify import classify as answer
    from medweave.serving.question import question

    encoder = load(model)
    asked = question(encoder, modality, anatomy, finding or (), prompt or ())
    answers, kind = answer(encoder, images, asked.prompts, asked.calibration), encoder.head.kind
    print(json.dumps(as_data(answers, asked, kind), indent=2) if as_json else as_text(answers, asked, kind))
    _tell_unreadable([f"{a.image}: {a.problem}" for a in answers if a.problem is not None])


@app.command()
def embed(
    model: ModelName,
    inputs: Annotated[list[str], typer.Argument(help="image files or folders; with --text, the texts themselves")],
    out: Annotated[Path, typer.Option(help="Parquet file of rows")] = Path("rows.parquet"),
    text: Annotated[bool, typer.Option("--text", help="embed the arguments as texts")] = False,
) -> None:
    """Unit rows of images or texts, as a Parquet file; files that cannot be read are listed beside it."""
    from medweave.models.load import load
    from medweave.serving.embed import embed_images, embed_texts, skipped_file

    encoder = load(model)
    if text:
        print(f"{embed_texts(encoder, inputs, out)} rows of width {encoder.dim} in {out}")
        return
    count, unreadable = embed_images(encoder, [Path(i) for i in inputs], out)
    print(f"{count} rows of width {encoder.dim} in {out}")
    if unreadable:
        say(f"{len(unreadable)} files cannot be read, listed in {skipped_file(out)}")
    _tell_unreadable([f"{file.path}: {file.error}" for file in unreadable])


@app.command()
def export(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="new folder")],
    repository: Annotated[str, typer.Option("--as", metavar="OWNER/NAME", help="name that it will have on the hub")],
) -> None:
    """Copy a model as stock open_clip fetches it from the hub: weights, tokenizer, card, no place of this machine."""
    from medweave.models.folder import export as write_export
    from medweave.models.public import model_folder

    write_export(model_folder(model), out, repository)
    print(f"{out}: upload it as {repository}, then load hf-hub:{repository}")


@app.command()
def teachers(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="teacher, or a card of your own (YAML)")] = None,
    folder: Annotated[Path | None, typer.Option(help="local copy to check; the one found here if not given")] = None,
    as_json: Json = False,
) -> None:
    """Teachers of the catalogue; with a name: its card, how to get it, and whether the copy here is right."""
    from medweave.models.teachers import about
    from medweave.models.teachers.catalogue import card, cards

    if name is None:
        print(json.dumps(about.listing(cards().values()), indent=2) if as_json else about.table(cards().values()))
        return
    known = card(name)
    if not as_json:
        print(about.card_text(known))
    copy = about.checked(known, folder)
    print(json.dumps(about.card_data(known, copy), indent=2) if as_json else about.copy_text(known, copy))
    if copy is not None and copy.problem is not None:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Check this machine: versions, cores, memory, GPU, offline towers, and say what to do about what is missing."""
    from medweave.doctor import checks

    rows = checks()
    for row in rows:
        print(f"{row.state:4}  {row.what}: {row.found}" + (f"; {row.todo}" if row.todo else ""))
    if any(row.state == "FAIL" for row in rows):
        raise typer.Exit(1)


def _tell_unreadable(lines: list[str]) -> None:
    """The first unreadable files and their reasons; the exit status is then 1."""
    for line in lines[:SHOWN]:
        say(line)
    if len(lines) > SHOWN:
        say(f"and {len(lines) - SHOWN} more")
    if lines:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; what a user can cause becomes one line and an exit status, never a traceback."""
    try:
        app()
    except UserError as error:
        say(f"medweave: {error}")
        sys.exit(error.status)
    except KeyboardInterrupt:
        say("medweave: interrupted; the same command goes on where it stopped")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        say(f"medweave: {_of_system(error)}")
        sys.exit(1)


def _of_system(error: OSError) -> str:
    """What the operating system refused, and the file; of a rename, the one that was to be written."""
    file = error.filename2 or error.filename
    return f"{error.strerror}: {file}" if file is not None else str(error)
