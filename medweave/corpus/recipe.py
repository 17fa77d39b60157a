"""What a corpus is built from, and how: the `corpus:` section of a recipe. Paths are relative to the working directory.

A source kind is one file in `medweave/corpus/sources/`: its `SourceRecipe` extends the one below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from medweave.corpus.address import Folder
from medweave.corpus.sample import LICENCE_CLASSES
from medweave.recipe import Section, by_kind

SIDES = ("train", "validation", "test")


class CaptionShares(Section):
    """How often a training caption is the sample's own text, and how often a bank caption for its findings."""

    own: float = Field(0.5, ge=0, description="share of draws from the sample's own texts, where it has any")
    bank: float = Field(0.5, ge=0, description="share of draws from the caption bank, where the sample has findings")

    @model_validator(mode="after")
    def _some_share(self) -> CaptionShares:
        if self.own + self.bank <= 0:
            raise ValueError("own and bank cannot both be 0")
        return self


class SourceRecipe(Section):
    """What every source has; each kind adds its own fields."""

    kind: str = Field(description="the file of medweave/corpus/sources that reads this layout")
    name: str | None = Field(None, description="name of the source; None: what the source itself suggests")
    captions: CaptionShares = Field(CaptionShares(), description="mix of own texts and bank captions in training")
    split: Literal["auto", "hash", "balanced", "owner"] | None = Field(
        None, description="how this source is split; None: as the corpus says"
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and (not name or set(name) & set('/\\:*?"<>| ')):
            raise ValueError("a source's name has no blanks and no / \\ : * ? \" < > |")
        return name


class LimitsRecipe(Section):
    """What an image may be; larger ones are skipped with a reason, by their header, before any decoding."""

    bytes: int = Field(64 * 2**20, gt=0, description="largest file, bytes")
    pixels: int = Field(100_000_000, gt=0, description="most pixels, width x height of one frame")
    aspect: float = Field(20.0, ge=1, description="longest over shortest side at most")
    frames: int = Field(10_000, ge=1, description="most frames of a multi-frame file")


class ImageRecipe(Section):
    """How pixels are stored. A JPEG within the limits is copied byte for byte unless its longer side is capped."""

    longest: int | None = Field(None, ge=16, description="cap on the longer side in pixels; None: stored as it is")
    format: Literal["jpg", "png"] = Field("jpg", description="format of images that must be encoded anew")
    quality: int = Field(95, ge=1, le=100, description="JPEG quality of images that must be encoded anew")
    frame: Literal["middle", "first", "last"] | int = Field(
        "middle", description="which frame of a multi-frame DICOM or TIFF file is the image"
    )
    window: tuple[float, Annotated[float, Field(ge=1)]] | None = Field(
        None,
        description="centre and width in HU of the window of CT in DICOM files; None: the file's own. DICOM files of "
        "other modalities always keep their own window or lookup table",
    )


class NearRecipe(Section):
    """When two images count as copies of one picture: candidates by perceptual hash, proof by their fine detail."""

    search: bool = Field(True, description="look for near-duplicates of this source's images")
    distance: int = Field(10, ge=0, le=20, description="most differing bits of 63 for a candidate pair")
    correlation: float | None = Field(
        None,
        gt=0,
        le=1,
        description="least agreement of fine detail at 64 x 64 px; None: 0.65 for fundus, 0.5 for others",
    )


class GroupsRecipe(Section):
    """Groups: images of one patient and near-duplicates, which never straddle splits or folds."""

    near: NearRecipe = Field(NearRecipe(), description="near-duplicate search over all sources")
    sources: dict[str, NearRecipe] = Field({}, description="other thresholds for single sources, by name")
    largest_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="a group that near-duplicates make larger than this share of its source is an error",
    )
    largest_images: int = Field(8, ge=1, description="groups of up to so many images are never too large")


class SplitRecipe(Section):
    """How groups are dealt to train, validation and test."""

    kind: Literal["auto", "hash", "balanced", "owner"] = Field(
        "auto",
        description="hash: by a hash of the group (for large sources); balanced: dealt to fill each class's quota (for "
        "small ones); auto: balanced up to 20,000 images a source, hash above; owner: all by the source's own split "
        "column. Such a column, where the recipe names one, is kept in any case; what it leaves empty is dealt",
    )
    train: float = Field(0.8, ge=0, le=1, description="share of train")
    validation: float = Field(0.1, ge=0, le=1, description="share of validation")
    test: float = Field(0.1, ge=0, le=1, description="share of test")

    @model_validator(mode="after")
    def _whole(self) -> SplitRecipe:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train + validation + test must be 1")
        return self

    @property
    def shares(self) -> tuple[float, float, float]:
        """The shares of train, validation and test."""
        return self.train, self.validation, self.test


class FoldsRecipe(Section):
    """Cross-validation folds, kept as the overlay `folds`: every sample is in the test part of exactly one fold."""

    count: int = Field(5, ge=2, le=100, description="number of folds")


class CorpusRecipe(Section):
    """A corpus: where it lies, what goes in, what is refused, how it is grouped, split and stored."""

    path: Folder = Field(description="folder that the corpus is built into")
    sources: list[Annotated[SourceRecipe, BeforeValidator(by_kind("medweave.corpus.sources", "SourceRecipe"))]] = Field(
        min_length=1, description="where samples come from"
    )
    banks: list[Path] = Field(
        [], description="caption banks of your own, kept beside the shipped ones: what a later file says replaces them"
    )
    findings: Path | None = Field(
        None, description="findings of your own in the form of the shipped findings.yaml, which they add to and replace"
    )
    accept: list[str] = Field(
        ["open"],
        description=f"licence classes ({', '.join(LICENCE_CLASSES)}), or names of sources taken whatever their class",
    )
    limits: LimitsRecipe = Field(LimitsRecipe(), description="what an image may be")
    image: ImageRecipe = Field(ImageRecipe(), description="how pixels are stored")
    groups: GroupsRecipe = Field(GroupsRecipe(), description="same patient, near-duplicates")
    split: SplitRecipe = Field(SplitRecipe(), description="train, validation, test")
    folds: FoldsRecipe | None = Field(None, description="cross-validation folds beside the split; None: no folds")
    shard: int = Field(1000, ge=1, description="samples a shard")
    seed: int = Field(0, ge=0, description="seed of splits, folds and the order inside shards")
    workers: int | None = Field(None, ge=1, description="processes that decode and write; None: one a core")
    engine: Literal["local", "ray"] = Field("local", description="where the workers run")

    @field_validator("sources", mode="before")
    @classmethod
    def _places(cls, sources: Any) -> Any:
        """A source that names no `path` lies where the one of its kind before it lies."""
        if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
            return sources  # what is wrong with it is told when it is checked
        places: dict[Any, Any] = {}
        found = []
        for source in sources:
            kind = str(source.get("kind"))
            places[kind] = path = source.get("path", places.get(kind))
            found.append(source if path is None else source | {"path": path})
        return found
