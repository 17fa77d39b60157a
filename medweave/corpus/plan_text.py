"""A plan as a page of plain text: what `build --dry-run` shows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from medweave.corpus import columns
from medweave.corpus.licences import MEANING
from medweave.corpus.recipe import SIDES
from medweave.corpus.sample import State

if TYPE_CHECKING:
    from medweave.corpus.make_shard import Cost
    from medweave.corpus.plan import Crowd, Plan

WIDTH = 120
FEW = 12  # lines of a list that may be long
LETTERS = 20  # most that is shown of a patient's name


def dry_run_text(plan: Plan, cost: Cost) -> str:
    """The plan for a person: counts, classes by split, groups, licences, disk, time, and what stays outside."""
    out = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False)
    out.print(_summary(plan, cost))
    for line in warnings_of(plan):
        out.print(f"\n{line}")
    out.print(_sources(plan))
    out.print(_classes(plan))
    for part in (_folds, _groups, _thin, _licences, _refused, _unmapped, _skipped):
        table = part(plan)
        if table is not None:
            out.print(table)
    return out.file.getvalue()  # type: ignore[attr-defined]


def warnings_of(plan: Plan) -> list[str]:
    """A line for each source in which single patients have very many images."""
    return [_warning(crowd) for crowd in plan.crowds]


def _warning(crowd: Crowd) -> str:
    name = crowd.patient if len(crowd.patient) <= LETTERS else f"{crowd.patient[:LETTERS]}…"
    more = f"; {crowd.patients - 1:,} more patients are above groups.largest_share too" if crowd.patients > 1 else ""
    return (
        f"WARNING: the patient {name!r} has {crowd.images:,} of the {crowd.of:,} images of {crowd.source} "
        f"({crowd.images / crowd.of:.0%}), all on one side of the split{more}. "
        f"If this is no person, give the source values: {{patient: {{{name}: null}}}}"
    )


def _summary(plan: Plan, cost: Cost) -> str:
    files = "" if plan.bytes is None else f" (the files have {plan.bytes / 1e6:,.1f} MB)"
    old = f" beside {plan.old:,} that are there already" if plan.old else ""
    return (
        f"{len(plan.table):,} images to build into {plan.recipe.path}{old}: {plan.groups:,} groups, "
        f"{plan.near:,} near-duplicate pairs.\n"
        f"About {cost.bytes / 1e6:,.1f} MB on disk{files}, about {_span(cost.seconds)} to build.\n"
        f"{len(plan.skipped):,} skipped, {sum(plan.refused.values()):,} refused by licence, "
        f"{len(plan.unmapped):,} labels that the vocabulary does not know."
    )


def _span(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> Table:
    """A table whose last `numbers` columns are numbers."""
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        right = place >= len(heads) - numbers
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


def _sources(plan: Plan) -> Table:
    counts = Counter(zip(*(plan.table[c].to_pylist() for c in ("source", "modality", "split")), strict=True))
    pairs = dict.fromkeys((source, modality) for source, modality, _ in counts)
    rows = [
        (s, m, *(counts[s, m, side] for side in SIDES), sum(counts[s, m, side] for side in SIDES)) for s, m in pairs
    ]
    return _table("\nSources", ("source", "modality", *SIDES, "images"), rows, numbers=4)


def _classes(plan: Plan) -> Table:
    source, names = columns.numbers(plan.table["source"])
    side = columns.codes(plan.table["split"], SIDES)
    row, finding, findings = columns.labels(plan.table, State.PRESENT)
    keys, counts = np.unique(np.stack([source[row], finding, side[row]]), axis=1, return_counts=True)
    cells = {(int(s), int(f), int(d)): int(n) for (s, f, d), n in zip(keys.T, counts, strict=True)}
    rows = [
        (names[s], findings[f], *(cells.get((s, f, d), 0) for d in range(len(SIDES))))
        for s, f in dict.fromkeys((s, f) for s, f, _ in cells)
    ]
    return _table("\nFindings present", ("source", "finding", *SIDES), rows, numbers=3)


def _folds(plan: Plan) -> Table | None:
    if plan.folds is None:
        return None
    counts = Counter(plan.folds["fold"].to_pylist())
    return _table("\nFolds", ("fold", "images"), [(str(fold), counts[fold]) for fold in sorted(counts)], numbers=1)


def _groups(plan: Plan) -> Table | None:
    if not plan.largest:
        return None
    rows = [(group.name, ", ".join(group.sources), group.images) for group in plan.largest]
    return _table("\nLargest groups", ("group", "sources", "images"), rows, numbers=1)


def _thin(plan: Plan) -> Table | None:
    if not plan.thin:
        return None
    title = "\nIn fewer than three groups: not in every part of a split, no fair score"
    return _table(title, ("source", "finding", "images", "groups"), plan.thin, numbers=2)


def _licences(plan: Plan) -> Table:
    counts = Counter(plan.table["licence_class"].to_pylist())
    rows = [(name, MEANING[name], count) for name, count in counts.most_common()]
    return _table("\nLicences taken in", ("class", "allows", "images"), rows, numbers=1)


def _refused(plan: Plan) -> Table | None:
    if not plan.refused:
        return None
    rows = [(r.source, r.licence_class, r.licence or "none stated", n) for r, n in plan.refused.most_common()]
    title = "\nRefused by licence: name the class, or the source, in accept to take them in"
    return _table(title, ("source", "class", "the owner's words", "images"), rows, numbers=1)


def _unmapped(plan: Plan) -> Table | None:
    if not plan.unmapped:
        return None
    rows = [
        (label.label, label.modality, label.anatomy or "", " or ".join(near) or "nothing near", count)
        for label, (count, near) in plan.unmapped.items()
    ]
    title = (
        "\nNot in the vocabulary, kept in the owner's words: map them in values.labels, or name them in corpus.findings"
    )
    return _table(title, ("label", "modality", "anatomy", "nearest", "images"), rows, numbers=1)


def _skipped(plan: Plan) -> Table | None:
    if not plan.skipped:
        return None
    rest = len(plan.skipped) - FEW
    more = f" (the first {FEW} of {len(plan.skipped):,}; the build lists all in skipped.parquet)" if rest > 0 else ""
    rows = [(s.item, s.reason, s.remedy) for s in plan.skipped[:FEW]]
    return _table(f"\nSkipped{more}", ("item", "reason", "remedy"), rows)
