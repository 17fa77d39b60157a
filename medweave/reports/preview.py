"""A contact sheet of a corpus: one self-contained HTML page of images with their captions, findings and groups.

Every source is shown, with equal numbers of images as far as it has them; then the largest groups, so that one can see
whether patients and near-duplicates were joined rightly.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medweave.corpus.captions.bank import Bank
from medweave.corpus.images import decode
from medweave.corpus.limits import BadImage
from medweave.corpus.sample import MODALITIES, State
from medweave.corpus.store import Corpus, open_corpus
from medweave.errors import UserError
from medweave.progress import track
from medweave.reports.page import picture, write_page
from medweave.seeds import generator

GROUPS = 6  # largest groups shown
TITLES = {"xray": "X-ray", "ct": "CT", "mri": "MRI", "oct": "OCT", "pet": "PET"}
MEMBERS = 8  # images shown of a group


@dataclass(frozen=True)
class Shot:
    """One image on the page. picture: a data URI. bank: a caption training may draw. together: its group's size."""

    picture: str
    fields: Mapping[str, Any]
    bank: str | None
    together: int

    @property
    def name(self) -> str:
        """The owner's name of the image, without its source and folders."""
        return str(self.fields["id"]).rsplit("/", 1)[-1]

    @property
    def findings(self) -> list[tuple[str, str]]:
        """(state, words), what is present first; absences of an exhaustive list are counted, not named."""
        by_state = {state: [n for n, s in self.fields["findings"].items() if s == state] for state in State}
        named = [(s.value, name) for s in (State.PRESENT, State.UNCERTAIN) for name in sorted(by_state[s])]
        absent = sorted(by_state[State.ABSENT])
        words = f"no {absent[0]}" if len(absent) == 1 else f"{len(absent)} others absent"
        return [*named, ("absent", words)] if absent else named


def preview(corpus_path: Path | str, out: Path | None = None, count: int = 120, seed: int = 0) -> Path:
    """Write the contact sheet of up to `count` images and return its path. Raises RequestError where no corpus is.

    out: an HTML file; None: preview.html in the corpus, in the working directory where that lies behind a URL.
    """
    corpus = open_corpus(corpus_path)
    if out is None:
        out = (corpus.path if isinstance(corpus.path, Path) else Path()) / "preview.html"
    sizes = Counter(group for _, group in _grouped(corpus))
    groups = _members(corpus, [name for name, size in sizes.most_common(GROUPS) if size > 1])
    chosen = choose(corpus, count, seed)
    wanted = sorted({*chosen, *(number for members in groups for number in members)})
    bank = Bank.load(corpus.banks())
    shots = {n: _shot(corpus, n, bank, sizes, seed) for n in track(wanted, "preview", len(wanted))}
    return write_page(
        out,
        "preview.html",
        corpus=corpus,
        shown=len(chosen),
        sections=_sections([shots[number] for number in chosen]),
        groups=[[shots[number] for number in members] for members in groups],
        titles=TITLES,
    )


def choose(corpus: Corpus, count: int, seed: int) -> list[int]:
    """Up to `count` numbers of samples that are not withdrawn, in order: shared out evenly over the sources."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for stratum in corpus.strata:
        runs.setdefault(stratum.source, []).append((stratum.start, stratum.stop))
    withdrawn, chosen, left = corpus.withdrawn(), [], count
    by_size = sorted(runs.items(), key=lambda item: sum(stop - start for start, stop in item[1]))
    for place, (source, parts) in enumerate(by_size):
        starts, stops = np.array(parts).T
        ends = np.cumsum(stops - starts)
        share = min(int(ends[-1]), left // (len(runs) - place))
        drawn = generator(seed, "preview", source).choice(ends[-1], share, replace=False)
        part = np.searchsorted(ends, drawn, side="right")
        chosen += [int(n) for n in drawn - ends[part] + stops[part] if n not in withdrawn]
        left -= share
    return sorted(chosen)


def _members(corpus: Corpus, names: Sequence[str]) -> list[list[int]]:
    """The first few sample numbers of each of some groups."""
    members: dict[str, list[int]] = {name: [] for name in names}
    for number, group in _grouped(corpus):
        if group in members and len(members[group]) < MEMBERS:
            members[group].append(number)
    return list(members.values())


def _grouped(corpus: Corpus) -> Iterator[tuple[int, str]]:
    """(number, group) of every sample that is not withdrawn."""
    withdrawn = corpus.withdrawn()
    groups = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in corpus.batches(["group"]))
    return ((number, group) for number, group in enumerate(groups) if number not in withdrawn)


def _shot(corpus: Corpus, number: int, bank: Bank, sizes: Mapping[str, int], seed: int) -> Shot:
    fields = corpus.fields(number)
    try:
        pixels = decode(corpus.read(number), grey=True, limits=corpus.limits)
    except BadImage as bad:
        raise UserError(bad.reason, where=fields["id"], todo="the corpus is damaged; build it again") from None
    states = {name: State(state) for name, state in fields["findings"].items()}
    caption = bank.draw(fields["modality"], fields["anatomy"], states, generator(seed, "preview caption", number))
    return Shot(picture(pixels), fields, caption, sizes[fields["group"]])


def _sections(shots: Sequence[Shot]) -> dict[str, dict[str, list[Shot]]]:
    """modality -> source -> shots, modalities in the vocabulary's order."""
    sections: dict[str, dict[str, list[Shot]]] = {modality: {} for modality in MODALITIES}
    for shot in shots:
        sections[shot.fields["modality"]].setdefault(shot.fields["source"], []).append(shot)
    return {modality: sources for modality, sources in sections.items() if sources}
