import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medweave.training.optim import Average, optimiser_of, parameter_groups, rate, set_rate, step_
from medweave.training.recipe import OptimiserRecipe


def by_name(work, **recipe) -> dict:
    groups = parameter_groups(work.model, work.objectives, OptimiserRecipe(**recipe))
    return {name: group for group in groups for name in group["names"]}


def test_every_parameter_that_learns_is_in_exactly_one_group(work_of):
    work = work_of(text={"freeze": 1})
    groups = parameter_groups(work.model, work.objectives, OptimiserRecipe(layer_decay=0.5))
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in work.model.parameters() if p.requires_grad}


def test_one_dimensional_parameters_do_not_decay(work_of):
    work = work_of()
    for name, group in by_name(work, weight_decay=0.3).items():
        parameter = dict(zip(group["names"], group["params"], strict=True))[name]
        assert group["weight_decay"] == (0.3 if parameter.ndim >= 2 else 0)
    assert by_name(work)["logit_scale"]["weight_decay"] == 0


def test_towers_and_projections_have_their_own_rates(work_of):
    groups = by_name(work_of(), lr=1.0, image_lr=0.5, text_lr=0.25)
    assert groups["image.trunk.conv1.0.weight"]["peak"] == 0.5
    assert groups["text.transformer.embeddings.word_embeddings.weight"]["peak"] == 0.25
    assert groups["image.head.proj.weight"]["peak"] == 1
    assert groups["text.proj.0.weight"]["peak"] == 1
    assert groups["logit_scale"]["peak"] == 1


def test_lower_blocks_move_less(work_of):
    groups = by_name(work_of(), lr=1.0, layer_decay=0.5)
    peaks = [groups[f"text.transformer.encoder.layer.{i}.output.dense.weight"]["peak"] for i in range(2)]
    assert peaks == [0.25, 0.5]
    assert groups["text.transformer.embeddings.word_embeddings.weight"]["peak"] == 0.125


@given(st.integers(1, 300), st.floats(0, 0.99))
def test_the_rate_rises_then_falls_to_zero(total, warmup):
    rates = [rate(step, total, warmup) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0 <= value <= 1 for value in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] <= 0.5 or total * (1 - warmup) < 3


def test_warmup_in_steps_or_as_a_share():
    assert [rate(step, 100, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [rate(step, 100, 4) for step in range(100)] == [rate(step, 100, 0.04) for step in range(100)]
    assert rate(52, 100, 4) == pytest.approx(0.5)


def test_a_step_is_torchs_own_with_clipping(work_of):
    work = work_of()
    recipe = OptimiserRecipe(lr=0.01, weight_decay=0.1)
    optimiser = optimiser_of(work.model, work.objectives, recipe)
    set_rate(optimiser, 0.5)
    parameter = work.model.clip.visual.trunk.conv1[0].weight
    other = parameter.detach().clone().requires_grad_()
    parameter.grad = torch.ones_like(parameter)
    other.grad = parameter.grad / parameter.grad.norm() * 0.2
    norm = step_(optimiser, work.model, work.objectives, clip=0.2)
    assert float(norm) == pytest.approx(math.sqrt(parameter.numel()), rel=1e-5)
    torch.optim.AdamW([other], lr=0.005, betas=recipe.betas, eps=recipe.eps, weight_decay=0.1).step()
    assert torch.allclose(parameter, other, atol=1e-6) and parameter.grad is None


def test_the_scale_stays_below_a_hundred(work_of):
    work = work_of()
    with torch.no_grad():
        work.model.logit_scale.fill_(9.0)
    step_(work.optimiser, work.model, work.objectives, None)
    assert work.model.logit_scale.exp().item() == pytest.approx(100)


def test_the_average_is_that_of_a_plain_loop_and_swaps_exactly(work_of):
    work = work_of()
    average = Average(work.model, 0.8)
    weight = work.model.logit_scale
    expected = weight.item()
    for step in range(20):
        with torch.no_grad():
            weight.add_(0.1)
        average.update(step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.item()
    now = weight.item()
    average.swap()
    assert weight.item() == pytest.approx(expected, rel=1e-5)
    average.swap()
    assert weight.item() == now
