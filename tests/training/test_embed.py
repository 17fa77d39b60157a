import copy

import pytest
import torch
from open_clip.loss import ClipLoss

from medweave.training.distributed import Ranks
from medweave.training.embed import Towers, backward
from medweave.training.loader import Steps

RANKS = Ranks(0, 1, torch.device("cpu"))


def share_of(work, accumulate, step=0):
    own = work.loader
    return Steps(own.corpus, own.order, own.captions, own.look, own.tokenize, RANKS, accumulate, own.menu)[step]


def towers_of(work, **changes) -> Towers:
    """The same towers with weights of their own."""
    options = {"pooled": work.towers.pooled, "bf16": False, "compile": False, **changes}
    return Towers(copy.deepcopy(work.model), RANKS.device, 0, **options)


def gradients(work, accumulate, unread=(), mode="train"):
    towers = towers_of(work)
    towers.model.train(mode == "train")
    for module in towers.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    share = share_of(work, accumulate)
    batch = work.data.batch(share.numbers, work.menu)
    read = torch.tensor([place not in unread for place in range(len(share.numbers))])
    losses = backward(towers, work.objectives, share, batch, read, RANKS)
    return losses, {name: p.grad for name, p in towers.model.named_parameters() if p.grad is not None}


def difference(one, other) -> float:
    """Largest relative difference of a parameter's gradient; those that are zero but for rounding are left out."""
    assert one.keys() == other.keys()
    largest = max(float(slope.norm()) for slope in one.values())
    sound = {name: float(slope.norm()) for name, slope in one.items() if float(slope.norm()) > 1e-5 * largest}
    return max(float((one[name] - other[name]).norm()) / norm for name, norm in sound.items())


def plain(work, kept) -> dict:
    """Gradients of open_clip's loss on the same batch, by autograd alone."""
    towers = towers_of(work)
    (micro,) = share_of(work, 1).micros
    rows = towers(0, micro)
    ClipLoss()(rows.image[kept], rows.text[kept], towers.model.logit_scale.exp()).backward()
    return {name: p.grad for name, p in towers.model.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_the_plain_loss(work_of):
    work = work_of()
    _, found = gradients(work, 1, mode="eval")
    assert difference(plain(work, torch.arange(16)), found) < 1e-5


@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_accumulation_keeps_the_whole_batch(work_of, accumulate):
    work = work_of()
    losses, whole = gradients(work, 1)
    same, parts = gradients(work, accumulate)
    assert abs(float(losses["contrastive"]) - float(same["contrastive"])) < 1e-5
    assert difference(whole, parts) < 1e-5


def test_dropout_draws_the_same_in_both_passes(work_of):
    work = work_of(text={"dropout": 0.3})
    _, once = gradients(work, 4)
    _, again = gradients(work, 4)
    assert difference(once, again) == 0
    work.towers.model.eval()
    _, without = gradients(work, 4, mode="eval")
    assert difference(once, without) > 1e-3


def test_what_could_not_be_read_takes_no_part(work_of):
    work = work_of()
    _, found = gradients(work, 2, unread=(3, 8), mode="eval")
    kept = torch.tensor([place for place in range(16) if place not in (3, 8)])
    assert difference(plain(work, kept), found) < 1e-5


def test_frozen_towers_get_no_gradient_and_the_rest_does(work_of):
    work = work_of(text={"freeze": True}, image={"freeze": True})
    _, found = gradients(work, 2)
    assert all("proj" in name or "head" in name or name.endswith("logit_scale") for name in found)
    assert any("visual.head" in name for name in found) and any("text.proj" in name for name in found)


def test_kept_vectors_of_a_frozen_text_tower_give_the_same_gradient(work_of):
    work = work_of(text={"freeze": True})
    assert work.towers.pooled is not None
    _, kept = gradients(work, 1)
    work.towers.pooled, work.loader.tokenize = None, work.model.tokenize
    _, run_anew = gradients(work, 1)
    assert difference(run_anew, kept) < 1e-5


def test_label_targets_are_the_same_in_parts(work_of):
    work = work_of(train={"objectives": [{"kind": "contrastive", "targets": "label"}]})
    _, whole = gradients(work, 1)
    _, parts = gradients(work, 4)
    assert difference(whole, parts) < 1e-5


@pytest.mark.parametrize("freeze", [False, True])
def test_the_menu_is_the_same_in_parts(work_of, freeze):
    work = work_of(
        train={"objectives": [{"kind": "menu", "captions": 2}, {"kind": "contrastive"}]}, text={"freeze": freeze}
    )
    losses, whole = gradients(work, 1)
    same, parts = gradients(work, 4)
    assert abs(float(losses["menu"]) - float(same["menu"])) < 1e-5
    assert difference(whole, parts) < 1e-5
    assert any("text" in name for name in whole) and any("visual" in name for name in whole)
