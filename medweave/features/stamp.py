"""What stored rows were made of: teacher, preprocessing, format and shards. Of anything else, they are not the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medweave.corpus.store import Corpus
from medweave.errors import DamagedError, RequestError, UserError
from medweave.features.layout import Layout
from medweave.features.rows import AGAIN, Kind, is_stored
from medweave.features.views import Views, is_alike
from medweave.files import hash_of, read_json, write_json
from medweave.models.encoder import Encoder
from medweave.models.teachers import golden
from medweave.models.teachers.catalogue import LicenceClass
from medweave.recipe import Section, as_data, check

FORMAT = 1
Side = Literal["images", "texts"]
KEPT = 64  # numbers of a row that tell it from others
LIKE = 0.999  # cosine of two rows of the same thing, on whatever machine
ANEW = "extract the rows anew with `medweave features … --replace`"
WORDS = ("chest x-ray", "CT of the brain, no haemorrhage; follow-up in 3 months", "Adénocarcinome 5 µm")


class Head(Section):
    """A teacher's own scale and bias."""

    scale: float = Field(description="logits are scale x cosine + bias")
    bias: float = Field(description="0 for a softmax head")
    kind: Literal["softmax", "sigmoid"] = Field(description="how logits become probabilities")


class Teacher(Section):
    """Whose rows they are. What is None is not known, or not there."""

    name: str = Field(description="what the model calls itself")
    reference: str = Field(description="what it was loaded by")
    weights: str | None = Field(description="sha256 over all weights")
    pixels: str | None = Field(description="hash of what it expects of an image")
    tokens: str | None = Field(description="sha256 of its tokens of a few words")
    context: int | None = Field(description="most tokens of a text; longer ones are cut")
    preprocess: dict[str, Any] | None = Field(description="what it expects of an image")
    domains: tuple[str, ...] | None = Field(description="modalities that it was made for")
    licence: str | None = Field(description="as the model states it")
    licence_class: LicenceClass | None = Field(description="of that licence")
    binds_students: bool | None = Field(None, description="whether its terms reach models trained on its outputs")
    trained_on: dict[str, Any] | None = Field(None, description="corpus hash, part, sources left out of training")
    outputs: dict[Side, str] | None = Field(
        None, description="first numbers of its rows of a fixed picture and a fixed text, float16 as hex"
    )

    def knows(self, modality: str) -> bool:
        """Whether it was made for a modality, as far as it says."""
        return self.domains is None or modality in self.domains

    def other_outputs(self, other: Teacher) -> list[str]:
        """The sides on which it answers otherwise than another, as far as both are known: words for a sentence."""
        mine, theirs = self.outputs or {}, other.outputs or {}
        shared = [side for side in mine if side in theirs]
        return [f"outputs for {side}" for side in shared if not _cosine(mine[side], theirs[side]) >= LIKE]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its rows, in words for people."""
        return {
            "weights": self.weights,
            "preprocessing": self.pixels,
            "tokenizer": self.tokens,
            "context": self.context,
            "domains": self.domains,
        }


class ShardRows(Section):
    """What there is of one shard."""

    name: str = Field(description="the shard's file in the corpus")
    sha256: str = Field(description="of that file")
    samples: int = Field(description="its samples")
    views: int = Field(0, description="augmented views that have rows")
    first: int | None = Field(
        None, description="number of its first sample when its views were drawn; None: no views, or not known"
    )
    texts: int | None = Field(None, description="texts that have rows; None: texts have none")
    each: int | None = Field(None, description="texts of each sample, where all have as many; None: a file says it")
    cut: int = Field(0, description="texts that are longer than the context")
    unread: dict[int, str] = Field({}, description="place of a sample whose image cannot be read (its row is 0) -> why")

    def is_at(self, first: int) -> bool:
        """Whether its views, which sample numbers draw, are those of a shard whose first sample has this number."""
        return self.first in (None, first)


class Stamp(Section):
    """All that the rows of a folder depend on."""

    format: int = Field(description="of the folder")
    teacher: Teacher
    width: int = Field(description="of a row")
    sides: tuple[Side, ...] = Field(description="what the teacher embeds")
    head: Head | None = Field(description="None where there is none, or where it is not known")
    dtype: Kind = Field(description="of stored numbers")
    views: Views | None = Field(description="augmented views")
    specimen: str | None = Field(description="what the views make of a known picture")
    gaps: bool = Field(False, description="whether some samples have no rows: zeros stand for them")
    shards: tuple[ShardRows, ...] = Field((), description="in the order of the corpus")

    def differences(self, other: Stamp) -> list[str]:
        """In what the rows of two stamps differ, whatever the shards and the number of views: words for a sentence."""
        pairs = [(what, mine, other.teacher.identity[what]) for what, mine in self.teacher.identity.items()]
        pairs += [("width", self.width, other.width), ("towers", self.sides, other.sides)]
        pairs += [("numbers", self.dtype, other.dtype)]
        if self.views and other.views:
            pairs.append(("views", self.views, other.views.model_copy(update={"count": self.views.count})))
        if wrong := [what for what, mine, theirs in pairs if mine != theirs]:
            return wrong
        return self.teacher.other_outputs(other.teacher)

    @property
    def is_drawn_alike(self) -> bool:
        """Whether augmentation draws the same views now as when they were made."""
        return self.views is None or self.specimen is None or is_alike(self.specimen, self.views.specimen())

    def with_views(self, other: Stamp) -> Stamp:
        """This stamp with as many views as the one of the two that has more, and what the other says of the teacher."""
        count = self.views.count if self.views else 0
        more = other.views is not None and other.views.count > count
        views = {"views": other.views, "specimen": self.specimen or other.specimen} if more else {}
        return self.model_copy(update={"teacher": other.teacher, **views})

    @property
    def form(self) -> str:
        """sha256 of what decides the rows of a shard, but for the shard itself."""
        views = as_data(self.views) | {"count": None} if self.views else None
        return hash_of([self.teacher.identity, self.dtype, views])

    @property
    def rows_hash(self) -> str:
        """sha256 of what decides the rows of whole pictures and texts: what is computed from them is valid with it."""
        return hash_of([self.teacher.identity, self.dtype, [[shard.name, shard.sha256] for shard in self.shards]])


class Captions(Section):
    """What the rows of a bank are of."""

    captions: tuple[str, ...] = Field((), description="in the order of the rows")
    tokens: tuple[int, ...] = Field((), description="how many each has before it is cut")


def read_stamp(layout: Layout) -> Stamp | None:
    """The stamp of a folder; None where nothing was begun. Raises UserError for one that this version cannot read."""
    if not layout.stamp.is_file():
        return None
    todo = f"{ANEW}, or delete their folder"
    try:
        data = read_json(layout.stamp)
    except UserError as error:
        raise UserError(error.what, where=layout.stamp, todo=todo) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"rows of another format than {FORMAT}", where=layout.stamp, todo=todo)
    try:
        return check(data, Stamp, where=layout.stamp)
    except RequestError as error:
        wrong = error.what.splitlines()[1].strip()
        raise UserError(f"not a stamp: {wrong}", where=layout.stamp, todo=todo) from None


def write_stamp(layout: Layout, stamp: Stamp) -> None:
    """Keep a stamp, whole or not at all."""
    write_json(layout.stamp, as_data(stamp))


def read_record(layout: Layout, shard: int, stamp: Stamp) -> ShardRows | None:
    """What was made of a shard since the stamp was written last.

    None: nothing, nothing of this teacher and form, or nothing that can be read.
    """
    try:
        data = read_json(layout.record(shard))
        return ShardRows.model_validate(data["rows"]) if data["form"] == stamp.form else None
    except (UserError, KeyError, TypeError, ValueError):
        return None


def write_record(layout: Layout, shard: int, stamp: Stamp, rows: ShardRows) -> None:
    """Keep what was made of a shard until the stamp says it."""
    write_json(layout.record(shard), {"form": stamp.form, "rows": as_data(rows)})


def read_captions(layout: Layout) -> Captions:
    """The captions of a bank; none where it has none yet. Raises DamagedError for a list that cannot be read."""
    if not layout.captions.is_file():
        return Captions()
    try:
        return Captions.model_validate(read_json(layout.captions))
    except (UserError, ValueError):
        raise DamagedError("damaged", where=layout.captions, todo=AGAIN) from None


def write_captions(layout: Layout, known: Captions) -> None:
    """Keep the captions of a bank, whole or not at all."""
    write_json(layout.captions, as_data(known))


def is_of(rows: ShardRows, facts: Mapping[str, Any]) -> bool:
    """Whether rows are of a shard's file as the corpus has it now."""
    return (rows.name, rows.sha256) == (facts["name"], facts["sha256"])


