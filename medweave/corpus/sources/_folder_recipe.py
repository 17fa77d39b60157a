"""What a recipe says of a folder of images: its manifest's columns, its labels, what is left out, and the salt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medweave.corpus.recipe import SourceRecipe as BaseRecipe
from medweave.corpus.sample import MODALITIES
from medweave.errors import nearest
from medweave.recipe import Section

PART = re.compile(r"\{([^{}]+)\}")  # a column in a pattern of paths


class Columns(Section):
    """Which column of the manifest holds what. A field that is left out has no column."""

    path: str = Field(
        "path",
        description="path of the image, relative to the folder; or a pattern of columns, such as train/{ID}.jpg",
    )
    id: str | None = Field(None, description="the owner's name of the image; None: its path without suffix")
    source: str | None = Field(None, description="its values become separate sources")
    labels: str | list[str] | None = Field(
        None,
        description="labels; or a list of columns, one a label, with 1, true or yes for present, 0, false or no for "
        "absent, -1 or uncertain, and nothing for unknown",
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
        lists = ("path", "labels", "extra")
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in lists}
        parts = PART.findall(self.path) or [self.path]
        fields |= {f"path.{i}" if len(parts) > 1 else "path": column for i, column in enumerate(parts)}
        labels = self.labels if isinstance(self.labels, list) else [self.labels] if self.labels else []
        fields |= {f"labels.{i}" if isinstance(self.labels, list) else "labels": c for i, c in enumerate(labels)}
        fields |= {f"extra.{i}": column for i, column in enumerate(self.extra)}
        return {f"columns.{name}": column for name, column in fields.items() if column is not None}

    def path_in(self, row: Mapping[str, Any]) -> str:
        """The path that a row of the manifest tells; empty where a column of it is."""
        if not PART.search(self.path):
            return str(row[self.path] or "")
        cells = {column: row[column] for column in PART.findall(self.path)}
        told = all(cell not in (None, "") for cell in cells.values())
        return PART.sub(lambda part: str(cells[part[1]]), self.path) if told else ""


class SourceRecipe(BaseRecipe):
    """A folder of images: where it lies, what its manifest says, and what holds for all of it."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(description="the folder; where it is not given, that of the `folder` source before it")
    manifest: Path | None = Field(None, description="CSV, TSV or Parquet file in the folder; None: every image in it")
    columns: Columns = Field(Columns(), description="which column of the manifest holds what")
    values: dict[str, dict[str, str | None]] = Field(
        {}, description="by field of `columns`: the owner's word -> ours; null: not known"
    )
    labels_from: Literal["folder"] | None = Field(
        None, description="folder: the name of an image's folder is its label"
    )
    separator: str = Field("|", min_length=1, description="between several labels of one image")
    exhaustive: bool | list[str] = Field(
        False,
        description="labelled images lack every other label of their source and modality, empty cells of labels' own "
        "columns included; or the names of the sources in which they do",
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
    salt: str | None = Field(
        None,
        min_length=1,
        exclude=True,
        repr=False,
        description="secret that patients and studies of DICOM files are hashed with; None: the one in `salt_file`",
    )
    salt_file: Path | None = Field(
        None,
        exclude=True,
        description="file that holds the salt, which is drawn if it is not there; None: `.salt` in the corpus",
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
    def _columns_of_a_manifest(self) -> SourceRecipe:
        if self.manifest is None and self.columns != Columns():
            raise ValueError("columns are those of a manifest: name it in manifest:, or leave out columns:")
        return self

    @model_validator(mode="after")
    def _one_origin_of_labels(self) -> SourceRecipe:
        if self.labels_from and self.columns.labels:
            raise ValueError("labels come from columns.labels or from labels_from, not from both")
        return self
