"""What a task said of every test image, beside the truth: enough to compute every metric again, and kept as Parquet.

Columns: id, group, fold, truth (list of C: 1, 0, -1), and `scores.NAME` (list of C) for each set of scores. The first
set is the answer; the others are variants (one prompt set, one few-shot draw), named in the file's metadata.

Scores are logits: softmax over the classes (single-label) or a sigmoid each (multi-label, where `calibratable`) makes
them probabilities. n images, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp

from medweave.errors import UserError
from medweave.evaluation.metrics import Scored
from medweave.evaluation.statistics import counted_classes
from medweave.files import whole_file

META = b"medweave"


@dataclass(frozen=True)
class Predictions:
    """Scores and truth of one case. ids, groups, folds: [n]; truth: [n, C]; scores: name -> logits [n, C].

    variants: title -> names of the score sets whose mean and spread are reported. calibratable: scores are log-odds.
    """

    classes: list[str]
    multi: bool
    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    folds: NDArray[np.int64]
    truth: NDArray[np.int8]
    scores: dict[str, NDArray[np.float64]]
    variants: dict[str, list[str]] = field(default_factory=dict)
    calibratable: bool = True

    @property
    def answer(self) -> str:
        """The name of the first score set."""
        return next(iter(self.scores))

    def scored(self, name: str) -> Scored:
        """One score set, ready for metrics."""
        logits = self.scores[name]
        single = not self.multi
        return Scored(
            classes=self.classes,
            truth=self.truth,
            ranking=one_against_rest(logits) if single else logits,
            probability=probabilities(logits, self.multi) if single or self.calibratable else None,
            folds=self.folds,
            multi=self.multi,
            counted=counted_classes(self.truth, self.groups),
        )

    def take(self, rows: NDArray) -> Predictions:
        """The images at `rows` (numbers or a mask), in that order."""
        scores = {name: values[rows] for name, values in self.scores.items()}
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("ids", "groups", "folds", "truth")}
        return replace(self, scores=scores, **parts)


def probabilities(logits: NDArray[np.float64], multi: bool) -> NDArray[np.float64]:
    """Logits [n, C] as probabilities: softmax over the classes, or a sigmoid each."""
    return expit(logits) if multi else np.exp(log_softmax(logits, axis=1))


def one_against_rest(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of each class against all others, [n, C]: ranks as softmax does, but never saturates into ties."""
    classes = logits.shape[1]
    rest = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(classes)]
    return logits - np.stack(rest, 1)


def write(predictions: Predictions, path: Path) -> None:
    """Write one case's predictions as Parquet, whole or not at all."""
    columns: dict[str, Any] = {
        "id": pa.array(predictions.ids.tolist()),
        "group": pa.array(predictions.groups.tolist()),
        "fold": pa.array(predictions.folds),
        "truth": _lists(predictions.truth, pa.int8()),
    }
    for name, values in predictions.scores.items():
        columns[f"scores.{name}"] = _lists(values, pa.float32())
    facts = {"classes": predictions.classes, "multi": predictions.multi, "variants": predictions.variants}
    facts["calibratable"] = predictions.calibratable
    table = pa.table(columns).replace_schema_metadata({META: json.dumps(facts).encode()})
    with whole_file(path) as draft:
        pq.write_table(table, draft)


def read(path: Path) -> Predictions:
    """The predictions of one case. Raises UserError when the file is missing or none of ours."""
    try:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[META])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError):
        raise UserError("no predictions of an evaluation", where=path, todo="evaluate the model again") from None
    names = [name for name in table.column_names if name.startswith("scores.")]
    return Predictions(
        ids=_text(table, "id"),
        groups=_text(table, "group"),
        folds=table["fold"].to_numpy(),
        truth=_matrix(table["truth"], np.int8),
        scores={name.removeprefix("scores."): _matrix(table[name], np.float64) for name in names},
        **facts,
    )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Folds of one case as one; every image must be tested once. Raises UserError when classes or images disagree."""
    first = parts[0]
    if any((p.classes, p.multi, p.answer) != (first.classes, first.multi, first.answer) for p in parts):
        raise UserError("the folds have different classes", todo="evaluate all folds with one recipe")
    ids = np.concatenate([p.ids for p in parts])
    if len(np.unique(ids)) < len(ids):
        raise UserError("an image is tested in two folds", todo="pool each fold once")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(p, name) for p in parts]) for name in ("groups", "folds", "truth")
    }
    common = [name for name in first.scores if all(name in p.scores for p in parts)]
    scores = {name: np.concatenate([p.scores[name] for p in parts]) for name in common}
    return replace(first, ids=ids, scores=scores, **columns)


def _lists(values: NDArray, kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), values.shape[1])


def _matrix(column: pa.ChunkedArray, kind: Any) -> NDArray:
    width = column.type.list_size
    return column.combine_chunks().flatten().to_numpy().astype(kind).reshape(-1, width)


def _text(table: pa.Table, name: str) -> NDArray[np.str_]:
    return table[name].to_numpy(zero_copy_only=False).astype(str)
