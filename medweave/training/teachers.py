"""Teachers of a run: their stored rows, how far each is trusted on a sample, and what a batch takes from them.

Trust is measured on the run's own training samples, whatever was measured when the rows were made, and kept with the
run: a fold's test images have no say in it. What a teacher was itself trained on tells nothing: a run of Medweave is
measured on the samples of the training and validation parts that it has not seen. A text that joins several captions
has the mean of their rows; of a sample whose text has no row a teacher tells the image alone.

b samples of a share, E width of a teacher, T captions of the menu.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medweave.corpus.order import Numbers, Ranges
from medweave.corpus.store import Corpus
from medweave.corpus.views import strata_of
from medweave.errors import RequestError, UserError
from medweave.evaluation.parts import ranges_of
from medweave.evaluation.recipe import Part
from medweave.features import standardise as statistics
from medweave.features.coverage import Coverage, cover
from medweave.features.rotation import equaliser
from medweave.features.rows import Rows
from medweave.features.store import Features, open_features
from medweave.features.views import Views
from medweave.files import hash_of
from medweave.models.teachers.catalogue import UNKNOWN, card, cards
from medweave.models.teachers.licences import Terms, terms_of
from medweave.progress import say
from medweave.recipe import as_data
from medweave.training.captions import Caption
from medweave.training.distributed import Ranks
from medweave.training.objective import Given, Standard, Teacher, TeacherRows
from medweave.training.recipe import TeacherRecipe, TeachersRecipe
from medweave.training.run import TEACHERS

LEAST = 0.05  # measured score of a teacher that covers a sample and did worse on it: it still has a say
CATALOGUE = "teacher:"
PLACE = re.compile(r"(?<=^teacher:)[^@]*/|(?:^|(?<=[:@]))/[^@]*/")  # of files of one's own: the same teacher elsewhere


class Taught:
    """One teacher's rows, as a run takes them.

    captions: of the bank, those that the run may draw and that have a row. typical: the score of samples where nothing
    was measured.
    """

    def __init__(
        self, recipe: TeacherRecipe, features: Features, trust: float, captions: Set[str], typical: float = 1.0
    ) -> None:
        self.recipe, self.features, self.trust = recipe, features, trust
        self.captions, self.typical = captions, typical

    @property
    def name(self) -> str:
        """Of its rows."""
        return self.recipe.name

    def rows(
        self, numbers: Numbers, views: NDArray[np.int64] | None, captions: Sequence[Caption], menu: Sequence[str]
    ) -> TeacherRows:
        """What it says of some samples [b] in these views (None: whole), with these captions, and of the menu [T]."""
        image, text, choice, known = None, None, None, None
        if "images" in self.features.sides:
            image = torch.from_numpy(self.features.image(numbers, views))
        if "texts" in self.features.sides:
            text, known = map(torch.from_numpy, self.text(numbers, captions))
            choice = torch.from_numpy(self.features.bank(menu)) if menu and self.captions else None
        return TeacherRows(torch.from_numpy(self.gate(numbers)), image, text, choice, known)

    def gate(self, numbers: Numbers) -> Rows:
        """How far it is trusted on some samples, [b]: 0 where it covers them not."""
        scores = self.features.scores(numbers)
        scores = np.where(np.isnan(scores), self.typical, scores).clip(LEAST, 1)
        return np.asarray(self.recipe.weight * self.features.covered(numbers) * scores**self.trust, np.float32)

    def text(self, numbers: Numbers, captions: Sequence[Caption]) -> tuple[Rows, NDArray[np.bool_]]:
        """Unit rows of captions, [b, E], and which of them have any, [b]."""
        rows, known = np.zeros((len(captions), self.features.width), np.float32), np.zeros(len(captions), bool)
        own = [(at, one.own) for at, one in enumerate(captions) if one.own is not None and self.features.has_texts]
        if own:
            places, which = np.array(own).T
            stored = which < self.features.text_counts(numbers[places])  # the first 255 of a sample have a row
            places, which = places[stored], which[stored]
            rows[places], known[places] = self.features.text(numbers[places], which), True
        drawn = [(at, part) for at, one in enumerate(captions) if self._has(one) for part in one.parts]
        if drawn:
            places = np.array([at for at, _ in drawn])
            np.add.at(rows, places, self.features.bank([part for _, part in drawn]))
            rows[places] /= np.linalg.norm(rows[places], axis=1, keepdims=True).clip(1e-12)
            known[places] = True
        return rows, known

    def _has(self, caption: Caption) -> bool:
        """Whether a caption is a bank's, and every part of it has a row."""
        return caption.own is None and bool(caption.parts) and set(caption.parts) <= self.captions

    def known(self, training: Ranges) -> Teacher:
        """What objectives know of it: its scale, and the statistics of its rows over the training samples."""
        made = statistics.standardise(self.features, training, sorted(self.captions))
        found = {side: _standard(one) for side, one in made.items()}
        return Teacher(self.scale, found.get("images"), found.get("texts"), captions=bool(self.features.captions))

    @property
    def outline(self) -> Teacher:
        """What objectives know of it before anything is computed from its rows: these count as standardised."""
        features = self.features
        plain = Standard(torch.zeros(features.width), *[torch.eye(features.width)] * 2)
        image = plain if "images" in features.sides else None
        text = plain if "texts" in features.sides and (features.has_texts or self.captions) else None
        return Teacher(self.scale, image, text, captions=bool(features.captions))

    @property
    def scale(self) -> float | None:
        """Of its affinities: the recipe's, else its own head's; None where neither is known."""
        head = self.features.stamp.head
        return self.recipe.scale or (head.scale if head else None)

    @property
    def is_a_run(self) -> bool:
        """Whether it states what it was trained on."""
        return self.features.stamp.teacher.trained_on is not None

    @property
    def trained_on(self) -> Ranges | None:
        """The samples of this corpus that it was trained on; None where it states nothing, or another corpus."""
        corpus, told = self.features.corpus, self.features.stamp.teacher.trained_on
        if told is None or told["corpus"] != corpus.hash:
            return None
        view = ranges_of(corpus, Part.model_validate(told["part"] or {}), "train")
        return strata_of(corpus, view, "all", told["leave_out"] or []).get("all")

    @property
    def hash(self) -> str:
        """sha256 of all rows that the run may take, but for views."""
        return hash_of([self.features.stamp.rows_hash, sorted(self.captions)])

    @property
    def terms(self) -> Terms:
        """Its licence, as the catalogue has it now, else as the model stated it when its rows were made."""
        teacher = self.features.stamp.teacher
        named = teacher.reference.removeprefix(CATALOGUE).partition("@")[0]
        if teacher.reference.startswith(CATALOGUE) and named in cards():
            return terms_of(card(named), self.name)
        return Terms(
            name=self.name,
            title=self.title,
            licence=teacher.licence or UNKNOWN,
            licence_class=teacher.licence_class or "unknown",
            reaches_models_trained_on_outputs=UNKNOWN if teacher.binds_students is None else teacher.binds_students,
            same_data=teacher.trained_on is not None and teacher.trained_on["corpus"] == self.features.corpus.hash,
        )

    @property
    def title(self) -> str:
        """The model that made its rows, without its place on this machine."""
        return PLACE.sub("", self.features.stamp.teacher.name)

    @property
    def facts(self) -> dict[str, Any]:
        """What a student's card says of it."""
        teacher = self.features.stamp.teacher
        terms = {"licence": str(self.terms.licence), "licence_class": self.terms.licence_class}
        return {"rows": self.name, "model": self.title, "weights": teacher.weights, **terms}


