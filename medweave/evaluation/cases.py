"""A benchmark meets a corpus: the cases that are scored, each with its images, classes and a sealed test part.

A case is single-label when no image shows two classes and some images are known for all of them; images that are not
known for all classes are then left out and counted. Otherwise it is multi-label: each label is ranked over the images
where it is known, and there is no arg-max. Both are decided on the source's whole data, so that folds agree.

n images, C classes. Truth: 1 present, 0 absent, -1 unknown or uncertain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medweave.errors import UserError
from medweave.evaluation.benchmark import Benchmark, ClassRecipe
from medweave.evaluation.parts import check_test_split, roles
from medweave.evaluation.recipe import Part
from medweave.evaluation.sealed import Sealed

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

COLUMNS = ["id", "source", "modality", "anatomy", "group", "findings", "sha256"]


@dataclass(frozen=True)
class Items:
    """Images of one part. numbers, ids, groups, sha256: [n]; truth: [n, C]."""

    numbers: NDArray[np.int64]
    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    sha256: NDArray[np.str_]
    truth: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: NDArray) -> Items:
        """The images at `rows` (numbers or a mask)."""
        return Items(self.numbers[rows], self.ids[rows], self.groups[rows], self.sha256[rows], self.truth[rows])


@dataclass(frozen=True)
class Case:
    """One source (or modality) of a benchmark, ready to be scored.

    modality, anatomy: the most common of its images. left_out: test images without a full label.
    """

    name: str
    family: str
    source: str
    modality: str
    anatomy: str | None
    classes: list[str]
    multi: bool
    train: Items
    validation: Items
    test: Sealed
    left_out: int
    confounded: bool


@dataclass(frozen=True)
class Broken:
    """A case that could not be made, and why. skipped: nobody asked for it by name, so it is no failure."""

    name: str
    reason: str
    skipped: bool = False


class NotScorable(UserError):
    """The data, or one fold of them, cannot show how good a model is: nothing labelled, or nothing to tell apart."""


def cases(
    benchmark: Benchmark, corpus: Corpus, part: Part, confounded: Collection[str] = ()
) -> Iterator[Case | Broken]:
    """The cases of a benchmark, in order of name. With `each`, sources with fewer than two classes are passed over."""
    check_test_split(corpus, part)
    for case in cases_by_role(benchmark, corpus, roles(corpus, part)):
        if isinstance(case, Case):
            case = replace(case, confounded=bool({case.name, case.source} & {*confounded, *benchmark.confounded}))
        yield case


def cases_by_role(
    benchmark: Benchmark, corpus: Corpus, role: NDArray[np.str_], sealed: bool = True
) -> Iterator[Case | Broken]:
    """The cases of a benchmark when each sample has the given role, [samples]. sealed: a case needs test images."""
    table = corpus.index(COLUMNS)
    for name, rows in _split_up(benchmark, table):
        classes = _classes(benchmark, table, rows)
        if benchmark.each and len(classes) < 2:
            continue
        try:
            case = _case(benchmark, name, table.take(pa.array(rows)), rows, role[rows], classes)
            if sealed and len(case.test) == 0:
                raise NotScorable(
                    "no labelled image is in the test part", todo="check the split or fold, and the labels"
                )
            yield case
        except UserError as error:
            yield Broken(name, str(error), skipped=isinstance(error, NotScorable) and benchmark.each is not None)


def _split_up(benchmark: Benchmark, table: pa.Table) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """(name, rows of the table): one for all, or one for every source and modality that the benchmark asks for."""
    source, modality = (table[name].to_numpy(zero_copy_only=False).astype(str) for name in ("source", "modality"))
    wanted = np.ones(len(source), bool) if benchmark.data.source is None else source == benchmark.data.source
    if benchmark.each is None:
        yield benchmark.name, np.flatnonzero(wanted)
    elif benchmark.each == "modality":
        for name in np.unique(modality[wanted]):
            yield f"{benchmark.name}/{name}", np.flatnonzero(wanted & (modality == name))
    else:
        for name in np.unique(source[wanted]):
            inside = np.unique(modality[wanted & (source == name)])
            for kind in inside:
                whole = f"{benchmark.name}/{name}" + (f"/{kind}" if len(inside) > 1 else "")
                yield whole, np.flatnonzero(wanted & (source == name) & (modality == kind))


def _classes(benchmark: Benchmark, table: pa.Table, rows: NDArray[np.int64]) -> list[str]:
    """The findings that are present at least once, in alphabetical order; or the benchmark's own in its order."""
    if benchmark.classes != "labels":
        return [c.finding for c in benchmark.classes if isinstance(c, ClassRecipe)]
    _, names, states = _flat(table["findings"].take(pa.array(rows)))
    return sorted(set(names[states == "present"].tolist()))


