"""Whole two-tower models by reference: a run or model folder, `hf-hub:OWNER/NAME`, `open_clip:ARCH/TAG`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip

from medweave.errors import RequestError, nearest
from medweave.models.architecture import Architecture, arch_config, assemble, text_config
from medweave.models.folder import CONFIG, is_model, open_folder, side_of
from medweave.models.preprocess import Preprocess
from medweave.models.reaching import reaching
from medweave.models.teachers.catalogue import cards
from medweave.models.tokens import Tokens, tokenizer_of
from medweave.models.two_towers import DualModel
from medweave.models.weights import check_tag, load_strictly, tagged_state

HUB = "hf-hub:"
OPEN_CLIP = "open_clip:"
FOLDERS = "give a run or model folder, or hf-hub:OWNER/NAME"
HUB_FILES = ["open_clip_*", "*.json", "*.txt", "*.model", "text/*", "image/*"]


def open_whole(reference: str) -> DualModel:
    """The two-tower model that a reference names. Raises RequestError or UserError saying what to do."""
    if reference.startswith(HUB):
        return open_hub(reference.removeprefix(HUB))
    if reference.startswith(OPEN_CLIP):
        return open_tag(*_arch_and_tag(reference))
    return open_folder(model_folder(reference))


def model_folder(reference: str) -> Path:
    """The model folder that a path means: itself, or `model/` of a run folder. Raises RequestError without one."""
    if not reference.strip():
        raise RequestError("the name of the model is empty", todo=FOLDERS)
    path = Path(reference)
    for folder in (path, path / "model"):
        if is_model(folder):
            return folder
    if (path / "run.json").is_file():
        raise RequestError("this run has no model yet", where=path, todo="the same `medweave train` goes on with it")
    if path.exists():
        raise RequestError(f"no model in this folder (no {CONFIG})", where=path)
    names = [reference] if reference in cards() else [] if "/" in reference else nearest(reference, cards())
    beside = [folder.name for folder in path.parent.iterdir() if folder.is_dir()] if path.parent.is_dir() else []
    alike = [str(path.parent / name) for name in nearest(path.name, beside)] + [f"teacher:{name}" for name in names]
    todo = f"did you mean {' or '.join(alike)}?" if alike else FOLDERS
    raise RequestError(f"no model {reference!r}", todo=todo)


def open_hub(repository: str) -> DualModel:
    """An open_clip model of the hub, or of its local cache."""
    with reaching(repository, "model"):
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=HUB_FILES))
    if not (folder / CONFIG).is_file():
        raise RequestError(f"{repository} is no open_clip model (no {CONFIG})", todo=f"try transformers:{repository}")
    return open_folder(folder)


def open_tag(arch: str, tag: str) -> DualModel:
    """A public open_clip model."""
    check_tag(arch, tag)
    known = open_clip.get_pretrained_cfg(arch, tag)
    config: dict[str, Any] = arch_config(arch)
    config["quick_gelu"] = bool(config.get("quick_gelu") or known.get("quick_gelu"))
    config["text_cfg"].setdefault("context_length", 77)
    source = config["text_cfg"].get("hf_model_name")
    architecture = Architecture(config, text_config(source) if source else None)
    clip = assemble(architecture)
    load_strictly(clip, tagged_state(arch, tag), f"{arch}/{tag}")
    tokens = Tokens(tokenizer_of(config["text_cfg"]), int(config["text_cfg"]["context_length"]))
    preprocess = Preprocess.from_open_clip(known, side_of(architecture))
    return DualModel(clip, architecture, preprocess, tokens).eval()


def _arch_and_tag(reference: str) -> tuple[str, str]:
    arch, _, tag = reference.removeprefix(OPEN_CLIP).partition("/")
    arch_config(arch)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "it has none"
    if not tag:
        raise RequestError(f"{reference} names no weights", todo=f"write {OPEN_CLIP}{arch}/TAG; tags: {tags}")
    return arch, tag
