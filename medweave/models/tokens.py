"""Texts to token numbers, padded to the longest of the batch where the tower allows it, else to the context.

b texts, l tokens, c the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from medweave.errors import UserError
from medweave.models.reaching import reaching

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
TOLERANCE = 1e-5
TRIAL = ("x-ray", "chest radiograph of an adult with clear lungs, a normal heart and no pleural effusion")


class Tokens:
    """A tower's tokenizer, cutting at its context."""

    def __init__(self, tokenizer: HFTokenizer | SimpleTokenizer, context: int, freely: bool = False) -> None:
        self.tokenizer, self.context, self.freely = tokenizer, context, freely
        inner = getattr(tokenizer, "tokenizer", None)
        self.pad = int(inner.pad_token_id) if inner is not None else 0

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 [b, l]: l is the longest text's length where padding is free, else c."""
        whole = self.padded(texts)
        return self.trimmed(whole) if self.freely else whole

    def padded(self, texts: Sequence[str]) -> Tensor:
        """int64 [b, c]."""
        return self.tokenizer(list(texts), context_length=self.context)

    def trimmed(self, tokens: Tensor) -> Tensor:
        """Without the columns at the end that are padding in every row."""
        used = (tokens != self.pad).any(0).nonzero()
        return tokens[:, : int(used[-1]) + 1 if len(used) else 1]


def pads_freely(model: CustomTextCLIP, tokens: Tokens) -> bool:
    """Whether a text's row is the same padded to the context and not padded at all, to 1e-5."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            whole = model.encode_text(tokens.padded(TRIAL), normalize=True)
            alone = [model.encode_text(tokens.trimmed(tokens.padded([text])), normalize=True) for text in TRIAL]
    except (RuntimeError, IndexError):  # causal towers of open_clip take the full context only; others not as much
        return False
    finally:
        model.train(training)
    return bool((torch.cat(alone) - whole).abs().max() < TOLERANCE)


def tokenizer_of(text_cfg: Mapping[str, Any], folder: Path | None = None) -> HFTokenizer | SimpleTokenizer:
    """The tokenizer that open_clip's `text_cfg` names; files of a tokenizer in `folder` come first."""
    context, options = text_cfg.get("context_length", 77), dict(text_cfg.get("tokenizer_kwargs") or {})
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=context, **options)
    here = folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES)
    source = str(folder) if here else name
    with reaching(source if here or folder is None else f"{name}, which is not in {folder}", "tokenizer"):
        tokenizer = HFTokenizer(source, context, tokenizer_mode=text_cfg.get("tokenizer_mode"), **options)
    check_tokenizer(tokenizer.tokenizer, source)
    return tokenizer


def check_tokenizer(tokenizer: Any, where: str | Path) -> None:
    """Raises UserError for a tokenizer of no use: transformers makes one without words where its files are missing."""
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            "no tokenizer lies here", where=where, todo="get its files too: tokenizer.json, or vocab.txt and the like"
        )
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no padding token", where=where)
