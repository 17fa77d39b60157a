"""Where a teacher's files are on this machine, and how to get them. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from medweave.errors import RequestError, UserError
from medweave.models import offline
from medweave.models.teachers.catalogue import UNKNOWN, Card, Hub, text_of

PAGE = "https://huggingface.co"
OTHER_FORMATS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "onnx/*", "openvino/*", "*.tflite", "*.gguf"]
TOWER_FILES = ["*.json", "*.txt", "*.model"]  # configuration and tokenizer
TEXT = "text"  # subfolder of a local copy


def found(card: Card) -> Path | None:
    """The teacher's folder if it is on this machine: an installed package, or the newest one of the hub's cache."""
    if card.package is not None and importlib.util.find_spec(offline.PACKAGES[card.package]) is not None:
        return offline.weights_folder(card.package)
    return None if card.hub is None else _cached(card.hub)


def fetched(card: Card) -> Path:
    """The teacher's folder, got from the hub where it must be. Raises UserError saying how to get it otherwise."""
    if card.package is not None and (place := found(card)) is not None:
        return place
    if card.hub is None:
        raise UserError(f"teacher {card.name} is not on the hub", todo="; ".join(how(card)))
    return _snapshot(card.hub, list(card.hub.files) or None, "; ".join(how(card)))


def folder_of(card: Card, folder: str | Path) -> Path:
    """A local copy. Raises RequestError when there is no such folder."""
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise RequestError("no such folder", where=folder, todo=f"to get {card.name}: {'; '.join(how(card))}")
    return place


def text_folder(card: Card, folder: Path) -> Path:
    """Where configuration and tokenizer of the text tower of an own format lie: `text/` in the copy, or on the hub."""
    if (folder / TEXT).is_dir():
        return folder / TEXT
    source = text_of(card).tokenizer
    if "/" not in source:
        raise UserError(f"the card of {card.name} names no hub id of a tokenizer", where=folder, todo=f"fill {TEXT}/")
    return _snapshot(Hub(id=source), TOWER_FILES, _text_command(card))


def how(card: Card) -> list[str]:
    """What to do to get the teacher, a step each."""
    steps = [] if card.get is None else [card.get]
    if card.package is not None:
        steps.append("install the extra: pip install 'medweave[offline]'")
    if card.hub is not None:
        if card.gated is not False:
            steps.append(
                f"{'accept' if card.gated is True else 'see whether you must accept'} the terms at {_page(card.hub)}"
            )
        steps.append(_command(card.hub))
    if _own_format(card):
        steps.append(_text_command(card))
    return steps


def _own_format(card: Card) -> bool:
    """Whether the text tower's configuration and tokenizer come from another repository than the weights."""
    return card.text is not None and "/" in str(card.text.tokenizer) and card.family not in (None, "open_clip")


def _page(hub: Hub) -> str:
    return f"{PAGE}/{'datasets/' if hub.kind == 'dataset' else ''}{hub.id}"


def _command(hub: Hub) -> str:
    words = ["hf download", hub.id, *_including(hub.files)]
    words += ["--repo-type dataset"] if hub.kind == "dataset" else []
    words += [] if hub.revision is UNKNOWN else [f"--revision {hub.revision}"]
    return " ".join(words)


def _text_command(card: Card) -> str:
    words = ["hf download", text_of(card).tokenizer, *_including(TOWER_FILES), f"--local-dir FOLDER/{TEXT}"]
    return f"for a copy in FOLDER, its tokenizer too: {' '.join(words)}"


def _including(patterns: Sequence[str]) -> list[str]:
    return [f"--include '{pattern}'" for pattern in patterns]


def _cached(hub: Hub) -> Path | None:
    """The folder in the hub's cache: of the revision, else the newest."""
    place = Path(constants.HF_HUB_CACHE) / f"{hub.kind}s--{hub.id.replace('/', '--')}" / "snapshots"
    if hub.revision is not UNKNOWN:
        return place / hub.revision if (place / hub.revision).is_dir() else None
    folders = [folder for folder in place.glob("*/") if any(folder.iterdir())]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _snapshot(hub: Hub, files: list[str] | None, todo: str) -> Path:
    from huggingface_hub import snapshot_download

    from medweave.models.reaching import quietly

    revision = None if hub.revision is UNKNOWN else str(hub.revision)
    try:
        with quietly():
            folder = snapshot_download(
                hub.id, repo_type=hub.kind, revision=revision, allow_patterns=files, ignore_patterns=OTHER_FORMATS
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot get {hub.id}: neither in the local hub cache nor from the hub", todo=f"{todo} ({reason})"
        ) from error
    return Path(folder)
