"""What a two-tower model is built from: the `model:` section of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medweave.recipe import Section

Policy = Literal["crop", "pad", "squash"]
Freeze = bool | int
IMAGE_TOWERS = "timm:NAME or open_clip:ARCH"
TEXT_TOWERS = "transformers:FOLDER_OR_HUB_NAME, offline:minilm, open_clip:ARCH, or open_clip (the image tower's ARCH)"
FREEZE_HELP = "true: the whole tower but its projection; a number: all but so many of its last blocks"
OPEN_CLIP = "open_clip"


class _TowerRecipe(Section):
    """A tower of open_clip's has its own projection, which no default of ours replaces."""

    @model_validator(mode="before")
    @classmethod
    def _own_projection(cls, data: Any) -> Any:
        own = isinstance(data, dict) and str(data.get("tower", "")).startswith(OPEN_CLIP)
        return {"projection": None, **data} if own else data


class ImageTowerRecipe(_TowerRecipe):
    """The image tower and what it expects of pixels."""

    tower: str = Field(description=IMAGE_TOWERS)
    weights: str | None = Field(
        None,
        description="offline:efficientnet-lite0, -lite1, -lite2; public (timm's own for NAME); a tag of the open_clip "
        "ARCH; a weights file or a model folder; None: random",
    )
    size: int | None = Field(None, ge=16, le=4096, description="side of the square input in pixels; None: the tower's")
    resize: Policy = Field(
        "pad",
        description="crop: shorter side to size, centre cut out; pad: longer side to size, the rest black; "
        "squash: both sides to size",
    )
    interpolation: Literal["bicubic", "bilinear"] = Field("bicubic", description="how evaluation images are resized")
    mean: tuple[float, float, float] | None = Field(None, description="mean of the pixels in 0..1; None: the weights'")
    std: tuple[float, float, float] | None = Field(None, description="their spread; None: the weights'")
    projection: Literal["linear", "mlp", "none"] | None = Field(
        "linear", description="from a timm tower's output to the joint space; None: an open_clip tower's own"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of a timm tower's output in training")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of a timm tower in training")
    freeze: Freeze = Field(False, description=FREEZE_HELP)

    @field_validator("tower")
    @classmethod
    def _known_family(cls, tower: str) -> str:
        return _one_of(tower, ("timm:", "open_clip:"), IMAGE_TOWERS)

    @model_validator(mode="after")
    def _has_the_options(self) -> ImageTowerRecipe:
        _check_options(self, "a timm tower", ("projection", "dropout", "drop_path"))
        if self.projection == "none" and self.dropout:
            raise ValueError("dropout lies before the projection: with projection none there is none to set")
        return self


class TextTowerRecipe(_TowerRecipe):
    """The text tower and how texts are cut and pooled."""

    tower: str = Field(description=TEXT_TOWERS)
    weights: str | None = Field(
        "own",
        description="own: what lies with a transformers or offline tower; a tag of the open_clip ARCH; a weights file "
        "or a model folder; None: random",
    )
    context: int | None = Field(
        None, ge=4, le=8192, description="most tokens of a text; None: the tower's (256 at most)"
    )
    pooler: Literal["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler", "max_pooler"] | None = Field(
        None, description="how a transformers tower's tokens become one vector; None: its kind's usual way"
    )
    projection: Literal["linear", "mlp", "none"] | None = Field(
        "mlp", description="from a transformers tower's output to the joint space; None: an open_clip tower's own"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside a transformers tower in training")
    freeze: Freeze = Field(False, description=FREEZE_HELP)

    @field_validator("tower")
    @classmethod
    def _known_family(cls, tower: str) -> str:
        return (
            tower if tower == "open_clip" else _one_of(tower, ("transformers:", "offline:", "open_clip:"), TEXT_TOWERS)
        )

    @model_validator(mode="after")
    def _has_the_options(self) -> TextTowerRecipe:
        _check_options(self, "a transformers tower", ("projection", "pooler"))
        return self


class FreezeRecipe(Section):
    """What stays as it is in a whole model."""

    image: Freeze = Field(False, description=f"of the image tower, {FREEZE_HELP}")
    text: Freeze = Field(False, description=f"of the text tower, {FREEZE_HELP}")


class ModelRecipe(Section):
    """Two towers and their joint space, or a whole model to go on from (`start`)."""

    image: ImageTowerRecipe | None = Field(None, description="the image tower; left out with start")
    text: TextTowerRecipe | None = Field(None, description="the text tower; left out with start")
    start: str | None = Field(
        None, description="a whole model instead of towers: run or model folder, hf-hub:OWNER/NAME, open_clip:ARCH/TAG"
    )
    freeze: FreezeRecipe | None = Field(None, description="what start's towers keep; towers named one by one say it")
    embed: int | None = Field(
        None, ge=8, le=8192, description="width of the joint space; None: 512, or the open_clip ARCH's own"
    )
    head: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="how scale and bias begin: 1/0.07 and none, or 10 and -10; start keeps its own"
    )

    @model_validator(mode="after")
    def _towers_or_start(self) -> ModelRecipe:
        if self.start is None and (self.image is None or self.text is None):
            raise ValueError("give both image and text, or start")
        if self.start is not None and (self.image or self.text or self.embed):
            raise ValueError("start brings its own towers and width: leave image, text and embed out")
        if self.start is None and self.freeze is not None:
            raise ValueError("freeze goes with start: else write image.freeze and text.freeze")
        if (
            self.text
            and self.text.tower == "open_clip"
            and not (self.image and self.image.tower.startswith("open_clip:"))
        ):
            raise ValueError("text.tower open_clip goes with an image tower open_clip:ARCH; else name its ARCH")
        return self


def _check_options(tower: ImageTowerRecipe | TextTowerRecipe, family: str, options: tuple[str, ...]) -> None:
    """Raises ValueError for options of `family` that are set for a tower of open_clip's, which lacks them."""
    if not tower.tower.startswith(OPEN_CLIP):
        if tower.projection is None:
            raise ValueError("projection is linear, mlp or none: only open_clip towers have one of their own")
        return
    given = [name for name in options if name in tower.model_fields_set and getattr(tower, name)]
    if given:
        raise ValueError(f"{', '.join(given)} can be set for {family} only, not for {tower.tower}: leave it out")


def _one_of(tower: str, families: tuple[str, ...], help: str) -> str:
    if not tower.startswith(families) or tower in families:
        raise ValueError(f"must be {help}")
    return tower
