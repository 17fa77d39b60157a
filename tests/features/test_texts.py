"""Lengths of texts before they are cut, by each kind of tokenizer; which captions a corpus can ask for."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from transformers import BertTokenizerFast

from medweave.features.texts import TEXTS as BATCH
from medweave.features.texts import bank_captions, token_counts, triplets
from medweave.models.tokens import Tokens

TEXTS = ["normal", "a chest x ray", "a chest x ray with a fracture of the heart " * 9, ""]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "chest", "x", "ray", "with", "of", "the", "heart", "normal"]


@pytest.fixture
def bert(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), model_max_length=16).save_pretrained(tmp_path)
    return tmp_path


def test_lengths_are_those_of_whole_texts(bert):
    bpe, words = SimpleTokenizer(), HFTokenizer(str(bert), 16)
    naive = {
        "bpe": [len(bpe.encode(text)) + 2 for text in TEXTS],
        "words": [len(words.tokenizer.tokenize(text)) + 2 for text in TEXTS],
    }
    tokenizers = {"bpe": Tokens(bpe, 16), "words": Tokens(words, 16)}
    for name, expected in naive.items():
        encoder = SimpleNamespace(model=SimpleNamespace(tokenize=tokenizers[name]))
        found = token_counts(encoder, TEXTS)
        assert found.dtype == np.uint16 and found.tolist() == expected and max(expected) > 16
    plain = SimpleNamespace(model=SimpleNamespace(tokenize=None, tokenizer=words.tokenizer))
    assert token_counts(plain, TEXTS).tolist() == naive["words"]
    assert token_counts(plain, []).tolist() == token_counts(encoder, []).tolist() == []


def test_captions_are_those_of_findings_that_occur(corpus):
    found = triplets(corpus)
    assert {(modality, anatomy) for modality, anatomy, _ in found} == {("xray", "chest"), ("ct", "head")}
    assert len(found) == 4 and ("xray", "chest", "pneumonia") in found
    captions = bank_captions(corpus)
    assert captions == sorted(set(captions)) and len(captions) >= 40


def test_few_texts_are_counted_at_a_time(bert):
    """Each is padded to the longest length that is measured: a whole shard of them would fill the memory."""
    words, sizes = HFTokenizer(str(bert), 16), []
    tokenize = Tokens(lambda texts, context_length: (sizes.append(len(texts)), words(texts, context_length))[1], 16)
    encoder = SimpleNamespace(model=SimpleNamespace(tokenize=tokenize))
    texts = TEXTS * 130
    assert token_counts(encoder, texts).tolist() == token_counts(encoder, TEXTS).tolist() * 130
    assert sizes == [BATCH, BATCH, 8, len(TEXTS)]


def test_further_banks_add_their_captions(corpus, tmp_path):
    entry = {"modality": "xray", "anatomy": "chest", "finding": "pneumonia"}
    (tmp_path / "own.yaml").write_text(json.dumps([entry | {"captions": ["a lung of our own words"]}]))
    before, after = bank_captions(corpus), bank_captions(corpus, [tmp_path / "own.yaml"])
    assert set(before) < set(after) and "a lung of our own words" in set(after) - set(before)
