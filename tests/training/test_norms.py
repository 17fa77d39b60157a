import copy

import torch
from torch import nn

from medweave.training.kept import as_kept, learn
from medweave.training.loop import one_step
from medweave.training.norms import learning_norms, re_estimate

torch.set_num_threads(1)


def test_statistics_are_those_of_the_pictures():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    model[1].running_mean.fill_(7.0)
    batches = [torch.randn(8, 3, 12, 12) + shift for shift in range(3)]
    norms = learning_norms(model.train())
    re_estimate(norms, model.eval(), batches)
    with torch.no_grad():
        means = torch.stack([model[0](batch).mean((0, 2, 3)) for batch in batches])
        spreads = torch.stack([model[0](batch).transpose(0, 1).flatten(1).var(1) for batch in batches])
    assert torch.allclose(model[1].running_mean, means.mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, spreads.mean(0), rtol=1e-4)
    assert not model[1].training and model[1].momentum == 0.1 and len(norms) == 2


def test_norms_that_keep_their_statistics_are_let_alone():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    model[0].eval()
    assert learning_norms(model) == [model[1]]


def test_averaged_weights_get_statistics_of_their_own(work_of):
    work = work_of(train={"ema": 0.9, "optimiser": {"lr": 1e-2}})
    learn(work)
    for _ in range(4):
        one_step(work, work.loader[work.step])
        work.step += 1
    norms = learning_norms(work.model)
    assert norms
    with as_kept(work):
        found = [norm.running_mean.clone() for norm in norms]
        again = copy.deepcopy(work.model)
        again.train()
        for module in learning_norms(again):
            module.reset_running_stats()
            module.momentum = None
        with torch.no_grad():
            for step in range(4):
                pixels = work.loader[step].micros[0].pixels
                again.encode_image((pixels.movedim(-1, 1).float() - work.towers.mean) / work.towers.std)
        for norm, expected in zip(found, learning_norms(again), strict=True):
            assert torch.allclose(norm, expected.running_mean, atol=1e-5)
    assert all(norm.training for norm in norms)


def test_frozen_statistics_are_not_measured(work_of):
    work = work_of(train={"ema": 0.9, "norm": "frozen"})
    before = {name: value.clone() for name, value in work.model.named_buffers()}
    learn(work)
    one_step(work, work.loader[0])
    work.step = 1
    with as_kept(work):
        assert all(torch.equal(value, before[name]) for name, value in work.model.named_buffers())
