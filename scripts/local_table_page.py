"""What the runs of local_table.py say, as Markdown with SVG charts, JSON, and one HTML page a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from local_table_teachers import against_teachers  # beside this file

from medweave.corpus.captions.bank import PROMPT_KINDS
from medweave.corpus.store import Corpus
from medweave.evaluation import compare
from medweave.evaluation.results import load
from medweave.files import write_bytes, write_json
from medweave.reports import comparison
from medweave.reports.comparison import METRICS, Grid
from medweave.reports.page import number, with_interval
from medweave.training.run import Run

if TYPE_CHECKING:
    from local_table import Job, Table

Pooled = Mapping[str, Path]
ZERO_SHOT = "corpus-zero-shot"
CHOSEN = ("macro_auroc", "balanced_accuracy")


def write_page(
    table: Table, jobs: Sequence[Job], missing: Sequence[str], corpus: Corpus, pooled: Pooled, out: Path, command: str
) -> Path:
    """Write table.md, table.json, charts/ and the comparisons into `out`.

    jobs: of finished arms; missing: names of the others; pooled: arm -> folder of results; command: repeats it all.
    """
    compared = {one.name: _compared(one.columns, pooled) for one in table.comparisons}
    tables = {name: found for name, found in compared.items() if found is not None}
    validation, left_out = _validation(jobs, table.reference), _left_out(table, jobs, pooled)
    parts = ["# Results on a folder of labelled images", _facts(jobs, corpus, missing, command)]
    parts += [_comparison(c.name, c.title, tables[c.name], out) for c in table.comparisons if c.name in tables]
    teachers = against_teachers(table, jobs, pooled)
    if teachers is not None:
        parts.append(teachers[0])
    if validation:
        parts.append(_ablations(table.reference, validation))
    if left_out:
        parts.append(_zero_shot(left_out))
    parts.append(_not_counted(pooled))
    data = {
        "corpus": corpus.hash,
        "missing": list(missing),
        "minutes": {job.name: job.minutes for job in jobs},
        "comparisons": {name: found.as_data() for name, found in tables.items()},
        "teachers": teachers[1] if teachers is not None else [],
        "validation": validation,
        "left_out": left_out,
    }
    write_json(out / "table.json", data)
    write_bytes(out / "table.md", ("\n\n".join(parts) + "\n").encode())
    return out / "table.md"


def _compared(columns: Sequence[str], pooled: Pooled) -> compare.Comparison | None:
    """A comparison, or None while one of its arms is missing."""
    pairs = [column.partition("@") for column in columns]
    if any(arm not in pooled for arm, _, _ in pairs):
        return None
    return compare.compare([f"{pooled[arm]}@{family}" for arm, _, family in pairs])


def _facts(jobs: Sequence[Job], corpus: Corpus, missing: Sequence[str], command: str) -> str:
    """What was run on what, and how long it took."""
    took = [job.minutes for job in jobs if job.minutes is not None]
    lines = [
        f"Corpus: {len(corpus):,} images of {len(corpus.facts['counts'])} sources, hash `{corpus.hash[:16]}`. "
        f"Folds run: {len({job.fold for job in jobs})}. Command: `{command}`."
    ]
    if took:
        lines.append(f"Training a fold took {np.median(took):.1f} min (median; longest {max(took):.1f}).")
    if missing:
        lines.append(f"Not finished (run the same command again): {', '.join(missing)}.")
    return "\n".join(lines)


def _comparison(name: str, title: str, table: compare.Comparison, out: Path) -> str:
    """One comparison: means, differences, and every set with its chart."""
    comparison.write(table, out / f"{name}.html", title)
    parts = [f"## {title}", comparison.means(table).markdown() if table.sets else "No set was tested by all."]
    parts += [comparison.differences(table).markdown()] if table.sets else []
    for metric in comparison.measured(table):
        chart = _chart(out / "charts" / f"{name}-{metric}.svg", comparison.set_chart(table, metric))
        grid = comparison.every_set(table, metric).markdown()
        away = comparison.set_differences(table, metric).markdown()
        parts += [f"### Every set: {METRICS[metric]}", f"![{METRICS[metric]}](charts/{chart})", grid, away]
    parts += [f"Left out: {one['set']} ({one['reason']})" for one in table.left_out]
    note = "Intervals are 95 %. †: shortcut known. *: differs from the first, Holm-corrected p < 0.05. "
    return "\n\n".join([*parts, note + "Differences are paired; those of single sets are not corrected."])


def _chart(path: Path, svg: str) -> str:
    """Write a chart as a file on white ground; its name."""
    write_bytes(path, svg.replace('style="', 'style="background:#fff;', 1).encode())
    return path.name


def _validation(jobs: Sequence[Job], reference: str) -> dict[str, dict[int, dict[str, float]]]:
    """arm -> fold -> figures of the weights that were kept, on that fold's validation part.

    The reference is there as it was before its head finish, too. Specialists are left out: they answer for other sets.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    for job in jobs:
        trained = job.arm.train and job.arm.combine is None and job.arm.evaluate != "left out"
        trained = trained and job.recipe.train.modalities is None
        lines = list(Run(job.folder).log("validation")) if trained else []
        train = job.recipe.train
        chooses = train.keep == "best" and train.head_finish is None  # else the last line is of the weights kept
        kept = (Run(job.folder).facts.get("best") or {}).get("step") if chooses else None
        chosen = [line for line in lines if line["step"] == kept] or lines[-1:]
        if chosen:
            found.setdefault(job.arm.name, {})[job.fold] = {metric: chosen[0][metric] for metric in CHOSEN}
        if job.arm.name == reference and train.head_finish is not None and len(lines) > 1:
            before = {metric: lines[-2][metric] for metric in CHOSEN}
            found.setdefault(f"{reference} without head finish", {})[job.fold] = before
    return found