class Teachers:
    """All teachers of a run. views: the stored views that the student is shown; None: none."""

    def __init__(self, recipe: TeachersRecipe, taught: Sequence[Taught]) -> None:
        self.recipe, self.taught = recipe, list(taught)
        self.views = _views([one.features for one in taught]) if recipe.replay else None

    def rows(
        self, numbers: Numbers, views: NDArray[np.int64] | None, captions: Sequence[Caption], menu: Sequence[str]
    ) -> dict[str, TeacherRows]:
        """Teacher -> what it says of some samples, and of the menu's captions."""
        return {one.name: one.rows(numbers, views, captions, menu) for one in self.taught}

    def given(self, width: int, training: Ranges, ranks: Ranks) -> Given:
        """What objectives know before the first step."""
        known = self._known(training) if ranks.first else {}  # the first writes what the others then find
        ranks.wait()
        known = known or self._known(training)
        return Given(width, {name: one.to(ranks.device) for name, one in known.items()}, self.recipe.drop)

    def outlined(self, width: int) -> Given:
        """The same before anything is computed: enough to tell whether objectives can learn from these teachers."""
        return Given(width, {one.name: one.outline for one in self.taught}, self.recipe.drop)

    def measured(self, training: Ranges, validation: Ranges, run: Path, ranks: Ranks) -> Teachers:
        """The same teachers, trusted by what they do on these samples; kept in the run's folder.

        Raises UserError for a teacher that covers no training sample.
        """
        files = [run / TEACHERS / f"{one.name}.parquet" for one in self.taught]
        if ranks.first:
            for one, file in zip(self.taught, files, strict=True):
                if not file.exists():
                    say(f"{one.name} {self._covered(one, training, validation, file).text()}")
        ranks.wait()
        return Teachers(
            self.recipe, [_as_measured(one, file, training) for one, file in zip(self.taught, files, strict=True)]
        )

    def _covered(self, one: Taught, training: Ranges, validation: Ranges, file: Path) -> Coverage:
        """Judge one teacher on what it has not seen."""
        met, measuring = one.trained_on, training
        if met is not None:
            measuring = _union(training, validation, len(one.features.corpus))
        elif one.is_a_run:
            what = f"{one.name} was trained on another corpus or state of it: what it has seen is not known"
            if self.recipe.unseen:
                todo = "train it anew, or set unseen=false"
                raise UserError(what, where="train.teachers.unseen", todo=todo)
            say(f"{what}; it is measured on the {len(validation):,} samples of the validation part alone")
            measuring = validation
        return cover(one.features, measuring, known_to=met, unseen=self.recipe.unseen, file=file)

    def hashes(self) -> dict[str, str]:
        """Of all that a step takes from teachers."""
        views = {"replayed views": hash_of(as_data(self.views))} if self.views is not None else {}
        return {f"teacher {one.name}": one.hash for one in self.taught} | views

    def drawing(self, captions: Collection[str]) -> Teachers:
        """The same teachers for a run that may draw these captions of the bank.

        Raises UserError where one has rows of bank captions, but not of all these.
        """
        return Teachers(self.recipe, [_drawing(one, captions) for one in self.taught])

    def _known(self, training: Ranges) -> dict[str, Teacher]:
        return {one.name: one.known(training) for one in self.taught}


