"""The facts of a built corpus as text for a terminal: what is in it, how it is split, what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medweave.corpus.recipe import SIDES
from medweave.corpus.sample import State
from medweave.corpus.store import Corpus, open_corpus

MOST = 20  # lines of a list that can grow without end


def info_text(path: Path | str) -> str:
    """All sections as one text. Raises RequestError where no corpus is built."""
    corpus = open_corpus(path)
    facts = corpus.facts
    groups: Counter[str] = Counter()
    findings: Counter[tuple[str, str, str]] = Counter()
    for batch in corpus.batches(["group", "split", "modality", "findings"]):
        for group, split, modality, listed in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            groups[group] += 1
            findings.update((modality, f["name"], split if f["state"] == State.PRESENT else f["state"]) for f in listed)
    parts = [
        _head(corpus, groups),
        _section("Images", _sources(facts["counts"])),
        _section(
            "Findings (images where it is present, by split; where it is said to be absent or uncertain)",
            _findings(findings),
        ),
        _section("Licences", _licences(facts["licences"])),
        _section("Largest groups (images of one patient, or near-duplicates)", _largest(groups)),
        _section("Too few groups to be in training, validation and test", _thin(facts["thin"])),
        _section("Labels that the vocabulary does not know", _unmapped(facts["unmapped"])),
        _section("Refused by licence", _refused(facts["refused"])),
        _section("Skipped", _skipped(corpus)),
    ]
    return "\n\n".join(part for part in parts if part)


def table(rows: Sequence[Sequence[Any]], numbers: Iterable[int] = ()) -> list[str]:
    """Rows as lines of aligned columns; the columns in `numbers` to the right, with thousands apart."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    right, columns = set(numbers), []
    for place, column in enumerate(zip(*cells, strict=True)):
        width = max(map(len, column))
        columns.append([cell.rjust(width) if place in right else cell.ljust(width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _head(corpus: Corpus, groups: Counter[str]) -> str:
    gone = len(corpus.withdrawn())
    size = sum(shard["bytes"] for shard in corpus.shards) / 2**20
    lines = [
        f"Corpus {corpus.path}",
        f"{len(corpus):,} images in {len(groups):,} groups from {len(corpus.facts['counts']):,} sources"
        + (f", {gone:,} of them withdrawn" if gone else ""),
        f"{len(corpus.shards):,} shards, {size:,.1f} MiB; content {corpus.hash[:16]}",
        f"captions from {', '.join(corpus.facts['banks']) or 'no bank'}"
        + ("; findings of its own in findings.yaml" if corpus.facts.get("findings") else ""),
    ]
    return "\n".join(lines)


def _sources(counts: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    rows: list[list[Any]] = [
        [source, modality, *(splits.get(side, 0) for side in SIDES), sum(splits.values())]
        for source, modalities in counts.items()
        for modality, splits in modalities.items()
    ]
    total = ["all", "", *(sum(row[column] for row in rows) for column in range(2, 6))]
    return table([["source", "modality", *SIDES, "all"], *rows, total], numbers=range(2, 6))


def _findings(findings: Counter[tuple[str, str, str]]) -> list[str]:
    """findings: (modality, name, split where it is present, else its state) -> images."""
    named: dict[tuple[str, str], None] = {(modality, name): None for modality, name, _ in sorted(findings)}
    columns = [*SIDES, State.ABSENT, State.UNCERTAIN]
    rows = [[modality, name, *(findings[modality, name, column] for column in columns)] for modality, name in named]
    return table([["modality", "finding", *columns], *rows], numbers=range(2, 7)) if rows else []


def _licences(licences: Sequence[dict[str, Any]]) -> list[str]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry in licences:
        counts[entry["licence_class"], entry["licence"] or "not stated"] += entry["samples"]
    return table([[kind, count, words] for (kind, words), count in sorted(counts.items())], numbers=[1])


def _largest(groups: Counter[str]) -> list[str]:
    return table([[count, name] for name, count in groups.most_common(5) if count > 1], numbers=[0])


def _thin(thin: Sequence[dict[str, Any]]) -> list[str]:
    return _first(
        table([[t["source"], t["finding"], t["images"], "images", t["groups"], "groups"] for t in thin], [2, 4])
    )


def _unmapped(unmapped: Sequence[dict[str, Any]]) -> list[str]:
    rows = [[u["samples"], u["label"], u["modality"], u["anatomy"] or "", _near(u)] for u in unmapped]
    return _first(table(sorted(rows, key=lambda row: -row[0]), numbers=[0]))


def _near(unmapped: dict[str, Any]) -> str:
    """The nearest names of a label; a corpus of an earlier version holds none."""
    return f"nearest: {' or '.join(unmapped['nearest']) or 'none'}" if "nearest" in unmapped else ""


def _refused(refused: Sequence[dict[str, Any]]) -> list[str]:
    rows = [[r["samples"], r["source"], r["licence_class"], r["licence"] or "not stated"] for r in refused]
    return _first(table(rows, numbers=[0]))


def _skipped(corpus: Corpus) -> list[str]:
    rows = corpus.skipped().to_pylist()
    lines = [f"{row['item']}: {row['reason']}; {row['remedy']}" for row in rows]
    return _first(lines, "in skipped.parquet")


def _first(lines: list[str], where: str = "in corpus.json") -> list[str]:
    more = len(lines) - MOST
    return [*lines[:MOST], f"and {more:,} more {where}"] if more > 0 else lines


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""
