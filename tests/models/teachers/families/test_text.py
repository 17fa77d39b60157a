"""Sentence encoders alone against sentence-transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from medweave.errors import UserError

ONE_SIDED = {"family": "text", "image": None, "head": None}


@pytest.fixture
def sentence_folder(tmp_path, tiny_bert):
    """A function of a pooling mode to (their model, folder), as sentence-transformers saves it."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    def make(mode):
        tower = Transformer(str(tiny_bert))
        tower.max_seq_length = 12
        model = SentenceTransformer(modules=[tower, Pooling(24, mode), Normalize()], device="cpu")
        model.save(str(tmp_path / mode))
        return model, tmp_path / mode

    return make


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_rows_are_those_of_sentence_transformers(mode, sentence_folder, card_of, encoder, texts):
    model, folder = sentence_folder(mode)
    side = {"tokenizer": "own", "pooling": mode, "context": 12}
    ours = encoder(card_of(**ONE_SIDED, text=side, width=24), folder)
    texts = [*texts, "no fracture of the chest with a heart and the brain and lungs of the normal heart"]
    np.testing.assert_allclose(ours.embed_texts(texts), model.encode(texts), atol=1e-5)
    assert ours.sides == ("texts",) and (ours.facts["size"], ours.facts["context"]) == (None, 12)


def test_what_the_files_say_is_used_where_the_card_does_not_know(sentence_folder, card_of, encoder, texts):
    model, folder = sentence_folder("cls")
    ours = encoder(card_of(**ONE_SIDED, text={"pooling": "unknown"}), folder)
    np.testing.assert_allclose(ours.embed_texts(texts), model.encode(texts), atol=1e-5)


def test_the_old_form_of_the_pooling_file(sentence_folder, card_of, encoder):
    _, folder = sentence_folder("mean")
    old = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    for said in ({"pooling": "unknown"}, {"pooling": "own"}, {}):
        assert encoder(card_of(**ONE_SIDED, text=said), folder).model.pooling == "cls"
    with pytest.raises(UserError, match="pooling of tokens is mean on the card and cls in the files"):
        encoder(card_of(**ONE_SIDED, text={"pooling": "mean"}), folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "max"}))
    with pytest.raises(UserError, match="pools tokens in a way"):
        encoder(card_of(**ONE_SIDED, text={"pooling": "mean"}), folder)


def test_a_plain_transformers_folder_pools_as_the_card_says(tiny_bert, card_of, encoder, texts):
    import transformers as t

    model, tokenizer = t.AutoModel.from_pretrained(tiny_bert).eval(), t.AutoTokenizer.from_pretrained(tiny_bert)
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in texts]
    ours = encoder(card_of(**ONE_SIDED, text={"pooling": "mean"}), tiny_bert)
    np.testing.assert_allclose(ours.embed_texts(texts), functional.normalize(torch.cat(alone), dim=-1), atol=1e-5)
    assert ours.facts["context"] == 40
    with pytest.raises(UserError, match="neither the files nor the card tell how tiny pools tokens"):
        encoder(card_of(**ONE_SIDED, text={}), tiny_bert)


def test_the_hash_does_not_depend_on_what_is_not_used(tiny_bert, tmp_path, card_of, encoder):
    import transformers as t

    folder = tmp_path / "without-pooler"
    shutil.copytree(tiny_bert, folder)
    t.BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).save_pretrained(folder)
    card = card_of(**ONE_SIDED, text={"pooling": "mean"})
    assert len({encoder(card, place).weights_hash for place in (tiny_bert, folder, folder)}) == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "embeddings.word_embeddings.weight is missing"),
        ("unexpected", "surplus.weight is unexpected"),
        ("shape", r"embeddings.word_embeddings.weight is \[3, 3\] instead of \[21, 24\]"),
    ],
)
def test_weights_that_do_not_fit_stop(how, words, tiny_bert, tmp_path, card_of, encoder, change):
    shutil.copytree(tiny_bert, tmp_path / "bert")
    change(tmp_path / "bert" / "model.safetensors", how, "embeddings.word_embeddings.weight")
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(**ONE_SIDED, text={"pooling": "mean"}), tmp_path / "bert")
    assert "\n" not in str(error.value)


def test_parts_that_are_not_repeated_stop(sentence_folder, card_of, encoder):
    _, folder = sentence_folder("mean")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="not repeated here: Dense"):
        encoder(card_of(**ONE_SIDED, text={"pooling": "mean"}), folder)


def test_images_are_not_for_it(tiny_bert, card_of, encoder, pictures):
    ours = encoder(card_of(**ONE_SIDED, text={"pooling": "mean"}), tiny_bert)
    for ask in (ours.embed_images, ours.image_features):
        with pytest.raises(UserError, match="text tower only"):
            ask(pictures)
