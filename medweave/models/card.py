"""The model card of a saved folder: what medweave.json holds, for people and for the hub (README.md). Imports no torch.

Equal facts give equal bytes: no date, and no place on this machine. What is not known of a model is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

FILE = "README.md"
HERE = "path/to/this/folder"
USE = """## How to load it

```python
import medweave
model = medweave.load("{ours}")
print(model.logits(model.embed_images(["image.png"]), model.embed_texts(["pleural effusion", "no effusion"])))
```

With open_clip alone:

```python
import open_clip
model, transform = open_clip.create_model_from_pretrained("{theirs}")
tokenizer = open_clip.get_tokenizer("{theirs}")
```"""
NOT_FOR = """## What it is not for

It is for research. It is not a medical device, and nothing that it says is a diagnosis."""


def card_text(facts: Mapping[str, Any], hub: str | None = None) -> str:
    """The card of a model with these facts of medweave.json. hub: OWNER/NAME, where it is to be found on the hub."""
    ours, theirs = (HERE, f"local-dir:{HERE}") if hub is None else (f"hf-hub:{hub}",) * 2
    parts = [_front(facts), _what(facts), USE.format(ours=ours, theirs=theirs), _training(facts), _inherited(facts)]
    return "\n\n".join(part for part in (*parts, NOT_FOR) if part) + "\n"


def _front(facts: Mapping[str, Any]) -> str:
    """What the hub reads of a card. A computed licence class is none of the licences that the hub has names for."""
    front = {"library_name": "open_clip", "pipeline_tag": "zero-shot-image-classification"}
    if facts.get("licence_class"):
        front |= {"license": "other", "license_name": _line(facts["licence_class"])}
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _what(facts: Mapping[str, Any]) -> str:
    lines = [f"# {_line(facts.get('name') or 'A model of Medweave')}", ""]
    lines += ["A model with two towers: it puts biomedical images and their texts into one space."]
    modalities = _modalities(facts)
    lines += [f"Its domains: {', '.join(map(_line, modalities))}."] if modalities else []
    towers = [f"{side}: `{facts[f'{side}_tower']}`" for side in ("image", "text") if facts.get(f"{side}_tower")]
    lines += [f"Its towers: {_line('; '.join(towers))}."] if towers else []
    return "\n".join(lines)


def _modalities(facts: Mapping[str, Any]) -> Sequence[str]:
    """Those that it was made for, else those of the findings that it was trained on."""
    domains = facts.get("domains")
    if isinstance(domains, list | tuple):
        return domains
    return sorted({place["modality"] for place in facts.get("places") or ()})


def _training(facts: Mapping[str, Any]) -> str:
    """Sources with their licences, how much was seen, and which corpus; "" where nothing of it is known."""
    parts = []
    if facts.get("licences"):
        names = ("source", "licence", "licence_class", "samples")
        rows = ([_known(row, name) for name in names] for row in facts["licences"])
        parts.append(_table(("source", "licence", "class", "images in the corpus"), rows))
    lines = []
    if facts.get("images_seen") is not None and facts.get("steps") is not None:
        lines.append(f"It saw {facts['images_seen']:,} images, repeats included, in {facts['steps']:,} steps.")
    corpus = (facts.get("trained_on") or {}).get("corpus")
    lines += [f"Hash of its corpus: `{_line(corpus)}`."] if corpus else []
    lines += [f"Hash of its recipe: `{_line(facts['recipe'])}`."] if facts.get("recipe") else []
    return _section("What it was trained on", [*parts, "\n".join(lines)])


def _inherited(facts: Mapping[str, Any]) -> str:
    """The terms that come with its data and teachers; "" where none are stated."""
    sentences = [f"- {_line(sentence)}" for sentence in facts.get("inherits") or ()]
    if facts.get("binds_students"):
        sentences.append("- Terms of its teachers reach models that learn from this one, or may do so.")
    names = ("rows", "model", "weights")
    rows = ([_known(teacher, name) for name in names] for teacher in facts.get("teachers") or ())
    teachers = _table(("teacher", "model", "hash of its weights"), rows) if facts.get("teachers") else ""
    return _section("What it inherits", ["\n".join(sentences), teachers])


def _section(heading: str, parts: Iterable[str]) -> str:
    """The parts that say something, under a heading; "" where none does."""
    said = [part for part in parts if part]
    return "\n\n".join([f"## {heading}", *said]) if said else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_line(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)


def _known(row: Mapping[str, Any], name: str) -> Any:
    return "unknown" if row.get(name) is None else row[name]


def _line(value: Any) -> str:
    """A value on one line."""
    words = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(words.split())
