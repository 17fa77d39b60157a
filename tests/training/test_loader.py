import numpy as np
import pytest
import torch

from medweave.training.distributed import Ranks
from medweave.training.loader import Steps, batches, in_buckets

CPU = torch.device("cpu")


@pytest.fixture
def steps_of(work_of):
    work = work_of()

    def make(rank=0, world=1, accumulate=1, tokenize=True, **look):
        from dataclasses import replace

        data, own = work.data, work.loader
        tokens = own.tokenize if tokenize else None
        ranks = Ranks(rank, world, CPU)
        return Steps(data.corpus, data.order, data.captions, replace(own.look, **look), tokens, ranks, accumulate)

    return make


def pixels(share):
    return torch.cat([micro.pixels for micro in share.micros])


def texts(share):
    return [text for micro in share.micros for text in micro.texts]


def test_a_step_is_a_pure_function(steps_of):
    one, other = steps_of(), steps_of()
    assert torch.equal(pixels(one[3]), pixels(other[3])) and texts(one[3]) == texts(other[3])
    assert not torch.equal(pixels(one[3]), pixels(one[4]))
    share = one[3]
    assert pixels(share).shape == (16, 32, 32, 3) and pixels(share).dtype == torch.uint8
    assert share.problems == [""] * 16


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same_batches(steps_of, workers):
    steps = steps_of()
    found = [share for share, _ in batches(steps, 2, 6, workers, pin=False)]
    assert [share.step for share in found] == [2, 3, 4, 5]
    for share in found:
        assert torch.equal(pixels(share), pixels(steps[share.step])) and texts(share) == texts(steps[share.step])


def test_processes_and_micro_batches_share_out_the_same_global_batch(steps_of):
    whole = steps_of()[5]
    parts = [steps_of(rank, 2, accumulate=2)[5] for rank in range(2)]
    assert np.array_equal(whole.numbers, np.concatenate([part.numbers for part in parts]))
    assert torch.equal(pixels(whole), torch.cat([pixels(part) for part in parts]))
    assert texts(whole) == [text for part in parts for text in texts(part)]
    assert [micro.first for part in parts for micro in part.micros] == [0, 4, 8, 12]


def test_texts_alone_are_those_of_the_batches(steps_of):
    steps = steps_of()
    assert steps.texts(4) == texts(steps[4])


def test_without_augmentation_a_sample_always_looks_the_same(steps_of):
    steps = steps_of(augment=None)
    seen = {}
    for step in range(8):
        for number, picture in zip(steps[step].numbers.tolist(), pixels(steps[step]), strict=True):
            assert torch.equal(seen.setdefault(number, picture), picture)


def test_an_unreadable_image_is_told_and_black(steps_of, monkeypatch):
    steps = steps_of()
    gone = int(steps.order.numbers(0)[2])
    read = steps.corpus.read
    monkeypatch.setattr(steps.corpus, "read", lambda number: b"no picture" if number == gone else read(number))
    share = steps[0]
    assert share.problems[2] and not pixels(share)[2].any()
    assert [bool(problem) for problem in share.problems] == (share.numbers == gone).tolist()


def test_buckets_hold_every_text_once_with_its_own_tokens(steps_of):
    tokenize = steps_of().tokenize
    assert tokenize.freely
    words = ["chest", "head of a normal chest", "x ray " * 12, "lung " * 50, "a"]
    buckets = in_buckets(words, tokenize)
    assert sorted(torch.cat([bucket.places for bucket in buckets]).tolist()) == list(range(len(words)))
    for bucket in buckets:
        for place, row in zip(bucket.places.tolist(), bucket.tokens, strict=True):
            alone = tokenize([words[place]])[0]
            assert torch.equal(row[: len(alone)], alone) and (row[len(alone) :] == tokenize.pad).all()
        assert bucket.tokens.shape[1] == max(len(tokenize([words[place]])[0]) for place in bucket.places.tolist())
    assert [bucket.tokens.shape[1] for bucket in buckets] == [7, 26, 52]


def test_padding_is_not_cut_where_the_tower_wants_it(steps_of, monkeypatch):
    tokenize = steps_of().tokenize
    monkeypatch.setattr(tokenize, "freely", False)
    (bucket,) = in_buckets(["chest", "head"], tokenize)
    assert bucket.tokens.shape == (2, 64)
