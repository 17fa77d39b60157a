"""Golden vectors: what is fixed stays fixed, and another row is noticed."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from medweave.errors import RequestError, UserError
from medweave.models.load import load
from medweave.models.offline import minilm_folder
from medweave.models.teachers import about, golden
from medweave.models.teachers.catalogue import Golden, card

PACKAGES = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "all-minilm-l6-v2"]


@pytest.fixture
def copy(tiny_pair, card_of, encoder):
    """(card, folder, encoder) of a CLIP."""
    _, folder = tiny_pair("clip")
    return card_of(), folder, encoder(card_of(), folder)


def test_the_fixed_image_is_the_same_everywhere():
    image = golden.picture()
    assert image.shape == (240, 320, 3) and image.dtype.name == "uint8"
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == "c76c63fa489bb692"


def test_what_was_written_is_found_and_holds(copy):
    known, folder, encoder = copy
    assert golden.expected(known, folder) is None
    assert golden.write(encoder, folder) == folder / "golden.json"
    wanted = golden.expected(known, folder)
    assert len(wanted.image) == len(wanted.text) == 12
    assert set(golden.deviations(encoder, wanted)) == {"image", "text"}
    assert max(golden.deviations(encoder, wanted).values()) < 1e-5


def test_a_copys_own_vectors_come_before_the_cards(copy, card_of):
    _, folder, encoder = copy
    known = card_of(golden={"image": [0.1, 0.2]})
    assert golden.expected(known, folder).image == (0.1, 0.2)
    golden.write(encoder, folder)
    assert len(golden.expected(known, folder).image) == 12


def test_other_rows_are_noticed(copy):
    _, _, encoder = copy
    right = golden.measured(encoder)
    other = Golden(image=(right.image[0] + 0.01, *right.image[1:]), text=right.text)
    with pytest.raises(UserError, match=r"other rows than it should: off by image 0.01"):
        golden.deviations(encoder, other)
    assert golden.deviations(encoder, Golden(text=right.text)).keys() == {"text"}
    assert golden.deviations(encoder, Golden(image=(right.image[0] + 5e-4,)))["image"] == pytest.approx(5e-4, rel=0.01)


def test_a_side_that_the_model_lacks(tiny_bert, card_of, encoder):
    ours = encoder(card_of(family="text", image=None, head=None, text={"pooling": "mean"}), tiny_bert)
    assert golden.measured(ours).image is None
    with pytest.raises(UserError, match="have a row of the image, which tiny cannot give"):
        golden.deviations(ours, Golden(image=(0.0,)))


def test_a_broken_file_is_said(copy):
    known, folder, _ = copy
    (folder / "golden.json").write_text(json.dumps({"picture": [1.0]}))
    with pytest.raises(RequestError, match=r"golden\.json"):
        golden.expected(known, folder)


@pytest.mark.parametrize("content", [{}, {"image": []}])
def test_a_file_without_numbers_checks_nothing_and_is_said(content, copy):
    known, folder, _ = copy
    (folder / "golden.json").write_text(json.dumps(content))
    assert "the golden vectors hold no numbers" in about.checked(known, folder).problem


@pytest.mark.parametrize("name", PACKAGES)
def test_the_packages_give_the_rows_of_their_cards_and_changed_weights_do_not(name):
    copy = about.checked(card(name), None)
    assert copy.problem is None and max(copy.deviations.values()) < golden.TOLERANCE
    changed = load(f"teacher:{name}", "cpu")
    with torch.no_grad():
        next(p for p in changed.model.parameters() if p.ndim > 1).mul_(1.05)
    with pytest.raises(UserError, match="gives other rows than it should"):
        golden.deviations(changed, card(name).golden)


@pytest.mark.parametrize("name", PACKAGES[:3])
def test_another_way_of_resizing_is_noticed(name):
    encoder = load(f"teacher:{name}", "cpu")
    encoder.model.preprocess = replace(encoder.preprocess, interpolation="bilinear")
    with pytest.raises(UserError, match="gives other rows than it should"):
        golden.deviations(encoder, card(name).golden)


def test_the_card_of_the_sentence_encoder_holds_rows_of_sentence_transformers():
    library = pytest.importorskip("sentence_transformers")
    row = library.SentenceTransformer(str(minilm_folder()), device="cpu").encode(golden.TEXT)
    kept = card("all-minilm-l6-v2").golden.text
    assert kept == pytest.approx(row[: len(kept)], abs=2e-5)
