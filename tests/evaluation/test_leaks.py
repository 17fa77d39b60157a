"""Twins of test images in training."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medweave.corpus.captions.bank import PROMPT_KINDS, Bank, shipped
from medweave.evaluation import leaks, trainings

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


HASHES = st.integers(0, 2**64 - 1)


@st.composite
def fingerprints(draw):
    """Some fingerprints, and others of which many differ from one of them in a few bits."""
    one = draw(st.lists(HASHES, max_size=12))
    flips = st.lists(st.integers(0, 63), max_size=5).map(lambda bits: sum(1 << bit for bit in set(bits)))
    close = st.builds(int.__xor__, st.sampled_from(one), flips) if one else HASHES
    return one, draw(st.lists(st.one_of(HASHES, close), max_size=12))


@given(fingerprints(), st.integers(1, 4))
def test_near_is_the_naive_loop(hashes, pairs):
    one, other = hashes
    expected = [any((a ^ b).bit_count() <= 3 for b in other) for a in one]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "PAIRS", pairs)
        assert leaks.near(np.array(one, np.uint64), np.array(other, np.uint64)).tolist() == expected


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    one, other = random.integers(0, 2**16, 50, np.uint64), random.integers(0, 2**16, 300, np.uint64)
    whole = leaks.near(one, other)
    assert 0 < whole.sum() < 50
    monkeypatch.setattr(leaks, "PAIRS", 100)
    np.testing.assert_array_equal(leaks.near(one, other), whole)


@pytest.fixture
def twins(world):
    """A corpus with planted twins of every kind, some across sources."""
    random = np.random.default_rng(0)
    world.fill("chest", ["alphoma", "betosis"], each=40)
    world.fill("knee", ["gammitis", "deltopathy"], each=20)
    for row in world.rows:
        other = world.rows[random.integers(len(world))]
        for column in np.array(["group", "sha256", "phash"])[random.random(3) < 0.15]:
            row[column] = other[column]
        if random.random() < 0.2:
            flips = {1 << bit for bit in random.integers(0, 64, random.integers(1, 6)).tolist()}
            row["phash"] = other["phash"] ^ sum(flips)
    return world


def naive(world, tested, trained):
    """What the model has met, pair by pair."""
    row = world.rows

    def met(same):
        return np.array([any(same(row[a], row[b]) for b in trained) for a in tested])

    flags = {
        "group": met(lambda a, b: a["group"] == b["group"]),
        "bytes": met(lambda a, b: a["sha256"] == b["sha256"]),
        "near": met(lambda a, b: (a["phash"] ^ b["phash"]).bit_count() <= 3),
    }
    every = np.any(list(flags.values()), axis=0)
    return {kind: int(of_kind.sum()) for kind, of_kind in {"all": every, **flags}.items()}


def trained_on(corpus, **more):
    return {"trained_on": {"corpus": corpus.hash, "part": {}, **more}}


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("leave_out", [[], ["chest"], ["knee"]])
def test_what_was_met_is_what_a_comparison_of_every_pair_finds(twins, monkeypatch, rows, leave_out):
    monkeypatch.setattr(trainings, "ROWS", rows)
    twins.gone = {0, 3, 6, 7}
    of = {split: [n for n, row in enumerate(twins.rows) if row["split"] == split] for split in ("train", "test")}
    trained = [n for n in of["train"] if twins.rows[n]["source"] not in leave_out and n not in twins.gone]
    known = trainings.trainings_of(trained_on(twins, leave_out=leave_out), twins)
    met = leaks.Met(known, twins, np.arange(len(twins))[::-1])
    for tested in (of["test"], of["test"][::3], of["train"]):
        expected = naive(twins, tested, trained)
        assert met.counts(np.array(tested)) == expected
        assert met.learnt(np.array(tested)) == expected["bytes"] and expected["all"]


def test_groups_are_compared_within_a_corpus_only(twins, make_world, monkeypatch):
    other = make_world("other", "e" * 64)
    other.rows, other.pixels = twins.rows, twins.pixels
    monkeypatch.setattr("medweave.corpus.store.corpus_at", {"there": twins}.get)
    tested = np.array([n for n, row in enumerate(twins.rows) if row["split"] == "test"])
    here, there = (
        leaks.Met(trainings.trainings_of(trained_on(twins, path="there"), corpus), corpus, tested).counts(tested)
        for corpus in (twins, other)
    )
    assert here["group"] > there["group"] == 0
    assert (here["bytes"], here["near"]) == (there["bytes"], there["near"])


def test_training_images_are_read_in_pieces_and_never_taken(twins, monkeypatch):
    """Memory does not grow with the training part: only tested rows are taken, others come a piece at a time."""
    tested, taken, pieces = np.array([n for n, row in enumerate(twins.rows) if row["split"] == "test"]), [], []
    take, batches = twins.take, twins.batches
    monkeypatch.setattr(trainings, "ROWS", 5)
    monkeypatch.setattr(twins, "take", lambda numbers, columns: taken.append(len(numbers)) or take(numbers, columns))
    monkeypatch.setattr(twins, "batches", lambda columns, size: pieces.append(size) or batches(columns, size))
    met = leaks.Met(trainings.trainings_of(trained_on(twins), twins), twins, tested)
    assert met.counts(tested)["all"] and met.learnt(tested) and met.includes(tested)
    assert max(taken) == len(tested) and pieces == [5], "one way through the index"


def test_an_unknown_training_set_gives_none(world):
    world.fill("chest", ["alphoma", "betosis"], each=5)
    tested = np.arange(4)
    for facts in ({}, {"trained_on": {"corpus": "other", "path": "/nowhere"}}):
        met = leaks.Met(trainings.trainings_of(facts, world), world, tested)
        assert met.counts(tested) is met.includes(tested) is None and met.learnt(tested) == 0


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
