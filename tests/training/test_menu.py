"""The menu against a reading of its rules one sample and one finding at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from medweave.corpus.captions.bank import Bank
from medweave.corpus.known import LabelSet
from medweave.training.menu import ABSENT, PRESENT, UNKNOWN, Menu, findings_of

PLACES = (("xray", "chest"), ("xray", None), ("ct", "chest"))
FINDINGS = ("effusion", "edema", "normal")


def label_sets():
    states = st.fixed_dictionaries({finding: st.sampled_from("pau") for finding in FINDINGS})
    return st.builds(
        lambda key, state: LabelSet(
            key,
            frozenset(f for f in FINDINGS if state[f] == "p"),
            frozenset(f for f in FINDINGS if state[f] == "a"),
        ),
        st.sampled_from(PLACES),
        states,
    )


def expected(labels, modality, anatomy, finding):
    if labels is None or not labels.present:
        return UNKNOWN
    if labels.key == (modality, anatomy):
        return PRESENT if finding in labels.present else ABSENT if finding in labels.absent else UNKNOWN
    if labels.key[0] == modality and (labels.key[1] is None or anatomy is None):
        return UNKNOWN
    return ABSENT


@given(st.lists(st.none() | label_sets(), min_size=1, max_size=8))
def test_truth_is_what_the_labels_say(labels):
    menu = Menu(findings_of(of_one for of_one in labels if of_one is not None), Bank.load(), 0)
    truth = menu.truth(labels)
    assert truth.shape == (len(labels), len(menu)) and truth.dtype == torch.int8
    for row, of_one in zip(truth.tolist(), labels, strict=True):
        assert row == [expected(of_one, *triplet) for triplet in menu.triplets]


def test_every_finding_that_is_present_somewhere_is_found_once():
    one = LabelSet(("xray", "chest"), frozenset({"normal"}), frozenset({"edema"}))
    other = LabelSet(("ct", "chest"), frozenset({"normal", "edema"}), frozenset())
    found = findings_of([one, other, one])
    assert found == [("ct", "chest", "edema"), ("ct", "chest", "normal"), ("xray", "chest", "normal")]


def test_captions_are_the_banks_and_a_pure_function_of_the_step():
    bank = Bank.load()
    triplets = list(bank.entries)[:12]
    menu, same = Menu(triplets, bank, 3), Menu(triplets, bank, 3)
    drawn = [menu.texts(step) for step in range(40)]
    assert drawn == [same.texts(step) for step in range(40)]
    for place, triplet in enumerate(menu.triplets):
        seen = {texts[place] for texts in drawn}
        assert seen <= set(bank.captions(*triplet)) and len(seen) > 5
    assert Menu(triplets, bank, 4).texts(0) != drawn[0]


def test_several_captions_of_a_finding_stand_beside_each_other():
    bank = Bank.load()
    menu = Menu(list(bank.entries)[:5], bank, 0, each=3)
    texts = menu.texts(7)
    assert len(texts) == 15 and len(set(texts)) > 5
    for place, triplet in enumerate(menu.triplets):
        assert set(texts[3 * place : 3 * place + 3]) <= set(bank.captions(*triplet))