def teachers_of(corpus: Corpus, recipe: TeachersRecipe) -> Teachers:
    """Open the rows that a recipe names. Raises RequestError, or UserError where they are not the corpus's."""
    opened = [open_features(corpus, one.name, root=recipe.folder) for one in recipe.rows]
    pairs = zip(recipe.rows, opened, strict=True)
    return Teachers(recipe, [Taught(one, rows, recipe.trust, frozenset(rows.captions)) for one, rows in pairs])


def _drawing(one: Taught, captions: Collection[str]) -> Taught:
    """A teacher for a run that may draw these captions. Raises UserError as `Teachers.drawing`."""
    there = one.features.captions.keys()
    missing = sorted(set(captions) - there) if "texts" in one.features.sides else []
    if missing and not there:
        say(f"{one.name} has no rows of bank captions: where an image is shown with one, it says nothing of that")
    elif missing:
        raise UserError(
            f"{one.name} has no rows of {len(missing):,} captions that this run draws, such as {missing[0]!r}",
            where="train.teachers",
            todo="run `medweave features` again, with this run's labels and banks: it adds them",
        )
    return Taught(one.recipe, one.features, one.trust, there & set(captions), one.typical)


def _views(opened: Sequence[Features]) -> Views | None:
    """The stored views that all teachers with images share; None where none has any.

    Raises RequestError where they are different ones, or some have none.
    """
    seeing = [features for features in opened if "images" in features.sides]
    views = [features.views for features in seeing if features.views is not None]
    if not views:
        return None
    if without := [features.name for features in seeing if features.views is None]:
        raise RequestError(
            f"some teachers have rows of views, {' and '.join(without)} none",
            where="train.teachers",
            todo="make them with `medweave features … --views N`, or set train.teachers.replay=false",
        )
    count = min(one.count for one in views)
    alike = [one.model_copy(update={"count": count}) for one in views]
    for features, one in zip(seeing, alike, strict=True):
        if one != alike[0]:
            raise RequestError(
                f"{features.name} and {seeing[0].name} have rows of different views",
                where="train.teachers",
                todo="make them alike, or set train.teachers.replay=false",
            )
    return alike[0]


def _as_measured(one: Taught, file: Path, training: Ranges) -> Taught:
    """A teacher by its verdicts. Raises UserError where it covers no training sample."""
    features = one.features.with_verdicts(file)
    covered, scores, scored = 0, 0.0, 0
    for numbers in features.pieces(training):
        inside = features.covered(numbers)
        told = features.scores(numbers)[inside]
        covered += int(inside.sum())
        scores, scored = scores + float(np.nansum(told, dtype=np.float64)), scored + int((~np.isnan(told)).sum())
    if not covered:
        raise UserError(
            f"{one.name} covers no training sample",
            where="train.teachers",
            todo="leave it out, or set unseen=false if it was trained on them all",
        )
    return Taught(one.recipe, features, one.trust, one.captions, scores / scored if scored else 1.0)


def _union(one: Ranges, other: Ranges, samples: int) -> Ranges:
    return Ranges.of_mask(one.mask(samples) | other.mask(samples))


def _standard(one: statistics.Standard) -> Standard:
    """The statistics of one side, as objectives use them."""
    variances = one.variances.astype(np.float64)
    vectors = one.rotation.astype(np.float64).T @ equaliser(variances)
    covariance = (vectors * variances) @ vectors.T
    arrays = (one.mean, one.rotation.T / one.scale, covariance)
    return Standard(*(torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in arrays))