def _case(
    benchmark: Benchmark,
    name: str,
    table: pa.Table,
    rows: NDArray[np.int64],
    role: NDArray[np.str_],
    classes: list[str],
) -> Case:
    if len(rows) == 0:
        raise UserError(f"the corpus has no image for it (source {benchmark.data.source})")
    truth = truth_of(table["findings"], classes)
    multi = is_multi(truth)
    usable = (truth >= 0).any(1) if multi else is_complete(truth)
    text = {column: table[column].to_numpy(zero_copy_only=False).astype(str) for column in ("id", "group", "sha256")}
    items = Items(rows, text["id"], text["group"], text["sha256"], truth)
    parts = {wanted: items.take(usable & (role == wanted)) for wanted in ("train", "validation", "test")}
    if multi and not ((truth == 0).any(0) & (truth == 1).any(0)).any():
        raise NotScorable(
            "no label is known to be absent anywhere", todo="state `exhaustive: true` where lists are complete"
        )
    return Case(
        name=name,
        family=benchmark.name,
        source=name.removeprefix(f"{benchmark.name}/"),
        modality=_most_common(table["modality"]) or "other",
        anatomy=_most_common(table["anatomy"]),
        classes=classes,
        multi=multi,
        train=parts["train"],
        validation=parts["validation"],
        test=Sealed(parts["test"]),
        left_out=int((~usable & (role == "test")).sum()),
        confounded=False,
    )


def truth_of(findings: pa.ChunkedArray, classes: list[str]) -> NDArray[np.int8]:
    """What is known of each class in each image: [n, C] 1, 0, -1."""
    row, names, states = _flat(findings)
    truth = np.full((len(findings), len(classes)), -1, np.int8)
    for place, name in enumerate(classes):
        for state, value in (("present", 1), ("absent", 0)):
            truth[row[(names == name) & (states == state)], place] = value
    return truth


def is_multi(truth: NDArray[np.int8]) -> bool:
    """Whether images may show several classes, or none is known for all of them. truth: [n, C]."""
    return bool(((truth == 1).sum(1) > 1).any() or not is_complete(truth).any())


def is_complete(truth: NDArray[np.int8]) -> NDArray[np.bool_]:
    """[n]: exactly one class present, all others known to be absent. truth: [n, C]."""
    return ((truth == 1).sum(1) == 1) & ((truth == 0).sum(1) == truth.shape[1] - 1)


def _flat(findings: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """All findings of all images in a row: image numbers, names, states, each [findings]."""
    lists = findings.combine_chunks() if isinstance(findings, pa.ChunkedArray) else findings
    flat = lists.flatten()
    row = lists.value_parent_indices().to_numpy(zero_copy_only=False)
    name, state = (flat.field(part).to_numpy(zero_copy_only=False).astype(str) for part in ("name", "state"))
    return row, name, state


def _most_common(column: pa.ChunkedArray) -> str | None:
    values, counts = np.unique(column.drop_null().to_numpy(zero_copy_only=False).astype(str), return_counts=True)
    return str(values[counts.argmax()]) if len(values) else None
