"""The catalogue against what the fact sheet marks as read, and the words that it shares with the corpus."""

import json

import pytest

from medweave.corpus.sample import LICENCE_CLASSES, MODALITIES
from medweave.errors import RequestError
from medweave.models.teachers import licences
from medweave.models.teachers.catalogue import DOMAINS, UNKNOWN, Card, card, cards
from medweave.models.teachers.files import options_of
from medweave.models.teachers.opening import family_of
from medweave.recipe import as_data

NINE = ("bmc-clip-cf", "biomedclip", "unimed-clip-b16", "pmc-clip", "quiltnet-b32", "genmedclip")
NINE += ("plip", "pubmedclip", "medclip")
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3,) * 2


def test_the_papers_nine_and_at_least_twelve_more():
    assert set(NINE) <= cards().keys() and len(cards()) >= len(NINE) + 12
    assert len({one.hub.id for one in cards().values() if one.hub}) >= 20


def test_words_are_those_of_the_corpus():
    assert DOMAINS == MODALITIES
    assert set(licences.ORDER) == set(LICENCE_CLASSES) == set(licences.MEANING)


def test_widths():
    known = {name: card(name).width for name in cards()}
    assert {name: known[name] for name in NINE} == {
        name: 768 if name in ("bmc-clip-cf", "pmc-clip") else 512 for name in NINE
    }
    more = {"conch": 512, "keep": 768, "conceptclip": 1152, "flair": 512, "cxr-clip": 512, "biovil-t": 128}
    vision = {"rad-dino": 768, "virchow": 2560, "uni": 1024, "prov-gigapath": 1536, "dermlip-b16": 512}
    assert (more | vision).items() <= known.items()
    assert all(known[name] is UNKNOWN for name in ("medsiglip-448", "musk", "monet", "virchow2", "medpmc-clip"))