def changed(corpus: Corpus, stamp: Stamp) -> list[str]:
    """The shards whose rows are not those of the corpus as it is now, and why: a phrase each."""
    found, first = [], 0
    for rows, facts in zip(stamp.shards, corpus.shards, strict=False):
        if not is_of(rows, facts):
            found.append(f"{facts['name']} has changed")
        elif not rows.is_at(first):
            found.append(f"{facts['name']} has moved in the corpus")
        first += facts["samples"]
    return found


def is_whole(rows: ShardRows, layout: Layout, shard: int, stamp: Stamp) -> bool:
    """Whether every file of a shard's rows is there, and as long as it should be."""
    images = [layout.image(shard, view) for view in range(rows.views + 1)] if "images" in stamp.sides else []
    arrays = [is_stored(path, (rows.samples, stamp.width), stamp.dtype) for path in images]
    if rows.texts:
        arrays.append(is_stored(layout.text(shard), (rows.texts, stamp.width), stamp.dtype))
        arrays.append(is_stored(layout.tokens(shard), (rows.texts,), np.uint16))
    if rows.texts is not None and rows.each is None:
        arrays.append(is_stored(layout.counts(shard), (rows.samples,), np.uint8))
    return all(arrays)


def teacher_of(encoder: Encoder, reference: str) -> Teacher:
    """What decides the rows of a model, and what goes with them."""
    facts, domains, trained_on = encoder.facts, encoder.facts.get("domains"), encoder.facts.get("trained_on")
    preprocess = encoder.preprocess if "images" in encoder.sides else None
    return Teacher(
        name=encoder.name,
        reference=reference,
        weights=encoder.weights_hash,
        pixels=preprocess.hash if preprocess else None,
        tokens=_tokens_hash(encoder) if "texts" in encoder.sides else None,
        context=facts.get("context"),
        preprocess=asdict(preprocess) if preprocess else None,
        domains=tuple(domains) if isinstance(domains, list | tuple) else None,
        licence=facts.get("licence"),
        licence_class=facts.get("licence_class"),
        binds_students=facts.get("binds_students"),
        trained_on={name: trained_on.get(name) for name in ("corpus", "part", "leave_out")} if trained_on else None,
        outputs=_outputs(encoder),
    )


