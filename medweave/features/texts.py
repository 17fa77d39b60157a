"""Texts that get rows: how long they are before a teacher cuts them, and the captions of a corpus's banks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medweave.corpus.captions.bank import Bank, Triplet
from medweave.corpus.sample import State
from medweave.corpus.store import Corpus
from medweave.models.encoder import Encoder
from medweave.models.tokens import Tokens

LONG = 2048  # tokens; no text is measured beyond
MANY = 2**16 - 1
TEXTS = 256  # counted at a time


def token_counts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.uint16]:
    """How many tokens each text has, those of its beginning and end among them, before any is cut: [m]."""
    batches = [_token_counts(encoder, texts[at : at + TEXTS]) for at in range(0, len(texts), TEXTS)]
    return np.concatenate([np.zeros(0, np.uint16), *batches])


def _token_counts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.uint16]:
    tokenize = encoder.model.tokenize
    if isinstance(tokenize, Tokens):
        tokens = tokenize.tokenizer(list(texts), context_length=LONG).numpy()
        lengths = ((tokens != tokenize.pad) * np.arange(1, LONG + 1)).max(1)
    else:
        found = encoder.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        lengths = np.array([len(tokens) for tokens in found])
    return lengths.clip(0, MANY).astype(np.uint16)


def bank_captions(corpus: Corpus, banks: Sequence[Path] = ()) -> list[str]:
    """Every caption that the corpus's banks, or further ones, have for a finding that is present in a sample.

    Distinct and sorted. banks: files that a run reads in place of the corpus's own. Raises RequestError for one that
    is none.
    """
    known = [Bank.load(files) for files in ([corpus.banks(), banks] if banks else [corpus.banks()])]
    return sorted({text for triplet in triplets(corpus) for bank in known for text in bank.captions(*triplet)})


def triplets(corpus: Corpus) -> set[Triplet]:
    """Every (modality, anatomy, finding) that is present in a sample."""
    found: set[Triplet] = set()
    for batch in corpus.batches(["modality", "anatomy", "findings"]):
        modality, anatomy, findings = batch.columns
        named, row = findings.flatten(), findings.value_parent_indices()
        table = pa.table([modality.take(row), anatomy.take(row), named.field("name")], names=["m", "a", "f"])
        present = table.filter(pc.equal(named.field("state"), State.PRESENT.value))
        found.update(tuple(one.values()) for one in present.group_by(["m", "a", "f"]).aggregate([]).to_pylist())
    return found
