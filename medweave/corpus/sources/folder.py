"""A folder of images, with a CSV or Parquet manifest, with a folder for each class, or bare.

The recipe says which column of the manifest means what; one column may divide the folder into several sources.
DICOM files tell modality, anatomy, patient and study themselves where the manifest does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medweave.corpus.limits import BadImage
from medweave.corpus.recipe import SourceRecipe as BaseRecipe
from medweave.corpus.sample import MODALITIES, TEXT_KINDS, Sample, State, Text
from medweave.corpus.sources._rows import columns_of, empty_folders, is_dicom, rows_of, rows_of_tree
from medweave.corpus.sources._words import SPLIT_WORDS, Words
from medweave.errors import RequestError, nearest, unknown_name
from medweave.recipe import Section

NUMBERED = {"1": State.PRESENT, "0": State.ABSENT, "-1": State.UNCERTAIN}


class Columns(Section):
    """Which column of the manifest holds what. A field that is left out has no column."""

    path: str = Field("path", description="path of the image, relative to the folder")
    id: str | None = Field(None, description="the owner's name of the image; None: its path without suffix")
    source: str | None = Field(None, description="its values become separate sources")
    labels: str | list[str] | None = Field(
        None,
        description="labels; or a list of columns, one a label, with 1 present, 0 absent, -1 uncertain, empty unknown",
    )
    caption: str | None = Field(None, description="text about the image")
    findings: str | None = Field(None, description="findings section of a report")
    impression: str | None = Field(None, description="impression section of a report")
    keywords: str | None = Field(None, description="keywords")
    modality: str | None = Field(None, description="modality")
    anatomy: str | None = Field(None, description="body part")
    patient: str | None = Field(None, description="person, or what else must not straddle splits")
    patient_scope: str | None = Field(None, description="where a patient's name is unique; none: the source")
    study: str | None = Field(None, description="study or visit")
    split: str | None = Field(None, description="the owner's split, which then is kept")
    licence: str | None = Field(None, description="licence in the owner's words")
    extra: list[str] = Field([], description="further columns to keep")

    def named(self) -> dict[str, str]:
        """Dotted field -> column, for every column that the recipe names."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in ("labels", "extra")}
        labels = self.labels if isinstance(self.labels, list) else [self.labels] if self.labels else []
        fields |= {f"labels.{i}" if isinstance(self.labels, list) else "labels": c for i, c in enumerate(labels)}
        fields |= {f"extra.{i}": column for i, column in enumerate(self.extra)}
        return {f"columns.{name}": column for name, column in fields.items() if column is not None}


