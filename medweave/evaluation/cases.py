"""A benchmark meets a corpus: the cases that are scored, each with its images, classes and a sealed test part.

A case is single-label when no image shows two classes and some images are known for all of them; images that are not
known for all classes are then left out and counted. Otherwise it is multi-label: each label is ranked over the images
where it is known, and there is no arg-max. Both are decided on the source's whole data, so that folds agree.

n images, C classes, k distinct label sets. Truth: 1 present, 0 absent, -1 unknown or uncertain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medweave.corpus.known import Known, LabelSet, known_of
from medweave.corpus.order import Ranges
from medweave.errors import UserError
from medweave.evaluation.benchmark import Benchmark, ClassRecipe
from medweave.evaluation.parts import NONE, ROLES, Roles, check_test_split, roles
from medweave.evaluation.recipe import Part
from medweave.evaluation.sealed import Sealed

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus, Stratum

TEXT = ("id", "group", "sha256")  # columns of the index that are held of each image of a case


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
    benchmark: Benchmark, corpus: Corpus, role: Roles, sealed: bool = True, known: Known | None = None
) -> Iterator[Case | Broken]:
    """The cases of a benchmark when the samples have these roles.

    sealed: a case needs test images. known: what is known of the corpus's samples, read from it if not given.
    """
    known = known or known_of(corpus)
    for name, strata in _split_up(benchmark, corpus.strata):
        ranges = Ranges.joined([Ranges.of_run(stratum.start, stratum.stop) for stratum in strata])
        counts = known.counts(ranges)
        classes = _classes(benchmark, [known.sets[code] for code in np.flatnonzero(counts)])
        if benchmark.each and len(classes) < 2:
            continue
        try:
            case = _case(benchmark, name, corpus, ranges, role, classes, known, counts)
            if sealed and len(case.test) == 0:
                raise NotScorable(
                    "no labelled image is in the test part", todo="check the split or fold, and the labels"
                )
            yield case
        except UserError as error:
            yield Broken(name, str(error), skipped=isinstance(error, NotScorable) and benchmark.each is not None)


def _split_up(benchmark: Benchmark, strata: Sequence[Stratum]) -> Iterator[tuple[str, list[Stratum]]]:
    """(name, strata): one for all, or one for every source and modality that the benchmark asks for."""
    wanted = [s for s in strata if benchmark.data.source in (None, s.source)]
    if benchmark.each is None:
        yield benchmark.name, wanted
    elif benchmark.each == "modality":
        for name in sorted({s.modality for s in wanted}):
            yield f"{benchmark.name}/{name}", [s for s in wanted if s.modality == name]
    else:
        for name in sorted({s.source for s in wanted}):
            inside = sorted({s.modality for s in wanted if s.source == name})
            for kind in inside:
                whole = f"{benchmark.name}/{name}" + (f"/{kind}" if len(inside) > 1 else "")
                yield whole, [s for s in wanted if (s.source, s.modality) == (name, kind)]


def _classes(benchmark: Benchmark, sets: Iterable[LabelSet]) -> list[str]:
    """The findings that are present at least once, in alphabetical order; or the benchmark's own in its order."""
    if benchmark.classes != "labels":
        return [c.finding for c in benchmark.classes if isinstance(c, ClassRecipe)]
    return sorted({finding for labels in sets for finding in labels.present})


def _case(
    benchmark: Benchmark,
    name: str,
    corpus: Corpus,
    ranges: Ranges,
    role: Roles,
    classes: list[str],
    known: Known,
    counts: NDArray[np.int64],
) -> Case:
    """The case of the samples in these ranges; counts: how many of them have each set of `known`."""
    if len(ranges) == 0:
        raise UserError(f"the corpus has no image for it (source {benchmark.data.source})")
    met = np.flatnonzero(counts)
    truth = truth_of([known.sets[code] for code in met], classes)
    multi = is_multi(truth)
    usable = np.asarray((truth >= 0).any(1)) if multi else is_complete(truth)
    if multi and not ((truth == 0).any(0) & (truth == 1).any(0)).any():
        raise NotScorable(
            "no label is known to be absent anywhere", todo="state `exhaustive: true` where lists are complete"
        )
    parts = {}
    for wanted in ROLES[:NONE]:
        numbers = role.numbers(wanted, ranges)
        row = np.searchsorted(met, known.codes[numbers])
        kept = usable[row]
        parts[wanted] = _items(corpus, numbers[kept], truth[row[kept]])
    return Case(
        name=name,
        family=benchmark.name,
        source=name.removeprefix(f"{benchmark.name}/"),
        modality=_most_common((known.sets[code].key[0], counts[code]) for code in met) or "other",
        anatomy=_most_common((known.sets[code].key[1], counts[code]) for code in met),
        classes=classes,
        multi=multi,
        train=parts["train"],
        validation=parts["validation"],
        test=Sealed(parts["test"]),
        left_out=len(role.numbers("test", ranges)) - len(parts["test"]),
        confounded=False,
    )


def _items(corpus: Corpus, numbers: NDArray[np.int64], truth: NDArray[np.int8]) -> Items:
    """Images by their numbers [n], ascending, with their truth [n, C]."""
    table = corpus.take(numbers, TEXT)
    ids, groups, sha256 = (table[name].to_numpy(zero_copy_only=False).astype(str) for name in TEXT)
    return Items(numbers, ids, groups, sha256, truth)


def truth_of(sets: Sequence[LabelSet], classes: list[str]) -> NDArray[np.int8]:
    """What is known of each class in each label set: [k, C] 1, 0, -1."""
    truth = [[0 if c in labels.absent else 1 if c in labels.present else -1 for c in classes] for labels in sets]
    return np.array(truth, np.int8).reshape(len(sets), len(classes))


def is_multi(truth: NDArray[np.int8]) -> bool:
    """Whether images may show several classes, or none is known for all of them. truth: [k, C]."""
    return bool(((truth == 1).sum(1) > 1).any() or not is_complete(truth).any())


def is_complete(truth: NDArray[np.int8]) -> NDArray[np.bool_]:
    """[k]: exactly one class present, all others known to be absent. truth: [k, C]."""
    return ((truth == 1).sum(1) == 1) & ((truth == 0).sum(1) == truth.shape[1] - 1)


def _most_common(counted: Iterable[tuple[str | None, int]]) -> str | None:
    """The name with most images, the first in alphabetical order of several; None where no image has one."""
    totals: Counter[str] = Counter()
    for name, count in counted:
        if name is not None:
            totals[name] += int(count)
    return min(totals, key=lambda name: (-totals[name], name), default=None)
