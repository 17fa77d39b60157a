"""The catalogue: what is known of each teacher, as data (catalogue.yaml, or a card of one's own). Imports no torch.

What nobody has read in a teacher's own page or files is UNKNOWN: neither a guess nor None, which means there is none.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from medweave.errors import RequestError, unknown_name
from medweave.models.offline import PACKAGES
from medweave.models.recipe import Policy
from medweave.recipe import Section, check, read_yaml

FILE = Path(__file__).with_name("catalogue.yaml")
T = TypeVar("T")

Domain = Literal[
    "xray",
    "ct",
    "mri",
    "ultrasound",
    "mammography",
    "pathology",
    "cytology",
    "microscopy",
    "fundus",
    "oct",
    "dermoscopy",
    "endoscopy",
    "pet",
    "other",
]
DOMAINS: tuple[str, ...] = get_args(Domain)
LicenceClass = Literal["open", "non-commercial", "share-alike", "no-derivatives", "research", "unknown"]


class Unknown(StrEnum):
    """The value of what is not known."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN
Maybe = Annotated[Unknown | T, Field(union_mode="left_to_right")]
Colour = tuple[float, float, float]


class Hub(Section):
    """Where a teacher lies on the hub."""

    id: str = Field(pattern=r"^[^/\s]+/[^/\s]+$", description="OWNER/NAME")
    kind: Literal["model", "dataset"] = Field("model", description="kind of repository")
    revision: Maybe[str] = Field(UNKNOWN, description="the commit that was read; unknown: the newest is taken")
    files: tuple[str, ...] = Field((), description="patterns of the files to get; none: all")


class ImageSide(Section):
    """The image tower and what it expects of pixels. What is unknown here is taken from the teacher's files."""

    tower: Maybe[str] = Field(UNKNOWN, description="the network, in the field's words")
    size: Maybe[int] = Field(UNKNOWN, description="side of the square input in pixels")
    policy: Maybe[Policy] = Field(UNKNOWN, description="how an image becomes a square")
    edge: Maybe[int] = Field(UNKNOWN, description="crop: shorter side in pixels before the centre is cut out")
    square_first: bool = Field(False, description="pad: to a square before resizing, not after")
    interpolation: Maybe[Literal["bicubic", "bilinear"]] = Field(UNKNOWN, description="how it is resized")
    mean: Maybe[Colour] = Field(UNKNOWN, description="mean of the pixels in 0..1")
    std: Maybe[Colour] = Field(UNKNOWN, description="their spread")
    grey: bool = Field(False, description="whether the tower sees brightness only")
    pooling: Literal["own", "cls", "cls+mean"] = Field(
        "own", description="how a tower without a joint space gives one vector; own: as its library does"
    )


class TextSide(Section):
    """The text tower and how texts are cut and pooled."""

    tower: Maybe[str] = Field(UNKNOWN, description="the network, in the field's words")
    tokenizer: Maybe[str] = Field(
        UNKNOWN,
        description="hub id where the tokenizer (and, for own formats, the tower's configuration) lies; own: with the "
        "teacher; clip: the BPE of CLIP",
    )
    context: Maybe[int] = Field(UNKNOWN, description="most tokens of a text")
    pooling: Maybe[Literal["own", "mean", "cls"]] = Field("own", description="how tokens become one vector")
    masked: bool = Field(True, description="false: the tower sees padding up to its context as if it were text")


class HeadCard(Section):
    """How likenesses become logits."""

    kind: Maybe[Literal["softmax", "sigmoid"]] = Field(description="how logits become probabilities")
    scale: Maybe[float] = Field(UNKNOWN, description="what cosines are multiplied with")


class Golden(Section):
    """The first numbers of the unit rows of the fixed image and text of `golden.py`."""

    image: tuple[float, ...] | None = Field(None, description="of the image; None: no image side")
    text: tuple[float, ...] | None = Field(None, description="of the text; None: no text side")


