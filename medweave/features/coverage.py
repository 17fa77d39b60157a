"""Which samples a teacher is trusted on: by the modalities it was made for, and by how it does on what is known.

domain       its declared modalities shut all others out
prompted     a source with labelled images: are they nearest to the bank captions of their own finding?
probe        the same for a teacher without texts: a ridge classifier on its rows, tested on groups left out
pair rank    a sample with a text of its own: how many texts of other samples of the modality does it rank below?
unmeasured   neither labels nor texts: trusted
trained on   not trusted where that is asked for
unread, withdrawn   its image cannot be read, or must not be used: not trusted
absent       rows that others published lack it: not trusted

A score is 0 for chance and 1 for perfect: accuracy is balanced and corrected for chance, and a rank lies between -1 and
1. What a teacher says of images that it was trained on, it has learnt by heart: these measure nothing.
n samples of one source and modality.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medweave.corpus.captions.bank import Bank
from medweave.corpus.order import Numbers, Ranges
from medweave.corpus.store import Corpus
from medweave.corpus.views import split_view
from medweave.errors import UserError
from medweave.features.layout import writing
from medweave.features.measure import Known, Measured, Place, absent, known_of, measure, pair_ranks
from medweave.features.rows import Rows
from medweave.features.store import PIECE, Features
from medweave.files import whole_file
from medweave.progress import track

LEAST = 30  # images that a score rests on
COLUMNS = pa.schema([("covered", pa.bool_()), ("by", pa.string()), ("score", pa.float32())])


class Verdicts:
    """covered, by, score: of n samples, three [n]."""

    def __init__(self, count: int, covered: bool, by: str, score: float) -> None:
        self.covered = np.full(count, covered)
        self.by = np.full(count, by, object)
        self.score = np.full(count, score, np.float32)

    def change(self, some: NDArray[np.bool_], covered: NDArray[np.bool_] | bool, by: str, score: Rows | float) -> None:
        """Judge some of the samples, [n], otherwise."""
        self.covered[some], self.by[some], self.score[some] = covered, by, score


Judge = Callable[[Numbers, str, str], Verdicts]  # samples of one source and modality -> the verdicts on them


@dataclass(frozen=True)
class Thresholds:
    """From which score on a teacher is trusted.

    source: of a whole source; a tenth of the way from chance to perfect (and surely above chance). pair: of one sample;
    a teacher that ranks a sample's own text below the middle would draw the student away from it.
    """

    source: float = 0.1
    pair: float = 0.0


@dataclass(frozen=True)
class Coverage:
    """samples: (by, covered) -> how many. measured: what each source with labels is judged by."""

    samples: Mapping[tuple[str, bool], int]
    measured: Mapping[Place, Measured]

    @property
    def covered(self) -> int:
        """Samples that the teacher is trusted on."""
        return sum(count for (_, covered), count in self.samples.items() if covered)

    def text(self) -> str:
        """One line for a terminal."""
        parts = [f"{count:,} {'in' if covered else 'out'} by {by}" for (by, covered), count in self.samples.items()]
        return f"covers {self.covered:,} of {sum(self.samples.values()):,} samples ({', '.join(parts)})"


def cover(
    features: Features,
    measuring: Ranges | None = None,
    *,
    known_to: Ranges | None = None,
    unseen: bool = False,
    domains: Collection[str] | None = None,
    thresholds: Thresholds | None = None,
    pool: int = 256,
    seed: int = 0,
    file: Path | None = None,
) -> Coverage:
    """Judge a teacher on every sample and write covered.parquet, or another file: covered, by, score, by sample number.

    measuring: samples whose labels and texts are used to measure; None: the split `train`. known_to: those that the
    teacher was trained on, which measure nothing; unseen: nor are they trusted. domains: modalities that it was made
    for; None: as its catalogue card says, and all where that says nothing. pool: texts of a modality that pairs are
    ranked among. Raises UserError when nothing is covered, which is written all the same.
    """
    corpus = features.corpus
    measuring = split_view(corpus, "train") if measuring is None else measuring
    met = np.zeros(len(corpus), bool) if known_to is None else known_to.mask(len(corpus))
    if met.any():
        measuring = Ranges.of_mask(measuring.mask(len(corpus)) & ~met)
    known = known_of(corpus, measuring, pool, seed)
    measured = _settled(known, _measured(features, known))
    judge = _Judge(
        features,
        _domains(features, domains),
        measured,
        {modality: _pool(features, numbers) for modality, numbers in known.texts.items()} if _pairs(features) else {},
        thresholds or Thresholds(),
        met,
        ({"trained on": met} if unseen else {}) | {"withdrawn": Ranges.of(corpus.withdrawn()).mask(len(corpus))},
    )
    coverage = Coverage(write_verdicts(features, judge, file), measured)
    if not coverage.covered:
        todo = "leave this teacher out, or give the rows of one that was made for these modalities"
        raise UserError(f"{features.name} {coverage.text()}", where=features.layout.folder, todo=todo)
    return coverage


def _domains(features: Features, asked: Collection[str] | None) -> Collection[str] | None:
    """The modalities that a teacher may be trusted on: none without rows."""
    own = features.stamp.teacher.domains
    return asked if own is None else own if asked is None else set(asked) & set(own)


def write_verdicts(features: Features, judge: Judge, file: Path | None = None) -> dict[tuple[str, bool], int]:
    """covered.parquet, streamed; (by, covered) -> samples."""
    counts: Counter[tuple[str, bool]] = Counter()
    schema = COLUMNS.with_metadata({"rows": features.stamp.rows_hash})
    path = file or features.layout.covered
    with writing(path.parent), whole_file(path) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as table:
        verdicts = _written(_tables(features.corpus, judge), table, counts)
        deque(track(verdicts, f"coverage, {features.name}", len(features)), maxlen=0)
    return dict(sorted(counts.items()))


def _measured(features: Features, known: Known) -> dict[Place, Measured]:
    """The score on each source that has labels of two findings or more."""
    bank = Bank.load(features.corpus.banks())
    knows = features.stamp.teacher.knows
    scores = {
        (source, modality): measure(features, modality, rows, bank)
        for (source, modality), rows in known.labels.items()
        if knows(modality)
    }
    return {place: score for place, score in scores.items() if score is not None}


def _settled(known: Known, measured: Mapping[Place, Measured]) -> dict[Place, Measured]:
    """What each labelled source is judged by: its own score, or where its images are few, a mean that rests on enough.

    That of the sources of its modality, else of all; nothing where these are too few as well.
    """
    found = {}
    for place in (place for place, rows in known.labels.items() if rows):
        alike = [other for other in measured if other[1] == place[1]]
        for group in ([place], alike, list(measured)):
            some = [measured[other] for other in group if other in measured]
            if sum(one.images for one in some) >= LEAST:
                found[place] = Measured.together(some)
                break
    return found


def _pairs(features: Features) -> bool:
    """Whether the teacher has rows of images and of the samples' own texts."""
    return "images" in features.sides and features.has_texts


