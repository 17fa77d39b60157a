"""Sentence encoders alone: a transformers text tower, with sentence-transformers' files beside it or without.

b texts, l tokens, d the width of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import BatchEncoding

from medweave.errors import UserError
from medweave.files import read_json
from medweave.models.architecture import text_positions
from medweave.models.teachers.catalogue import UNKNOWN, Card, text_of
from medweave.models.teachers.files import mapping_in
from medweave.models.teachers.one_sided import TextsOnly
from medweave.models.teachers.strict import model_in, tokenizer_in, width_of
from medweave.models.weights import HEADS

MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers: those that are repeated here
POOLINGS = ("mean", "cls")
OLD_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


class Sentences(TextsOnly):
    """A text tower whose tokens are pooled: their mean, or the first of them."""

    def __init__(self, card: Card, folder: Path) -> None:
        pooling = _pooling(card, folder)
        _check_modules(folder)
        model = model_in(folder, unused=HEADS)
        model.pooler = None
        config = model.config
        super().__init__(width_of(config, folder), _context(card, folder, config))
        self.model, self.pooling = model, pooling
        self.tokenizer = tokenizer_in(folder, config.vocab_size)

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Token numbers and masks, padded to the longest text."""
        return self.tokenizer(
            list(texts), padding="longest", truncation=True, max_length=self.context, return_tensors="pt"
        )

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Unit rows [b, d]."""
        states = self.model(**tokens).last_hidden_state
        if self.pooling == "cls":
            return functional.normalize(states[:, 0], dim=-1)
        mask = tokens["attention_mask"].unsqueeze(-1)
        return functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def open_teacher(card: Card, folder: Path) -> Sentences:
    """The model of a folder of transformers or sentence-transformers."""
    return Sentences(card, folder).eval()


def _context(card: Card, folder: Path, config: Any) -> int:
    """The files' limit, else the card's, else the most that the tower can read."""
    file, known = folder / "sentence_bert_config.json", text_of(card).context
    told = mapping_in(file).get("max_seq_length")
    if told is not None and not isinstance(told, int):
        raise UserError(f"max_seq_length is {told!r} and no whole number", where=file)
    limit = told or (None if known is UNKNOWN else known) or text_positions(config.to_dict())
    if limit is None:
        raise UserError(f"neither the files nor the card tell the context of {card.name}", where=folder)
    return int(limit)


def _pooling(card: Card, folder: Path) -> str:
    """The files' way of pooling, else the card's."""
    pooling = _told_pooling(folder) or text_of(card).pooling
    if pooling not in POOLINGS:
        raise UserError(f"neither the files nor the card tell how {card.name} pools tokens", where=folder)
    return pooling


def _told_pooling(folder: Path) -> str | None:
    """What sentence-transformers' file says, in its old form or its new one; None without such a file."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    told = mapping_in(file)
    old = [name for name, on in told.items() if name.startswith("pooling_mode_") and on]
    mode = told.get("pooling_mode") or (OLD_MODES.get(old[0]) if len(old) == 1 else None)
    if mode not in POOLINGS:
        raise UserError("it pools tokens in a way that is not repeated here", where=file)
    return str(mode)


def _check_modules(folder: Path) -> None:
    file = folder / "modules.json"
    modules = read_json(file) if file.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(one, dict) and "type" in one for one in modules):
        raise UserError("modules.json is no list of modules with a type each", where=file)
    names = [str(module["type"]).rpartition(".")[2] for module in modules]
    other = [name for name in names if name not in MODULES]
    if other:
        raise UserError(f"it has parts that are not repeated here: {', '.join(other)}", where=file)