def _ablations(reference: str, validation: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Means over folds, and how far each arm is from the reference on the same folds."""
    rows = []
    for name, folds in validation.items():
        base = validation.get(reference, {})
        cells = []
        for metric in CHOSEN:
            known = {fold: figures[metric] for fold, figures in folds.items() if figures[metric] is not None}
            cells.append(number(float(np.mean(list(known.values()))) if known else None))
            paired = [fold for fold in known if fold in base and base[fold][metric] is not None]
            away = [known[fold] - base[fold][metric] for fold in paired]
            spread = f"{np.mean(away):+.3f} ({min(away):+.3f} to {max(away):+.3f})" if away else number(None)
            cells.append("" if name == reference else spread)
        rows.append([name, str(len(folds)), *cells])
    head = ["arm", "folds", *(cell for metric in CHOSEN for cell in (METRICS[metric], f"minus {reference}"))]
    note = (
        "Prompted; means over the sets of the validation part, then over folds (in brackets the lowest and the highest "
    )
    note += "fold). No test image was used."
    return "\n\n".join(["## Ablations, on validation", note, Grid(head, rows).markdown()])


def _left_out(table: Table, jobs: Sequence[Job], pooled: Pooled) -> list[dict[str, Any]]:
    """Each set left out of training: its figures, those of the reference that was trained on it, and the difference."""
    found = []
    for arm in {job.arm.name: job.arm for job in jobs if job.arm.evaluate == "left out"}.values():
        beside = _compared([f"{table.reference}@{ZERO_SHOT}", f"{arm.name}@{ZERO_SHOT}"], pooled)
        trained = {row["set"]: row["metrics"] for row in beside.sets} if beside else {}
        for result in load(pooled[arm.name]).results:
            facts = {key: result[key] for key in ("source", "n", "groups", "metrics", "chance", "leaks", "spread")}
            found.append({"arm": arm.name, **facts, "trained": trained.get(result["source"], {})})
    return found


def _zero_shot(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of sets left out of training: a line an arm and metric, the prompts of every kind apart as well."""
    cells = []
    for row in sorted(rows, key=lambda row: row["source"]):
        for metric in CHOSEN:
            if metric not in row["metrics"]:
                continue
            by_kind = row["spread"].get("prompt sets", {}).get(metric, {}).get("values", {})
            trained = row["trained"].get(metric, {}).get("values", [None])[0]
            figures = [with_interval(row["metrics"][metric]), *(number(by_kind.get(kind)) for kind in PROMPT_KINDS)]
            figures += [number(row["chance"][metric]), with_interval(trained)]
            cells.append([row["source"], row["arm"], METRICS[metric], str(row["n"]), *figures])
    head = ["set", "arm", "metric", "images", "zero-shot", *(f"{kind} prompts" for kind in PROMPT_KINDS), "guessing"]
    note = "These sets are left out of training; all their images are then scored by prompts: zero-shot."
    return "\n\n".join(["## Sets left out of training", note, Grid([*head, "trained on it"], cells, text=3).markdown()])


def _not_counted(pooled: Pooled) -> str:
    """What is in no mean, and why; test images met in training."""
    lines = []
    for arm, folder in pooled.items():
        results = load(folder)
        lines += [f"- {arm}: {one['benchmark']} failed: {one['reason']}" for one in results.failed]
        lines += [f"- {arm}: {one['benchmark']} was skipped: {one['reason']}" for one in results.skipped]
        for one in results.results:
            few = [f"classes of fewer than three groups: {', '.join(one['not_counted'])}"] if one["not_counted"] else []
            few += [f"no interval: {one['no_interval']}"] if one["no_interval"] else []
            few += [f"{one['left_out']} images without a full label"] if one["left_out"] else []
            few += [f"{one['leaks']} test images have a near copy in training"] if one["leaks"] else []
            lines += [f"- {arm}, {one['benchmark']}: {'; '.join(few)}"] if few else []
    return "\n\n".join(["## Not counted", "\n".join(lines) or "Nothing."])
