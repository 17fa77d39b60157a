"""The menu objective against a loop over images and findings, values and gradients."""

import math

import pytest
import torch
from torch.nn import functional

from medweave.training.menu import ABSENT, PRESENT, UNKNOWN
from medweave.training.objective import Batch, Embeddings, Given
from medweave.training.objectives.menu import Menu, MenuRecipe, menu_loss

torch.set_num_threads(1)


def rows(count, seed):
    draw = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, 6, generator=draw), dim=-1)


def truth_of(images, findings, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (images, findings), generator=draw).to(torch.int8)


def naive(image, menu, scale, truth):
    losses = []
    for row, states in zip(image, truth.tolist(), strict=True):
        right = [k for k, state in enumerate(states) if state == PRESENT]
        if not right:
            continue
        logits = {k: scale * (row @ menu[k]) for k, state in enumerate(states) if state != UNKNOWN}
        total = torch.logsumexp(torch.stack(list(logits.values())), 0)
        losses.append(sum(total - logits[k] for k in right) / len(right))
    return sum(losses) / len(losses) if losses else scale * 0


@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradients_are_the_loops(seed):
    truth = truth_of(9, 5, seed)
    found, wanted = [], []
    for loss, into in ((menu_loss, found), (naive, wanted)):
        given = [
            rows(9, seed).requires_grad_(),
            rows(5, seed + 50).requires_grad_(),
            torch.tensor(7.0).requires_grad_(),
        ]
        value = loss(*given, truth)
        into += [value.detach(), *torch.autograd.grad(value, given)]
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-5)


def test_an_image_of_which_nothing_is_known_changes_nothing():
    image, menu, scale = rows(4, 0).requires_grad_(), rows(3, 1), torch.tensor(5.0)
    truth = torch.tensor([[1, 0, 0], [-1, -1, -1], [0, 1, -1], [0, 0, 0]], dtype=torch.int8)
    loss = menu_loss(image, menu, scale, truth)
    assert torch.equal(loss, menu_loss(image[[0, 2]], menu, scale, truth[[0, 2]]))
    (slope,) = torch.autograd.grad(loss, image)
    assert slope[[1, 3]].abs().max() == 0 and slope[[0, 2]].abs().min() > 0


def test_without_any_known_image_the_loss_is_zero_and_so_is_its_gradient():
    image = rows(3, 0).requires_grad_()
    loss = menu_loss(image, rows(4, 1), torch.tensor(5.0), torch.full((3, 4), UNKNOWN, dtype=torch.int8))
    assert loss == 0 and torch.autograd.grad(loss, image)[0].abs().max() == 0


def test_it_is_zero_when_every_image_is_sure_and_right_and_large_when_wrong():
    menu = torch.eye(6)[:4]
    truth = torch.full((4, 4), ABSENT, dtype=torch.int8).fill_diagonal_(PRESENT)
    assert menu_loss(menu, menu, torch.tensor(100.0), truth) < 1e-6
    assert menu_loss(menu.roll(1, 0), menu, torch.tensor(100.0), truth) > 50


def test_a_finding_is_the_mean_of_its_captions_and_the_loss_is_weighed():
    image, captions, scale = rows(4, 0), rows(6, 1).view(3, 2, 6), torch.tensor(math.e)
    truth = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, -1], [0, 0, 1]], dtype=torch.int8)
    student = Embeddings(image, image, scale, torch.tensor(0.0), captions)
    losses = Menu(MenuRecipe(weight=0.5, captions=2), Given(8))(student, Batch(torch.arange(4), [None] * 4, truth))
    means = torch.stack([functional.normalize(two.mean(0), dim=0) for two in captions])
    assert losses["menu"] == pytest.approx(0.5 * float(menu_loss(image, means, scale, truth)))
