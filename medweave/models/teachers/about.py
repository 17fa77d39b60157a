"""What people and programs are told of teachers: the list, a card, how to get it, whether a copy is right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medweave.errors import UserError
from medweave.models.teachers import places
from medweave.models.teachers.catalogue import Card, words
from medweave.recipe import as_data

HEADINGS = ("name", "domains", "sides", "width", "licence class", "gated", "here")
WIDEST = 34  # of a column


@dataclass
class Copy:
    """A copy on this machine, and what came of opening it. deviations: of its golden vectors, a side each."""

    place: Path
    problem: str | None = None
    deviations: dict[str, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def table(cards: Iterable[Card]) -> str:
    """One line a teacher. Opens no weights."""
    rows = [HEADINGS, *(_row(card) for card in cards)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def listing(cards: Iterable[Card]) -> list[dict[str, Any]]:
    """The same for programs: each card with its place on this machine."""
    return [{**as_data(card), "sides": list(card.sides), "place": _text(places.found(card))} for card in cards]


def checked(card: Card, folder: Path | None) -> Copy | None:
    """Open the copy in `folder`, else the one found here, try it out and check its golden vectors; None without one."""
    place = places.found(card) if folder is None else places.folder_of(card, folder)
    if place is None or card.family is None:
        return None
    from medweave.models.load import TEACHER, encoder_of
    from medweave.models.teachers import golden
    from medweave.models.teachers.opening import opened

    copy = Copy(place)
    try:
        encoder = encoder_of(opened(card, place), TEACHER + card.name)
        golden.try_out(encoder)
        copy.facts = encoder.facts
        wanted = golden.expected(card, place)
        copy.deviations = None if wanted is None else golden.deviations(encoder, wanted)
    except UserError as error:
        copy.problem = str(error)
    return copy


def card_data(card: Card, copy: Copy | None) -> dict[str, Any]:
    """A card, how to get it and its copy for programs."""
    found = None
    if copy is not None:
        found = {"place": str(copy.place), "problem": copy.problem, "golden": copy.deviations, "facts": copy.facts}
    return {"card": {**as_data(card), "sides": list(card.sides)}, "get": places.how(card), "copy": found}


def card_text(card: Card) -> str:
    """A card and how to get it for people: one fact a line."""
    lines = [f"{card.title} ({card.name})", *(f"  {name:<12}{value}" for name, value in _facts(card))]
    lines += [f"  {'to get it':<12}{step}" for step in places.how(card)]
    return "\n".join(lines + ([f"  {'notes':<12}{card.notes}"] if card.notes else []))


def copy_text(card: Card, copy: Copy | None) -> str:
    """What came of the check, in a line or two."""
    if card.family is None:
        return "Medweave has no loader for its format."
    if copy is None:
        return "No copy on this machine."
    if copy.problem is not None:
        return f"The copy in {copy.place} is not right: {copy.problem}"
    loaded = f"The copy in {copy.place} loads: {copy.facts['parameters']:,} parameters, every key in its place."
    if copy.deviations is None:
        return f"{loaded}\nIts golden vectors are not known, so its rows are not checked."
    off = ", ".join(f"{side} off by {value:.1e}" for side, value in copy.deviations.items())
    return f"{loaded}\nIts golden vectors hold: {off}."


def _row(card: Card) -> tuple[str, ...]:
    here = "yes" if places.found(card) is not None else "no"
    cells = (card.name, words(card.domains), words(card.sides), words(card.width), card.licence_class)
    cut = (cell if len(cell) <= WIDEST else cell[: WIDEST - 1] + "…" for cell in cells)
    return (*cut, words(card.gated), here if card.family is not None else "no loader")


def _facts(card: Card) -> list[tuple[str, str]]:
    rows: list[tuple[str, Any]] = [("paper", card.paper), ("family", card.family), ("domains", card.domains)]
    if card.image is not None:
        side = card.image
        rows.append(("images", f"{side.tower}; {side.size} pixels, {side.policy}, {side.interpolation}"))
        rows.append(("", f"mean {words(side.mean)}; std {words(side.std)}{'; brightness only' if side.grey else ''}"))
    if card.text is not None:
        rows.append(("texts", f"{card.text.tower}; tokenizer {card.text.tokenizer}, {card.text.context} tokens"))
    if card.head is not None:
        rows.append(("head", f"{card.head.kind}, scale {card.head.scale}"))
    rows += [("width", card.width), ("licence", f"{words(card.licence)} (class {card.licence_class})")]
    rows += [("gated", card.gated), ("rows", f"may be handed on: {words(card.features_redistributable)}")]
    rows.append(("students", f"bound by its terms: {words(card.reaches_models_trained_on_outputs)}"))
    return [(name, words(value)) for name, value in rows]


def _text(place: Path | None) -> str | None:
    return None if place is None else str(place)
