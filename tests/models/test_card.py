"""The model card: what medweave.json holds, said for people and for the hub."""

import yaml

from medweave.models.card import card_text

SENTENCES = [
    "Licence class non-commercial: a licence of its data or teachers forbids commercial use.",
    "Learnt from UniMed-CLIP B/16 (unimed; licence CC BY-NC 4.0, class non-commercial).",
]
FACTS = {
    "image_tower": "timm:test_resnet",
    "text_tower": "transformers:bert",
    "name": "student",
    "domains": ["xray", "ct"],
    "licence_class": "non-commercial",
    "binds_students": True,
    "inherits": SENTENCES,
    "teachers": [{"rows": "unimed", "model": "teacher:unimed-clip-b16", "weights": "47000cdf", "licence": "CC BY-NC"}],
    "recipe": "dc76ed38",
    "trained_on": {"corpus": "a650341a", "path": "/secret/place", "part": {}, "leave_out": []},
    "places": [{"modality": "oct", "anatomy": "retina", "findings": {}}],
    "licences": [{"source": "lungs", "licence": "CC BY 4.0", "licence_class": "open", "samples": 3000}],
    "images_seen": 48000,
    "steps": 6,
}
ALWAYS = ["How to load it", "What it is not for"]


def sections(card):
    return [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]


def test_the_hub_reads_the_library_the_task_and_the_class_of_the_licence():
    assert yaml.safe_load(card_text(FACTS).split("---")[1]) == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "license": "other",
        "license_name": "non-commercial",
    }


def test_a_student_says_what_it_was_trained_on_and_what_it_inherits():
    card = card_text(FACTS)
    assert sections(card) == [ALWAYS[0], "What it was trained on", "What it inherits", ALWAYS[1]]
    assert "# student\n" in card and "Its domains: xray, ct." in card
    assert "| lungs | CC BY 4.0 | open | 3,000 |" in card
    assert "48,000 images, repeats included, in 6 steps" in card and "Hash of its corpus: `a650341a`" in card
    assert all(f"- {sentence}\n" in card for sentence in SENTENCES)
    assert "models that learn from this one" in card
    assert "| unimed | teacher:unimed-clip-b16 | 47000cdf |" in card
    assert "not a medical device" in card


def test_equal_facts_give_equal_cards_without_a_place_on_this_machine():
    card = card_text(FACTS)
    assert card == card_text(dict(reversed(FACTS.items())))
    assert "secret" not in card


def test_what_is_not_known_is_left_out():
    card = card_text({})
    assert sections(card) == ALWAYS and "license" not in card and "domains" not in card and "None" not in card
    assert "Its domains: oct." in card_text({**FACTS, "domains": None})
    assert "models that learn" not in card_text({**FACTS, "binds_students": False})


def test_words_of_a_user_stay_in_their_cell():
    row = {"source": "a|b\nc", "licence": None, "licence_class": "unknown", "samples": 1}
    assert "| a&#124;b c | unknown | unknown | 1 |" in card_text({**FACTS, "licences": [row]})


def test_a_card_of_the_hub_loads_from_there():
    assert 'medweave.load("path/to/this/folder")' in card_text({})
    assert 'get_tokenizer("local-dir:path/to/this/folder")' in card_text({})
    card = card_text({}, "owner/model")
    assert 'medweave.load("hf-hub:owner/model")' in card and 'get_tokenizer("hf-hub:owner/model")' in card
