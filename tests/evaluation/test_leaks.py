"""Twins of test images in training."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medweave.corpus.captions.bank import PROMPT_KINDS, Bank, shipped
from medweave.evaluation import leaks

BANK = """
- modality: xray
  anatomy: chest
  finding: alphoma
  captions: [A chest with alphoma., Seen here alphoma]
"""


@pytest.fixture
def bank(tmp_path):
    """A bank of two captions, and its file."""
    path = tmp_path / "bank.yaml"
    path.write_text(BANK)
    return Bank.load([path]), path


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=12),
    st.lists(st.integers(0, 2**64 - 1), max_size=12),
    st.integers(0, 40),
)
def test_near_is_the_naive_loop(one, other, bits):
    expected = [any((a ^ b).bit_count() <= bits for b in other) for a in one]
    assert leaks.near(np.array(one, np.uint64), np.array(other, np.uint64), bits).tolist() == expected


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    one, other = random.integers(0, 2**16, 50, np.uint64), random.integers(0, 2**16, 300, np.uint64)
    whole = leaks.near(one, other)
    assert whole.sum() > 0
    monkeypatch.setattr(leaks, "BLOCK", 100)
    np.testing.assert_array_equal(leaks.near(one, other), whole)


def test_an_unknown_training_set_gives_none(world):
    world.fill("chest", ["alphoma", "betosis"], each=5)
    assert leaks.training_images({}, world) is None
    assert leaks.training_images({"trained_on": {"corpus": "other", "path": "/nowhere"}}, world) is None


def test_prompts_that_were_captions_are_counted_once_whatever_their_case_and_end(bank):
    case = SimpleNamespace(modality="xray", anatomy="chest", classes=["alphoma", "betosis"])
    prompts = {
        "plain": [["  a CHEST with alphoma", "a chest, with alphoma"], ["A chest with alphoma!", "betosis seen"]],
        "report": [["seen here alphoma."], ["X-ray of the chest showing betosis"]],
    }
    assert leaks.prompts_met(prompts, case, bank[0]) == 3  # the last is a generic sentence of a class without captions
    assert leaks.prompts_met(prompts, case, Bank(())) == 1
    assert leaks.prompts_met({"plain": [["an alphoma"], ["a betosis"]]}, case, bank[0]) == 0


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_no_shipped_prompt_is_a_shipped_caption(kind):
    whole = Bank.load(shipped())
    for modality, anatomy in whole.places():
        classes = whole.findings(modality, anatomy)
        prompts = {kind: [list(whole.prompts(modality, anatomy, name, kind)) for name in classes]}
        case = SimpleNamespace(modality=modality, anatomy=anatomy, classes=classes)
        assert leaks.prompts_met(prompts, case, whole) == 0
        assert leaks.prompts_met(prompts, case, Bank(())) == 0


def test_the_bank_of_training_is_the_run_s_or_the_corpus_s_or_unknown(world, bank, tmp_path, monkeypatch):
    trained, (_, path) = {"trained_on": {"corpus": world.hash, "part": {}}}, bank
    run = tmp_path / "run"
    run.mkdir()
    assert leaks.training_bank({}, world, None) is None
    assert leaks.training_bank({}, world, run) is None
    assert leaks.training_bank(trained, world, run).entries == {}
    monkeypatch.setattr(world, "banks", lambda: [path], raising=False)
    assert list(leaks.training_bank(trained, world, None).entries) == [("xray", "chest", "alphoma")]
    (run / "recipe.yaml").write_text("train: {captions: {banks: null}}\n")
    assert leaks.training_bank(trained, world, run).entries
    (run / "recipe.yaml").write_text("train: {captions: {banks: []}}\n")
    assert leaks.training_bank(trained, world, run).entries == {}
    (run / "recipe.yaml").write_text(f"train: {{captions: {{banks: [{path}]}}}}\n")
    assert leaks.training_bank({}, world, run).entries
    path.unlink()
    assert leaks.training_bank(trained, world, run) is None
