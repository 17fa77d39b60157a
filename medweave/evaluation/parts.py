"""Which samples of a corpus are for training, for choices (validation) and for the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medweave.corpus.order import Ranges
from medweave.corpus.views import fold_view, split_view
from medweave.errors import unknown_name
from medweave.evaluation.recipe import Part

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

ROLES = ("train", "validation", "test", "none")
NONE = ROLES.index("none")


class Roles:
    """The role of every sample of a corpus. codes: [samples] int8, places in ROLES."""

    def __init__(self, codes: NDArray[np.int8]) -> None:
        self.codes = codes

    def __getitem__(self, numbers: Any) -> NDArray[np.str_]:
        """The roles of some samples, each one of ROLES."""
        return np.array(ROLES)[self.codes[numbers]]

    def numbers(self, role: str, ranges: Ranges) -> NDArray[np.int64]:
        """The sample numbers of one role in these ranges, ascending."""
        place = ROLES.index(role)
        inside = [numbers[self.codes[numbers] == place] for numbers in ranges.pieces()]
        return np.concatenate(inside) if inside else np.empty(0, np.int64)


def roles(corpus: Corpus, part: Part) -> Roles:
    """The role of every sample of the corpus; what was withdrawn has none. Raises RequestError as `ranges_of`."""
    codes = np.full(len(corpus), NONE, np.int8)
    for place, role in enumerate(ROLES[:NONE]):
        codes[ranges_of(corpus, part, role).mask(len(corpus))] = place
    return Roles(codes)


def ranges_of(corpus: Corpus, part: Part, role: str) -> Ranges:
    """The samples of one role.

    With an overlay, a sample that it does not name keeps the role of its split, but is never in the test part. Where
    nothing is held out, the validation part belongs to the training part. Raises RequestError when the overlay lacks
    the fold.
    """
    if part.held_out or role == "test":
        return _ranges_of(corpus, part, role)
    if role == "validation":
        return Ranges.of([])
    train, validation = (_ranges_of(corpus, part, one).mask(len(corpus)) for one in ("train", "validation"))
    return Ranges.of_mask(train | validation)


def numbers_of(corpus: Corpus, part: Part, role: str) -> NDArray[np.int64]:
    """The sample numbers of one role, ascending."""
    return ranges_of(corpus, part, role).numbers()


def _ranges_of(corpus: Corpus, part: Part, role: str) -> Ranges:
    """The samples of one role, validation held out."""
    if part.overlay is None or part.fold is None:
        return _of_split(corpus, part, role)
    others = None if role == "test" else _of_split(corpus, part, role)
    return fold_view(corpus, part.fold, role, part.overlay, others, part.aside)


def check_test_split(corpus: Corpus, part: Part) -> None:
    """Raise RequestError when a test is asked for and no sample has its split, naming the nearest splits."""
    known = {stratum.split for stratum in corpus.strata}
    if part.overlay is None and part.test not in known:
        raise unknown_name("split", part.test, known)


def _of_split(corpus: Corpus, part: Part, role: str) -> Ranges:
    """The samples whose split has this role; a split that is named for several roles has the first."""
    splits = [part.train, part.validation, part.test]
    wanted = splits[ROLES.index(role)]
    known = {stratum.split for stratum in corpus.strata}
    if wanted not in known or splits.index(wanted) < ROLES.index(role):
        return Ranges.of([])
    return split_view(corpus, wanted)