def _pool(features: Features, numbers: Numbers) -> Rows:
    """The rows of the first texts of samples, without those that are absent."""
    rows = features.text(numbers)
    return rows[rows.any(1)]


@dataclass(frozen=True)
class _Judge:
    """All that a verdict rests on. pools: modality -> rows of texts. met: samples that the teacher was trained on,
    [samples]. barred: why -> which samples, [samples].
    """

    features: Features
    domains: Collection[str] | None
    measured: Mapping[Place, Measured]
    pools: Mapping[str, Rows]
    least: Thresholds
    met: NDArray[np.bool_]
    barred: Mapping[str, NDArray[np.bool_]]

    def __call__(self, numbers: Numbers, source: str, modality: str) -> Verdicts:
        """The verdicts on samples of one source and modality."""
        covered, by, score = self._as_a_whole(source, modality)
        verdicts = Verdicts(len(numbers), covered, by, score)
        if covered and modality in self.pools:
            ranks = self._ranks(numbers, self.pools[modality])
            known = ~np.isnan(ranks) & ~self.met[numbers]
            verdicts.change(known, ranks[known] >= self.least.pair, "pair rank", ranks[known])
        verdicts.change(absent(self.features, numbers), False, "absent", np.nan)
        verdicts.change(np.isin(numbers, self.features.unread), False, "unread", np.nan)
        for why, samples in self.barred.items():
            verdicts.change(samples[numbers], False, why, np.nan)
        return verdicts

    def _as_a_whole(self, source: str, modality: str) -> tuple[bool, str, float]:
        """What is known of a source before one looks at its samples."""
        if self.domains is not None and modality not in self.domains:
            return False, "domain", np.nan
        one = self.measured.get((source, modality))
        if one is not None:
            return one.passes(self.least.source), one.by, one.score
        return True, "unmeasured" if self.domains is None else "domain", np.nan

    def _ranks(self, numbers: Numbers, pool: Rows) -> Rows:
        """The pair rank of each sample that has a text; NaN for the others."""
        ranks = np.full(len(numbers), np.nan, np.float32)
        having = np.flatnonzero(self.features.text_counts(numbers))
        if len(having):
            some = numbers[having]
            ranks[having] = pair_ranks(self.features.image(some), self.features.text(some), pool)
        return ranks


def _written(tables: Iterator[pa.Table], file: pq.ParquetWriter, counts: Counter[tuple[str, bool]]) -> Iterator[None]:
    """Write and count verdicts; one item a sample."""
    for table in tables:
        file.write_table(table)
        counts.update(zip(table["by"].to_pylist(), table["covered"].to_pylist(), strict=True))
        yield from (None for _ in range(len(table)))


def _tables(corpus: Corpus, judge: Judge) -> Iterator[pa.Table]:
    """The rows of covered.parquet in pieces, in the order of the corpus: a sample's number is its row."""
    for stratum in corpus.strata:
        for at in range(stratum.start, stratum.stop, PIECE):
            found = judge(np.arange(at, min(at + PIECE, stratum.stop)), stratum.source, stratum.modality)
            score = pa.array(found.score, from_pandas=True)
            yield pa.table([pa.array(found.covered), pa.array(found.by), score], schema=COLUMNS)