def head_of(encoder: Encoder) -> Head | None:
    """The scale and bias of a model with two towers; None where its files do not tell them.

    Raises UserError for a scale that is no number above 0, and a bias that is no number.
    """
    if len(encoder.sides) < 2:
        return None
    try:
        head = encoder.head
    except UserError:
        return None
    golden.check_head(encoder)
    return Head(scale=head.scale, bias=head.bias, kind=head.kind)


def _outputs(encoder: Encoder) -> dict[Side, str]:
    """The rows of the picture and of the text that golden vectors are made of, by side."""
    rows: dict[Side, NDArray[np.float32]] = {}
    if "images" in encoder.sides:
        with golden.embedding(encoder, f"an image of {encoder.preprocess.size} pixels"):
            rows["images"] = encoder.embed_images(golden.picture())
    if "texts" in encoder.sides:
        with golden.embedding(encoder, f"the text {golden.TEXT!r}"):
            rows["texts"] = encoder.embed_texts(golden.TEXT)
    return {side: row[0, :KEPT].astype("<f2").tobytes().hex() for side, row in rows.items()}


def _cosine(one: str, other: str) -> float:
    """Of the first numbers of two rows in hex digits; -1 where they are not of the same width."""
    a, b = (np.frombuffer(bytes.fromhex(text), "<f2")[:KEPT].astype(np.float32) for text in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)).clip(1e-12)) if a.shape == b.shape else -1.0


def _tokens_hash(encoder: Encoder) -> str:
    tokens = encoder.model.tokenize(list(WORDS))
    return hash_of((tokens if hasattr(tokens, "tolist") else tokens["input_ids"]).tolist())