def test_hub_ids_and_families():
    told = {
        "bmc-clip-cf": ("BIOMEDICA/BMC_CLIP_CF", "open_clip"),
        "biomedclip": ("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "open_clip"),
        "unimed-clip-b16": ("UzairK/unimed-clip-vit-b16", "unimed_clip"),
        "pmc-clip": ("axiong/pmc_oa", "pmc_clip"),
        "genmedclip": ("wisdomik/GenMedClip", "open_clip"),
        "plip": ("vinid/plip", "clip"),
        "pubmedclip": ("flaviagiammarino/pubmed-clip-vit-base-patch32", "clip"),
        "quiltnet-b16-pmb": ("wisdomik/QuiltNet-B-16-PMB", "open_clip"),
        "medsiglip-448": ("google/medsiglip-448", "siglip"),
        "rad-dino": ("microsoft/rad-dino", "vision"),
        "monet": ("suinleelab/monet", "clip"),
        "conch": ("MahmoodLab/conch", None),
    }
    assert {name: (card(name).hub.id, card(name).family) for name in told} == told
    assert card("medclip").hub is None and card("medclip").family == "medclip"
    assert card("pmc-clip").hub.kind == "dataset"


@pytest.mark.parametrize(
    ("name", "size", "colours"),
    [
        ("unimed-clip-b16", 224, OPENAI),
        ("pmc-clip", 224, OPENAI),
        ("pubmedclip", 224, OPENAI),
        ("conch", 448, IMAGENET),
        ("keep", 224, IMAGENET),
        ("uni", 224, IMAGENET),
        ("virchow", 224, IMAGENET),
        ("conceptclip", 384, HALF),
        ("musk", 384, HALF),
    ],
)
def test_pixels(name, size, colours):
    side = card(name).image
    assert (side.size, (side.mean, side.std)) == (size, colours)


def test_the_grey_squares_of_medclip_and_other_policies():
    side = card("medclip").image
    assert (side.policy, side.square_first, side.grey, side.size) == ("pad", True, True, 224)
    assert side.mean == pytest.approx((0.5863,) * 3, abs=1e-4) and side.std == pytest.approx((0.2795,) * 3, abs=1e-4)
    assert card("conceptclip").image.policy == "squash"
    assert card("unimed-clip-b16").image.policy == card("pmc-clip").image.policy == "crop"
    assert card("virchow").image.pooling == "cls+mean" and card("virchow2").image.pooling == "own"


def test_contexts_and_heads():
    told = {"biomedclip": 256, "unimed-clip-b16": 256, "pmc-clip": 77, "plip": 77, "quiltnet-b16-pmb": 256}
    told |= {"medsiglip-448": 64, "conch": 128, "keep": 256, "musk": 100, "conceptclip": 77, "cxr-clip": 256}
    assert {name: card(name).text.context for name in told} == told
    assert card("pubmedclip").text.context is UNKNOWN
    sigmoid = {name for name in cards() if card(name).head and card(name).head.kind == "sigmoid"}
    assert sigmoid == {"medsiglip-448", "conceptclip"}
    unknown = {name for name in cards() if card(name).head and card(name).head.kind is UNKNOWN}
    assert unknown == {"genmedclip", "medpmc-clip", "keep", "cxr-clip", "biovil-t"}
    assert all(one.head is None or one.head.scale is UNKNOWN for one in cards().values())


def test_licences_gates_and_what_they_reach():
    classes = {name: card(name).licence_class for name in cards()}
    assert {name for name in NINE if classes[name] == "unknown"} == {
        "bmc-clip-cf", "pmc-clip", "genmedclip", "plip", "medclip",
    }  # fmt: skip
    assert {name for name in NINE if classes[name] == "open"} == {"biomedclip", "quiltnet-b32", "pubmedclip"}
    assert classes["unimed-clip-b16"] == classes["medpmc-clip"] == classes["dermlip-b16"] == "non-commercial"
    assert classes["conch"] == classes["musk"] == classes["virchow2"] == "no-derivatives"
    assert classes["echo-clip"] == "research" and classes["virchow"] == classes["rad-dino"] == "open"
    assert all(card(name).licence is card(name).gated is UNKNOWN for name in ("uni", "prov-gigapath"))
    gated = {name for name in cards() if card(name).gated is True}
    assert gated == {"medsiglip-448", "conceptclip", "conch", "musk", "virchow", "virchow2"}
    reaching = {name for name in cards() if card(name).reaches_models_trained_on_outputs is True}
    assert reaching == {"conch", "musk", "virchow2"}


def test_sides():
    one_sided = {name: card(name).sides for name in cards() if len(card(name).sides) == 1}
    packages = [f"efficientnet-lite{number}" for number in range(3)]
    images = dict.fromkeys(("rad-dino", "uni", "virchow", "virchow2", "prov-gigapath", *packages), ("images",))
    assert one_sided == {**images, "all-minilm-l6-v2": ("texts",)}


def test_every_family_accepts_the_options_of_its_cards():
    for one in cards().values():
        if one.family is None:
            assert one.notes
        elif hasattr(family_of(one), "Options"):
            options_of(one, family_of(one).Options)
        else:
            assert one.options == {}


def test_what_is_not_known_is_neither_none_nor_a_word(card_of):
    open_card = card_of(width="unknown", gated="unknown", head={"kind": "softmax", "scale": "unknown"})
    assert open_card.width is UNKNOWN and open_card.gated is UNKNOWN and open_card.head.scale is UNKNOWN
    assert open_card.hub.revision is UNKNOWN and open_card.get is None
    assert json.loads(json.dumps(as_data(open_card)))["width"] == "unknown"
    assert Card.model_validate(as_data(open_card)) == open_card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None, "text": None, "head": None}, "embeds images, texts or both"),
        ({"image": None}, "one with a single side has none"),
        ({"head": None}, "one with a single side has none"),
        ({"hub": None}, "give hub, or get"),
        ({"domains": ["x-ray"]}, "domains"),
        ({"licence_class": "free"}, "licence_class"),
        ({"width": "wide"}, "width"),
        ({"image": {"policy": "stretch"}}, "policy"),
        ({"with": 512}, "with"),
        ({"package": "nonsense"}, "no weights come as the package nonsense: there are efficientnet-lite0"),
    ],
)
def test_wrong_cards_are_refused(change, words, card_of):
    with pytest.raises(ValueError, match=words):
        card_of(**change)


def test_names_that_are_not_known_and_cards_of_ones_own(tmp_path, card_of):
    with pytest.raises(RequestError, match="no teacher is called 'biomedclp': did you mean biomedclip"):
        card("biomedclp")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(as_data(card_of(name="mine"))))
    assert card(str(file)).name == "mine"
    file.write_text("name: mine\n")
    with pytest.raises(RequestError, match="family: must be given"):
        card(str(file))
    with pytest.raises(RequestError, match="no such file"):
        card(str(tmp_path / "other.yaml"))
