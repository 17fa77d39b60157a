"""A model on disk: an open_clip hub folder, so that stock open_clip opens it, with `medweave.json` and a card beside.

open_clip_config.json, open_clip_model.safetensors, the tokenizer's files, text/config.json of a transformers tower,
image/config.json of a timm tower at an unusual size. open_clip wants absolute paths of the last two: they are corrected
when a moved folder is opened here, and become hub names on export.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save as safetensors_of

from medweave.errors import RequestError, UserError
from medweave.files import read_json, sync_folder, write_bytes, write_json
from medweave.models import card
from medweave.models.architecture import Architecture, assemble, text_config
from medweave.models.preprocess import Preprocess
from medweave.models.tokens import Tokens, tokenizer_of
from medweave.models.two_towers import DualModel
from medweave.models.weights import load_strictly, open_clip_state, read_state, weights_file

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
FACTS = "medweave.json"
PARTS = {"embed_dim", "vision_cfg", "text_cfg"}  # of model_cfg
TOKENIZERS = ("token*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "*.model")


def save(model: DualModel, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write the model folder, whole or not at all; a folder that was there is replaced.

    facts: what medweave.json keeps for checks and README.md tells people (recipe and corpus hash, licence, …). The
    corpus is named by its place relative to the run where it lies beside it, so that both can be moved together.
    """
    folder, known = folder.resolve(), {**model.facts, **(facts or {})}
    with _whole_folder(folder) as draft:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.clip.state_dict().items()}
        write_bytes(draft / WEIGHTS, safetensors_of(state))  # save_file tells a full disk by an error of its own
        model.architecture.write_parts(draft)
        if isinstance(model.tokenize.tokenizer, HFTokenizer):
            model.tokenize.tokenizer.save_pretrained(str(draft))
        write_json(draft / CONFIG, _config(model.architecture.placed(folder), model.preprocess))
        write_json(draft / FACTS, {"format": 1, "facts": _placed(known, folder, _relative)})
        write_bytes(draft / card.FILE, card.card_text(known).encode())


def add_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add to the facts of a saved model, for example its calibration; nothing else of it changes."""
    stored = _part(folder / FACTS) or {"format": 1, "facts": {}}
    write_json(folder / FACTS, {**stored, "facts": {**stored["facts"], **facts}})


def facts_of(folder: Path) -> dict[str, Any]:
    """What was stored with a model, its corpus by a path that can be opened; {} for a folder of another maker."""
    folder = folder.resolve()
    return _placed((_part(folder / FACTS) or {"facts": {}})["facts"], folder, _absolute)


def is_model(folder: Path) -> bool:
    """Whether a model lies in this folder, or lay there when a process died while it saved the next one."""
    folder = folder.resolve()
    return (folder / CONFIG).is_file() or (bool(folder.name) and _beside(folder, "old").is_dir())


def open_folder(folder: Path) -> DualModel:
    """The model of an open_clip folder, in eval(). Raises UserError when weights and configuration disagree."""
    folder = folder.resolve()
    _recover(folder)
    config = read_json(folder / CONFIG)
    model_cfg = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model_cfg, dict) or not model_cfg.keys() >= PARTS:
        raise UserError("no model_cfg with embed_dim, vision_cfg and text_cfg", where=folder / CONFIG)
    architecture = architecture_in(folder, model_cfg)
    clip = assemble(architecture)
    file = weights_file(folder)
    load_strictly(clip, open_clip_state(clip, read_state(file)), str(file))
    _correct(folder, config, architecture)
    tokens = Tokens(tokenizer_of(architecture.model_cfg["text_cfg"], folder), _context(architecture))
    preprocess = Preprocess.from_open_clip(config.get("preprocess_cfg") or {}, side_of(architecture))
    return DualModel(clip, architecture, preprocess, tokens, facts_of(folder)).eval()


def export(folder: Path, out: Path, repository: str) -> None:
    """Copy a model folder for the hub as `OWNER/NAME`: all that open_clip looks for is then found under that name.

    Where the corpus lies on this machine is left out. The card is written anew and names the repository. Raises
    RequestError for a name that the hub could not have.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise RequestError(f"{repository!r} is no name on the hub", todo="write OWNER/NAME")
    config = read_json(folder / CONFIG)
    architecture = architecture_in(folder.resolve(), config["model_cfg"])
    with _whole_folder(out.resolve()) as draft:
        for pattern in (WEIGHTS, *TOKENIZERS):
            for file in folder.glob(pattern):
                shutil.copyfile(file, draft / file.name)
        facts = facts_of(folder)
        add_facts(draft, _placed(facts, folder, lambda *_: None))
        write_bytes(draft / card.FILE, card.card_text(facts, repository).encode())
        placed = architecture.placed(draft, text=repository, image=f"hf-hub:{repository}")
        write_json(draft / CONFIG, {**config, "model_cfg": placed})
        parts = {**(architecture.text_config or {}), **(architecture.image_config or {})}
        if parts:
            write_json(draft / "config.json", parts)


