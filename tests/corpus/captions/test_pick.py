from collections import Counter

import pytest

from medweave.corpus.captions.bank import Bank, joined
from medweave.corpus.captions.pick import pick
from medweave.corpus.recipe import CaptionShares
from medweave.seeds import generator

BANK = Bank.load()
TEXTS = [{"kind": "caption", "text": "Own one."}, {"kind": "findings", "text": "Own two."}]
BOTH = {"modality": "xray", "anatomy": "chest", "texts": TEXTS, "findings": {"pneumonia": "present"}}


def drawn(fields, shares, count=400):
    return Counter(pick(fields, shares, BANK, generator("pick", n)).text for n in range(count))


@pytest.mark.parametrize(("own", "bank"), [(1, 0), (0.25, 0.75), (0, 1)])
def test_shares_are_kept(own, bank):
    counts = drawn(BOTH, CaptionShares(own=own, bank=bank))
    share = (counts["Own one."] + counts["Own two."]) / 400
    assert abs(share - own) < 0.08
    assert own == 0 or 0.3 < counts["Own one."] / (share * 400) < 0.7
    assert set(counts) - {"Own one.", "Own two."} <= set(BANK.captions("xray", "chest", "pneumonia"))


def test_the_only_text_there_is_is_taken_whatever_the_shares():
    only_own = BOTH | {"findings": {"pneumonia": "unknown"}}
    only_bank = BOTH | {"texts": []}
    assert set(drawn(only_own, CaptionShares(own=0, bank=1))) == {"Own one.", "Own two."}
    assert set(drawn(only_bank, CaptionShares(own=1, bank=0))) <= set(BANK.captions("xray", "chest", "pneumonia"))


@pytest.mark.parametrize(
    ("modality", "anatomy", "text"),
    [("ct", "abdomen", "CT scan of the abdomen."), ("other", None, "Medical image."), ("oct", None, "OCT scan.")],
)
def test_an_image_of_which_nothing_is_known(modality, anatomy, text):
    fields = {"modality": modality, "anatomy": anatomy, "texts": [], "findings": {}}
    assert pick(fields, CaptionShares(), BANK, generator(0)).text == text


def test_the_same_generator_gives_the_same_text():
    assert len({pick(BOTH, CaptionShares(), BANK, generator("a", 1)) for _ in range(5)}) == 1


def test_a_picked_text_says_what_it_is_made_of():
    several = BOTH | {"texts": [], "findings": {"pneumonia": "present", "pleural effusion": "present"}}
    picked = pick(several, CaptionShares(), BANK, generator(0))
    assert picked.own is None and len(picked.parts) == 2
    assert picked.text == joined(picked.parts)
    captions = {name: set(BANK.captions("xray", "chest", name)) for name in several["findings"]}
    assert {name for name, of_one in captions.items() if of_one & set(picked.parts)} == set(captions)
    own = pick(BOTH, CaptionShares(own=1, bank=0), BANK, generator(0))
    assert TEXTS[own.own]["text"] == own.text and own.parts == (own.text,)
