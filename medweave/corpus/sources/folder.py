"""A folder of images, with a CSV or Parquet manifest, with a folder for each class, or bare.

The recipe says which column of the manifest means what; one column may divide the folder into several sources.
DICOM files tell modality, anatomy, patient and study themselves where the manifest does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from medweave.corpus.limits import BadImage
from medweave.corpus.manifest import (
    columns_of,
    empty_folders,
    is_dicom,
    is_picture,
    others_of_tree,
    rows_of,
    rows_of_tree,
)
from medweave.corpus.salt import salt_in
from medweave.corpus.sample import MODALITIES, TEXT_KINDS, Sample, State, Text, somebody
from medweave.corpus.sources._expected import Expected, report
from medweave.corpus.sources._folder_recipe import SourceRecipe
from medweave.corpus.sources._words import SPLIT_WORDS, STATE_WORDS, Words, state_of
from medweave.corpus.vocabulary import plain
from medweave.errors import RequestError, mistakes, nearest, unknown_name
from medweave.progress import say

NOT_BELOW = re.compile("^[A-Za-z]:/|^[A-Za-z][A-Za-z0-9+.-]*://|\0")  # a drive, an address, no name of a file
RISING = [State.ABSENT, State.UNCERTAIN, State.PRESENT]  # of two columns of one label, the later state holds


class Source:
    """The samples of a folder. names: the sources that they belong to, as far as they have been asked for."""

    def __init__(self, recipe: SourceRecipe) -> None:
        self.recipe = recipe
        self.folder = recipe.path
        self.root = recipe.path.resolve()
        self.name = recipe.name or self.root.name
        self.manifest = recipe.manifest and recipe.path / recipe.manifest
        self.strip = [re.compile(pattern) for pattern in recipe.strip]
        self.words = Words(recipe.values)
        self.include = {column: set(values) for column, values in recipe.include.items()}
        self.exclude = {column: set(values) for column, values in recipe.exclude.items()}
        exhaustive = recipe.exhaustive if isinstance(recipe.exhaustive, list) else []
        self.exhaustive = {_file_name(name): name for name in exhaustive}
        self.names: set[str] = set()

    @cached_property
    def salt(self) -> str:
        """What identifiers in DICOM files are hashed with. Raises RequestError when its file is empty."""
        return salt_in(self.recipe.salt_file) if self.recipe.salt is None else self.recipe.salt

    def samples(self) -> Iterator[Sample]:
        """Every sample in the manifest's order, or in the order of paths.

        Raises RequestError for a wrong manifest, and for names in include, exclude and exhaustive that are not in it.
        """
        self._check()
        known = self._labels_of_sources()
        seen: set[str] = set()
        expected = self._expected()
        for number, row in self._all_rows():
            for words in expected:
                words.see(row)
            if self._is_wanted(row):
                sample = self._sample(number, row, known, seen)
                self.names.add(sample.source)
                yield sample
        report(expected, lambda: (row for _, row in self._all_rows()), self.manifest or self.folder)
        self._tell_of_others()

    def image(self, place: str) -> bytes:
        """A file's bytes. Raises BadImage when it is not there, or is a link that leads out of the folder."""
        try:
            return self._inside(place).read_bytes()
        except OSError as error:
            raise _unreadable(error) from None

    def stat(self, place: str) -> tuple[int, int]:
        """Bytes of a file, and when it was last written in nanoseconds; (0, 0) when it is not there."""
        try:
            found = (self.folder / place).stat()
        except OSError:
            return 0, 0
        return found.st_size, found.st_mtime_ns

    def _check(self) -> None:
        """Raises RequestError for a folder, manifest or column that is not there, and for a class without an image."""
        if not self.folder.is_dir():
            raise RequestError("no such folder", where=self.folder)
        columns = columns_of(self.manifest)
        if not columns:
            raise RequestError("an empty table", where=self.manifest, todo="its first line names the columns")
        wanted = self.recipe.columns.named() if self.manifest else {}
        wanted |= {f"{word}.{c}": c for word in ("include", "exclude") for c in getattr(self.recipe, word)}
        wrong = [
            f"{field}: no column {column!r}; nearest: {', '.join(nearest(column, columns) or sorted(columns))}"
            for field, column in wanted.items()
            if column not in columns
        ]
        if wrong:
            raise mistakes(wrong, self.manifest or self.folder)
        empty = empty_folders(self.folder) if self.recipe.labels_from and not self.manifest else []
        if empty:
            raise RequestError(
                f"no image in the folder of the class {empty[0].name!r}", where=empty[0], todo="fill or remove it"
            )

    def _all_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row number from 1, row)."""
        return rows_of(self.manifest) if self.manifest else rows_of_tree(self.folder)

    def _is_wanted(self, row: dict[str, Any]) -> bool:
        """Whether include and exclude leave a row in."""
        inside = all(str(row[column]) in values for column, values in self.include.items())
        return inside and not any(str(row[column]) in values for column, values in self.exclude.items())

    def _expected(self) -> list[Expected]:
        """The words of the recipe that ought to occur somewhere in the rows, left out or not."""
        expected = [Expected("exhaustive", dict(self.exhaustive), self._names_of)]
        for word, columns in (("include", self.include), ("exclude", self.exclude)):
            for column, values in columns.items():
                expected.append(Expected(f"{word}.{column}", {v: v for v in values}, partial(_cell, column)))
        for field, words in self.recipe.values.items():
            own = partial(self._plain_words, field)
            expected.append(Expected(f"values.{field}", {plain(word): word for word in words}, own, must=False))
        return expected

    def _names_of(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The source of a row, in our words and in the owner's."""
        return self._source(row), _file_name(self._own(row, "source") or self.name)

    def _plain_words(self, field: str, row: Mapping[str, Any]) -> list[str]:
        """What a row says in a field before any map, as maps compare it."""
        own = self._own_labels(row) if field == "labels" else [self._own(row, field) or ""]
        return [plain(word) for word in own if word]

    def _tell_of_others(self) -> None:
        """One line for the files of a folder without a manifest that are no images."""
        others = iter(()) if self.manifest else others_of_tree(self.folder)
        first = next(others, None)
        if first is not None:
            count = 1 + sum(1 for _ in others)
            say(f"{self.folder}: left out as neither picture nor DICOM: {count:,} files, the first is {first}")

    def _inside(self, place: str) -> Path:
        """The real path of a file. Raises BadImage when it is not there or not in the folder."""
        try:
            path = Path(os.path.realpath(self.folder / place, strict=True))
        except OSError as error:
            raise _unreadable(error) from None
        if not path.is_relative_to(self.root):
            raise BadImage("a link that leads out of its folder", "copy the file into it, or name its real folder")
        return path

    def _sample(self, number: int, row: dict[str, Any], known: Mapping[Any, list[str]], seen: set[str]) -> Sample:
        place = self._place(number, row)
        source, modality = self._source(row), self._modality(number, row)
        facts = self._file_facts(place, modality, row)
        scope = self._value(row, "patient_scope") or self.recipe.patient_scope
        patient = self._patient(row) or facts.get("patient")
        return Sample(
            id=self._id(source, place, row, seen),
            source=source,
            place=place,
            modality=modality or facts.get("modality") or self._no_modality(number),
            anatomy=self._value(row, "anatomy") or self.recipe.anatomy or facts.get("anatomy"),
            texts=self._texts(row),
            findings=self._findings(number, row, known.get((source, modality), ())),
            patient=patient,
            patient_scope=scope if patient else None,
            study=self._value(row, "study") or facts.get("study"),
            split=self._split(number, row),
            licence=self._value(row, "licence") or self.recipe.licence,
            extra={column: row[column] for column in self.recipe.columns.extra},
        )

    def _place(self, number: int, row: dict[str, Any]) -> str:
        """The image's path below the folder, with forward slashes."""
        own = (self.recipe.columns.path_in(row) if self.manifest else str(row["path"])).replace("\\", "/")
        place = os.path.normpath(own) if own else ""
        if not place or place.startswith(("/", "..")) or place == "." or NOT_BELOW.search(own):
            what = f"row {number}: the path {own!r} is not inside the folder" if own else f"row {number}: no path"
            raise RequestError(what, where=self.manifest, todo="paths are relative to the folder and stay in it")
        return place

    def _id(self, source: str, place: str, row: dict[str, Any], seen: set[str]) -> str:
        """source/name. Two files that differ in their suffix alone keep it; the last number of a UID is none."""
        own = self._value(row, "id")
        path = PurePosixPath(place)
        stem = f"{source}/{own or (path if path.suffix[1:].isdigit() else path.with_suffix(''))}"
        if own or place in seen or stem not in seen:
            seen |= {stem, place}
            return stem
        return f"{source}/{place}"

    def _source(self, row: Mapping[str, Any]) -> str:
        return _file_name(self._value(row, "source") or self.name)

    def _own(self, row: Mapping[str, Any], field: str) -> str | None:
        """The value of a field in the owner's words; None where there is no column, or it is null."""
        column = getattr(self.recipe.columns, field) if self.manifest else None
        return None if not isinstance(column, str) or row[column] is None else str(row[column]).strip()

    def _value(self, row: Mapping[str, Any], field: str) -> str | None:
        """The value of a field in our words; None where there is no column, or it is empty."""
        own = self._own(row, field)
        return None if own is None else self.words.ours(field, own)

    def _patient(self, row: Mapping[str, Any]) -> str | None:
        """The patient that the manifest names; None where it names nobody."""
        return somebody(self._value(row, "patient"))

    def _modality(self, number: int, row: dict[str, Any]) -> str | None:
        """The modality that column or recipe state."""
        name = self._value(row, "modality") or self.recipe.modality
        if name is not None and name not in MODALITIES:
            raise RequestError(
                f"row {number}: {name!r} is no modality",
                where=self.manifest,
                todo=f"map it in values.modality to one of {', '.join(MODALITIES)}",
            )
        return name

    def _split(self, number: int, row: dict[str, Any]) -> str | None:
        split = self._value(row, "split")
        if split is not None and split not in SPLIT_WORDS:
            raise unknown_name("split", split, SPLIT_WORDS, where=f"{self.manifest}, row {number}")
        return split

    def _no_modality(self, number: int) -> str:
        where = self.manifest or self.folder
        raise RequestError(
            f"row {number}: no modality", where=where, todo="set modality: or columns.modality of this source"
        )

    def _file_facts(self, place: str, modality: str | None, row: dict[str, Any]) -> dict[str, Any]:
        """What a DICOM file says of itself; {} for other files and where the manifest has said it all."""
        complete = modality and self._patient(row) and self._value(row, "study")
        if complete or is_picture(place):
            return {}
        from medweave.corpus import dicom

        try:
            path = self._inside(place)
            if not is_dicom(self.folder / place):
                return {}
            facts = dicom.facts(path, self.salt)
        except (BadImage, OSError):  # found again, and listed as skipped, when its pixels are read
            return {"modality": "other"}
        return {name: getattr(facts, name) for name in ("modality", "anatomy", "patient", "study")}

    def _texts(self, row: dict[str, Any]) -> tuple[Text, ...]:
        texts = []
        for kind in TEXT_KINDS:
            text = self._value(row, kind) or ""
            for pattern in self.strip:
                text = pattern.sub("", text)
            if text.strip():
                texts.append(Text(kind, text.strip()))
        return tuple(texts)

    def _findings(self, number: int, row: dict[str, Any], known: list[str] | tuple[()]) -> dict[str, State]:
        """Owner's label -> state. known: the labels that are absent unless stated."""
        stated = self._stated(number, row)
        return stated | {label: State.ABSENT for label in known if label not in stated} if stated else {}

    def _stated(self, number: int, row: dict[str, Any]) -> dict[str, State]:
        """What a row itself says of its labels, in our words where values.labels maps them."""
        if not isinstance(self.recipe.columns.labels, list):
            return {label: State.PRESENT for own in self._own_labels(row) if (label := self._label(own))}
        states: dict[str, State] = {}
        for column in self.recipe.columns.labels:
            state, label = self._state(number, column, row[column]), self._label(column)
            if label and state != State.UNKNOWN:
                states[label] = max(state, states.get(label, state), key=RISING.index)
        return states

    def _state(self, number: int, column: str, cell: object) -> State:
        state = state_of(cell)
        if state is None:
            words = "; ".join(f"{words} ({state})" for state, words in STATE_WORDS.items())
            raise RequestError(
                f"row {number}, column {column!r}: {cell!r} is no state", where=self.manifest, todo=f"{words}, or empty"
            )
        return state

    def _own_labels(self, row: Mapping[str, Any]) -> list[str]:
        """The labels of a row in the owner's words; of columns that are labels, all of them."""
        column = "folder" if self.recipe.labels_from else self.recipe.columns.labels
        if isinstance(column, list):
            return column
        cell = row.get(column) if column else None
        if column == "folder" and self.manifest:
            cell = PurePosixPath(self.recipe.columns.path_in(row)).parent.name
        own = cell if isinstance(cell, list) else str(cell or "").split(self.recipe.separator)
        return [str(label).strip() for label in own if str(label).strip()]

    def _label(self, own: str) -> str:
        """An owner's label in our words; "" where values.labels maps it to null."""
        return self.words.ours("labels", own) or ""

    def _labels_of_sources(self) -> dict[tuple[str, str | None], list[str]]:
        """(source, modality) -> its labels, for the sources whose labels are exhaustive."""
        if not self.recipe.exhaustive:
            return {}
        known: dict[tuple[str, str | None], dict[str, State]] = {}
        for number, row in self._all_rows():
            source = self._source(row)
            if self._is_wanted(row) and (self.recipe.exhaustive is True or source in self.exhaustive):
                known.setdefault((source, self._modality(number, row)), {}).update(self._stated(number, row))
        return {key: list(labels) for key, labels in known.items()}


def _file_name(name: str) -> str:
    """The name of a source as shards may be called."""
    return re.sub(r'[\s/\\:*?"<>|]+', "_", name)


def _cell(column: str, row: Mapping[str, Any]) -> tuple[str]:
    return (str(row[column]),)


def _unreadable(error: OSError) -> BadImage:
    return BadImage(f"cannot be read: {error.strerror}", "fetch it again, or take it off the manifest")


__all__ = ["Source", "SourceRecipe"]
