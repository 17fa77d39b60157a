"""Golden vectors: what is fixed stays fixed, and another row is noticed."""

import hashlib
import json

import pytest

from medweave.errors import RequestError, UserError
from medweave.models.teachers import golden
from medweave.models.teachers.catalogue import Golden


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
    card, folder, encoder = copy
    assert golden.expected(card, folder) is None
    assert golden.write(encoder, folder) == folder / "golden.json"
    wanted = golden.expected(card, folder)
    assert len(wanted.image) == len(wanted.text) == 8
    assert set(golden.deviations(encoder, wanted)) == {"image", "text"}
    assert max(golden.deviations(encoder, wanted).values()) < 1e-5


def test_a_copys_own_vectors_come_before_the_cards(copy, card_of):
    _, folder, encoder = copy
    card = card_of(golden={"image": [0.1, 0.2]})
    assert golden.expected(card, folder).image == (0.1, 0.2)
    golden.write(encoder, folder)
    assert len(golden.expected(card, folder).image) == 8


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
    card, folder, _ = copy
    (folder / "golden.json").write_text(json.dumps({"picture": [1.0]}))
    with pytest.raises(RequestError, match=r"golden\.json"):
        golden.expected(card, folder)
