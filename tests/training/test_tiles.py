"""Tile-by-tile sums against the plain N x N form, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medweave.training import tiles

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ROWS", 5)
    monkeypatch.setattr(tiles, "TILE_COLUMNS", 7)


def unit(generator, *shape):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float32), dim=-1)


def batch(size, width=6, seed=0, scale=14.0):
    generator = torch.Generator().manual_seed(seed)
    return (
        unit(generator, size, width).requires_grad_(),
        unit(generator, size, width).requires_grad_(),
        torch.tensor(float(scale), requires_grad=True),
    )


def gradients(value, inputs):
    return torch.autograd.grad(value, inputs, allow_unused=True)


def assert_same(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.linalg.norm(a - b) <= tolerance * torch.linalg.norm(b) + 1e-5


def ignore_some(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sets = torch.randint(0, 4, (size,), generator=generator)
    table = torch.rand(5, 5, generator=generator) < 0.3
    table.fill_diagonal_(False)
    return tiles.Ignore(table, sets), table[sets][:, sets]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 23),
    scale=st.sampled_from([1.0, 14.3, 60.0, 100.0]),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_log_sums_equal_the_plain_form(size, scale, masked, seed):
    image, text, temperature = batch(size, seed=seed, scale=scale)
    ignore, table = ignore_some(size, seed) if masked else (None, torch.zeros(size, size, dtype=torch.bool))
    weights = torch.linspace(0.5, 1.5, size)
    rows, columns, own = tiles.log_sums(image, text, temperature, ignore)
    logits = (temperature * image @ text.T).masked_fill(table, -torch.inf)
    expected_rows, expected_columns = logits.logsumexp(1), logits.logsumexp(0)
    expected_own = (image * text).sum(1) * temperature
    assert torch.allclose(own, expected_own, atol=1e-5)
    assert torch.allclose(rows, expected_rows, rtol=1e-5, atol=1e-5)
    assert torch.allclose(columns, expected_columns, rtol=1e-5, atol=1e-5)
    inputs = (image, text, temperature)
    ours = gradients((rows * weights).sum() + columns.sum() - (own * weights).sum(), inputs)
    assert_same(
        ours,
        gradients((expected_rows * weights).sum() + expected_columns.sum() - (expected_own * weights).sum(), inputs),
        2e-5,
    )


def test_log_sums_of_logits_far_out_of_float_range():
    image, text, _ = batch(20, seed=3)
    scale = torch.tensor(5000.0, requires_grad=True)
    rows, columns, _ = tiles.log_sums(image, text, scale)
    logits = scale * image @ text.T
    assert torch.allclose(rows, logits.logsumexp(1)) and torch.allclose(columns, logits.logsumexp(0))
    inputs = (image, text, scale)
    assert_same(
        gradients((rows + columns).sum(), inputs),
        gradients((logits.logsumexp(1) + logits.logsumexp(0)).sum(), inputs),
        1e-4,
    )


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 23), masked=st.booleans(), seed=st.integers(0, 99))
def test_softplus_sum_equals_the_plain_form(size, masked, seed):
    image, text, scale = batch(size, seed=seed, scale=10.0)
    bias = torch.tensor(-3.0, requires_grad=True)
    ignore, table = ignore_some(size, seed) if masked else (None, torch.zeros(size, size, dtype=torch.bool))
    ours = tiles.softplus_sum(image, text, scale, bias, ignore)
    logits = (scale * image @ text.T + bias).masked_fill(table, -torch.inf)
    plain = torch.nn.functional.softplus(logits).sum()
    assert torch.allclose(ours, plain, rtol=1e-5)
    inputs = (image, text, scale, bias)
    assert_same(gradients(2 * ours, inputs), gradients(2 * plain, inputs))


@pytest.mark.parametrize("size", [1, 5, 6, 36])
def test_tiles_cover_every_pair_once(size):
    seen = torch.zeros(size, size, dtype=torch.int64)
    for rows, columns in tiles.tiles(size):
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_exponentials_are_zero_or_normal_numbers_and_hide_no_error():
    """A number below the normal ones costs twenty times the time in all that follows."""
    logits = torch.tensor([-torch.inf, -1e4, -100.0, -80.0, -60.0, 0.0, 5.0, 200.0, torch.nan])
    found = tiles.exponentials_(logits.clone(), torch.tensor(0.0))
    assert found[:4].tolist() == [0, 0, 0, 0]
    assert torch.allclose(found[4:7], logits[4:7].exp(), rtol=1e-6, atol=0)
    assert found[7].isinf() and found[8].isnan()
    assert found[4] * 1e-8 > torch.finfo(torch.float32).tiny