class SourceRecipe(BaseRecipe):
    """A folder of images: where it lies, what its manifest says, and what holds for all of it."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(description="the folder")
    manifest: Path | None = Field(None, description="CSV, TSV or Parquet file in the folder; None: every image in it")
    columns: Columns = Field(Columns(), description="which column holds what")
    values: dict[str, dict[str, str | None]] = Field(
        {}, description="by field of `columns`: the owner's word -> ours; null: not known"
    )
    labels_from: Literal["folder"] | None = Field(
        None, description="folder: the name of an image's folder is its label"
    )
    separator: str = Field("|", min_length=1, description="between several labels of one image")
    exhaustive: bool | list[str] = Field(
        False, description="labelled images lack every other label of their source and modality (or: in which sources)"
    )
    include: dict[str, list[str]] = Field({}, description="column -> values: only rows with one of them")
    exclude: dict[str, list[str]] = Field({}, description="column -> values: no row with one of them")
    strip: list[str] = Field(
        [], description="regular expressions cut out of every text, for example credits at its end"
    )
    modality: str | None = Field(None, description="modality, where no column or file tells it")
    anatomy: str | None = Field(None, description="body part, where no column or file tells it")
    licence: str | None = Field(None, description="licence, where no column tells it")
    patient_scope: str | None = Field(None, description="name shared by the sources that share patients")
    salt: str = Field(
        "", exclude=True, repr=False, description="secret that patient names of DICOM files are hashed with"
    )

    @field_validator("strip")
    @classmethod
    def _good_patterns(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, modality: str | None) -> str | None:
        if modality is not None and modality not in MODALITIES:
            raise ValueError(f"must be one of {', '.join(MODALITIES)}")
        return modality

    @field_validator("values")
    @classmethod
    def _known_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values:
            if name not in Columns.model_fields:
                near = " or ".join(nearest(name, Columns.model_fields))
                raise ValueError(f"no field of `columns` is called {name!r}; did you mean {near}?")
        return values

    @model_validator(mode="after")
    def _one_origin_of_labels(self) -> SourceRecipe:
        if self.labels_from and self.columns.labels:
            raise ValueError("labels come from columns.labels or from labels_from, not from both")
        return self


class Source:
    """The samples of a folder."""

    def __init__(self, recipe: SourceRecipe) -> None:
        self.recipe = recipe
        self.folder = recipe.path
        self.root = recipe.path.resolve()
        self.name = recipe.name or self.root.name
        self.manifest = recipe.manifest and recipe.path / recipe.manifest
        self.strip = [re.compile(pattern) for pattern in recipe.strip]
        self.words = Words(recipe.values)

    def samples(self) -> Iterator[Sample]:
        """Every sample in the manifest's order, or in the order of paths. Raises RequestError for a wrong manifest."""
        self._check()
        known = self._labels_of_sources()
        seen: set[str] = set()
        for number, row in self._rows():
            yield self._sample(number, row, known, seen)

    def image(self, place: str) -> bytes:
        """A file's bytes. Raises BadImage when it is not there, or is a link that leads out of the folder."""
        path = self.folder / place
        try:
            if not path.resolve().is_relative_to(self.root):
                raise BadImage("a link that leads out of its folder", "copy the file into it, or name its real folder")
            return path.read_bytes()
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}", "fetch it again, or take it off the manifest") from None

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
        wanted = self.recipe.columns.named() if self.manifest else {}
        wanted |= {f"{word}.{c}": c for word in ("include", "exclude") for c in getattr(self.recipe, word)}
        for field, column in wanted.items():
            if column not in columns:
                near = ", ".join(nearest(column, columns) or sorted(columns))
                raise RequestError(
                    f"{field}: no column {column!r}", where=self.manifest or self.folder, todo=f"nearest: {near}"
                )
        empty = empty_folders(self.folder) if self.recipe.labels_from and not self.manifest else []
        if empty:
            raise RequestError(
                f"no image in the folder of the class {empty[0].name!r}", where=empty[0], todo="fill or remove it"
            )

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row number from 1, row) of what include and exclude leave."""
        include = {column: set(values) for column, values in self.recipe.include.items()}
        exclude = {column: set(values) for column, values in self.recipe.exclude.items()}
        for number, row in rows_of(self.manifest) if self.manifest else rows_of_tree(self.folder):
            inside = all(str(row[column]) in values for column, values in include.items())
            if inside and not any(str(row[column]) in values for column, values in exclude.items()):
                yield number, row

    def _sample(self, number: int, row: dict[str, Any], known: Mapping[Any, list[str]], seen: set[str]) -> Sample:
        place = self._place(number, row)
        source, modality = self._source(row), self._modality(number, row)
        facts = self._file_facts(place, modality, row)
        scope = self._value(row, "patient_scope") or self.recipe.patient_scope
        patient = self._value(row, "patient") or facts.get("patient")
        return Sample(
            id=self._id(source, place, row, seen),
            source=source,
            place=place,
            modality=modality or facts.get("modality") or self._no_modality(number),
            anatomy=self._value(row, "anatomy") or self.recipe.anatomy or facts.get("anatomy"),
            texts=self._texts(row),
            findings=self._findings(row, known.get((source, modality), ())),
            patient=patient,
            patient_scope=scope if patient else None,
            study=self._value(row, "study") or facts.get("study"),
            split=self._split(number, row),
            licence=self._value(row, "licence") or self.recipe.licence,
            extra={column: row[column] for column in self.recipe.columns.extra},
        )

    def _place(self, number: int, row: dict[str, Any]) -> str:
        """The image's path below the folder, with forward slashes."""
        own = str(row[self.recipe.columns.path if self.manifest else "path"] or "").replace("\\", "/")
        place = os.path.normpath(own) if own else ""
        if not place or place.startswith(("/", "..")) or place == "." or ":" in place.split("/")[0]:
            what = f"row {number}: the path {own!r} is not inside the folder" if own else f"row {number}: no path"
            raise RequestError(what, where=self.manifest, todo="paths are relative to the folder and stay in it")
        return place

    def _id(self, source: str, place: str, row: dict[str, Any], seen: set[str]) -> str:
        """source/name. Two files that differ in their suffix alone keep it."""
        own = self._value(row, "id")
        stem = f"{source}/{own or PurePosixPath(place).with_suffix('')}"
        if own or place in seen or stem not in seen:
            seen |= {stem, place}
            return stem
        return f"{source}/{place}"

    def _source(self, row: dict[str, Any]) -> str:
        name = self._value(row, "source") or self.name
        return re.sub(r'[\s/\\:*?"<>|]+', "_", name)

    def _value(self, row: dict[str, Any], field: str) -> str | None:
        """The value of a field in our words; None where there is no column, or it is empty."""
        column = getattr(self.recipe.columns, field) if self.manifest else None
        if column is None or row[column] is None:
            return None
        return self.words.ours(field, str(row[column]).strip())

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
        complete = modality and self._value(row, "patient") and self._value(row, "study")
        if complete or not is_dicom(f"{self.folder}/{place}"):
            return {}
        from medweave.corpus import dicom

        try:
            facts = dicom.facts(self.folder / place, self.recipe.salt)
        except BadImage:  # found again, and listed as skipped, when its pixels are read
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

    def _findings(self, row: dict[str, Any], known: list[str] | tuple[()]) -> dict[str, State]:
        """Owner's label -> state. known: the labels that are absent unless stated."""
        if isinstance(self.recipe.columns.labels, list) and self.manifest:
            states = {c: NUMBERED.get(str(row[c]).strip().removesuffix(".0")) for c in self.recipe.columns.labels}
            return {self._label(c): state for c, state in states.items() if state}
        present = {label: State.PRESENT for label in self._labels(row)}
        return present | {label: State.ABSENT for label in known if label not in present} if present else {}

    def _labels(self, row: dict[str, Any]) -> list[str]:
        """The labels of a row, in our words where values.labels maps them."""
        column = "folder" if self.recipe.labels_from else self.recipe.columns.labels
        cell = row.get(column) if isinstance(column, str) else None
        if column == "folder" and self.manifest:
            cell = PurePosixPath(str(row[self.recipe.columns.path])).parent.name
        own = cell if isinstance(cell, list) else str(cell or "").split(self.recipe.separator)
        return [mapped for label in own if str(label).strip() and (mapped := self._label(str(label).strip()))]

    def _label(self, own: str) -> str:
        """An owner's label in our words; "" where values.labels maps it to null."""
        return self.words.ours("labels", own) or ""

    def _labels_of_sources(self) -> dict[tuple[str, str | None], list[str]]:
        """(source, modality) -> its labels, for the sources whose labels are exhaustive."""
        if not self.recipe.exhaustive:
            return {}
        known: dict[tuple[str, str | None], dict[str, None]] = {}
        for number, row in self._rows():
            source = self._source(row)
            if self.recipe.exhaustive is True or source in self.recipe.exhaustive:
                known.setdefault((source, self._modality(number, row)), {}).update(dict.fromkeys(self._labels(row)))
        return {key: list(labels) for key, labels in known.items()}