def architecture_in(folder: Path, model_cfg: Mapping[str, Any]) -> Architecture:
    """The architecture that a folder's `model_cfg` and the files beside it describe."""
    text, image = (_part(folder / name / "config.json") for name in ("text", "image"))
    hub_name = model_cfg["text_cfg"].get("hf_model_name")
    if text is None and hub_name:
        text = text_config(hub_name)
    return Architecture(model_cfg, text, image)


def side_of(architecture: Architecture) -> int:
    """Side of the square input in pixels. Raises UserError for models of another shape."""
    size = architecture.model_cfg["vision_cfg"].get("image_size", 224)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) > 1:
        raise UserError(f"the model reads images of {size} pixels", todo="only square inputs are supported")
    return int(sides.pop())


def _placed(facts: Mapping[str, Any], folder: Path, place: Callable[[str, Path], str | None]) -> dict[str, Any]:
    """The facts with other paths of the corpora trained on: what `place` makes of each and the run's folder."""
    if not facts.get("trained_on"):
        return dict(facts)
    return {**facts, "trained_on": _moved(facts["trained_on"], lambda path: place(path, folder.parent))}


def _moved(trained_on: Mapping[str, Any], place: Callable[[str], str | None]) -> dict[str, Any]:
    """A training, and those before it, with other paths."""
    moved = dict(trained_on)
    if moved.get("path"):
        moved["path"] = place(moved["path"])
    if moved.get("before"):
        moved["before"] = _moved(moved["before"], place)
    return moved


def _relative(path: str, run: Path) -> str:
    """Relative to the run where the corpus lies in the folder that holds the run, or below it."""
    inside = Path(path).is_absolute() and Path(path).resolve().is_relative_to(run.parent)
    return os.path.relpath(Path(path).resolve(), run) if inside else path


def _absolute(path: str, run: Path) -> str:
    """Back from the run's folder; what is not there stays as it is stored (a URL, a place on another machine)."""
    found = Path(os.path.normpath(run / path))
    return str(found) if found.exists() else path


def _context(architecture: Architecture) -> int:
    return int(architecture.model_cfg["text_cfg"].get("context_length", 77))


def _config(model_cfg: Mapping[str, Any], preprocess: Preprocess) -> dict[str, Any]:
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess.as_open_clip()}


def _part(file: Path) -> dict[str, Any] | None:
    return read_json(file) if file.is_file() else None


def _correct(folder: Path, config: Mapping[str, Any], architecture: Architecture) -> None:
    """Let a moved folder name its own parts again, for stock open_clip. A read-only folder stays as it is."""
    if not any((folder / name / "config.json").is_file() for name in ("text", "image")):
        return
    placed = architecture.placed(folder)
    if json.loads(json.dumps(placed)) != config["model_cfg"]:
        with suppress(PermissionError):
            write_json(folder / CONFIG, {**config, "model_cfg": placed})


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a draft folder that takes the place of `folder` when the block ends well."""
    draft, old = _beside(folder, f"{os.getpid()}.part"), _beside(folder, "old")
    _recover(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise RequestError("this folder holds something else than a model", where=folder, todo="choose another folder")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        draft.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Put the old folder back if a process died between the two renames."""
    old = _beside(folder, "old")
    if not folder.exists() and old.exists():
        old.rename(folder)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}.{ending}")