class Card(Section):
    """All that is known of one teacher."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="what references call it: teacher:NAME")
    title: str = Field(description="its own name")
    paper: Maybe[str] = Field(UNKNOWN, description="arXiv number or journal")
    family: str | None = Field(description="file of teachers/families that opens it; None: no loader here")
    options: dict[str, Any] = Field({}, description="what the family asks beyond this")
    hub: Hub | None = Field(description="where it lies; None: not on the hub")
    get: str | None = Field(None, description="how to get it, where that is not the hub")
    package: str | None = Field(None, description="the weights of medweave.models.offline that are this teacher")
    domains: Maybe[tuple[Domain, ...]] = Field(description="modalities that it was made for; `all` in the YAML: each")
    image: ImageSide | None = Field(description="None: it embeds no images")
    text: TextSide | None = Field(description="None: it embeds no texts")
    head: HeadCard | None = Field(description="None: images and texts cannot be compared")
    width: Maybe[int] = Field(description="numbers a row")
    licence: Maybe[str] = Field(description="of the weights, in the owner's words")
    licence_class: LicenceClass = Field(description="as for data (medweave.corpus.licences)")
    gated: Maybe[bool] = Field(description="whether the hub asks to accept terms first")
    features_redistributable: Maybe[bool] = Field(description="whether rows computed with it may be handed on")
    reaches_models_trained_on_outputs: Maybe[bool] = Field(description="whether its terms bind its students too")
    golden: Golden | None = Field(None, description="rows to check a copy with, where they are known")
    notes: str = Field("", description="what else a user should know")

    @field_validator("domains", mode="before")
    @classmethod
    def _all_domains(cls, value: Any) -> Any:
        return DOMAINS if value == "all" else value

    @field_validator("package")
    @classmethod
    def _known_package(cls, value: str | None) -> str | None:
        if value is not None and value not in PACKAGES:
            raise ValueError(f"no weights come as the package {value}: there are {', '.join(PACKAGES)}")
        return value

    @model_validator(mode="after")
    def _has_sides(self) -> Card:
        if self.image is None and self.text is None:
            raise ValueError("a teacher embeds images, texts or both: give image or text")
        if (self.head is None) == (len(self.sides) == 2):
            raise ValueError("a teacher with both sides has a head, one with a single side has none")
        if self.hub is None and self.get is None and self.package is None:
            raise ValueError("give hub, or get: how a user comes by it")
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """What it embeds: images, texts, or both."""
        return tuple(name for name, side in (("images", self.image), ("texts", self.text)) if side is not None)


class Catalogue(Section):
    """The whole file."""

    teachers: tuple[Card, ...]

    @model_validator(mode="after")
    def _names_once(self) -> Catalogue:
        names = [card.name for card in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


@cache
def cards() -> dict[str, Card]:
    """The cards of the catalogue by name."""
    return {card.name: card for card in check(read_yaml(FILE), Catalogue, where=FILE).teachers}


def card(name: str) -> Card:
    """The card of a name, or of a YAML file of one's own that holds one card. Raises RequestError."""
    if name.endswith((".yaml", ".yml")):
        return check(read_yaml(Path(name)), Card, where=name)
    if name not in cards():
        raise unknown_name("teacher", name, cards())
    return cards()[name]


def image_of(card: Card) -> ImageSide:
    """The card's image side. Raises RequestError where it has none."""
    if card.image is None:
        raise RequestError(f"the card of {card.name} has no image side, which its family needs")
    return card.image


def text_of(card: Card) -> TextSide:
    """The card's text side. Raises RequestError where it has none."""
    if card.text is None:
        raise RequestError(f"the card of {card.name} has no text side, which its family needs")
    return card.text


def words(value: Any) -> str:
    """A value of a card for people."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "all" if value == DOMAINS else ", ".join(str(one) for one in value)
    return str(value)
