import pytest
import torch
from torch.nn.functional import normalize

from medweave.errors import UserError
from medweave.training import tiles
from medweave.training.likeness import Matrix, divergences


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def naive(left, right, scale, teachers, others=False):
    """With both matrices whole, in double precision."""

    def kl(theirs, own):
        theirs, own = theirs.log_softmax(1), own.log_softmax(1)
        return torch.where(theirs > -torch.inf, theirs.exp() * (theirs - own), 0.0).sum(1)

    hidden = torch.eye(len(left), dtype=torch.bool) & others
    own = (scale * left @ right.T).masked_fill(hidden, -torch.inf)
    found = []
    for matrix in teachers:
        theirs = (matrix.scale * matrix.left.double() @ matrix.right.double().T).masked_fill(hidden, -torch.inf)
        found.append(torch.stack([kl(theirs, own), kl(theirs.T, own.T)]))
    return torch.stack(found)


def both(left, right, scale, teachers, others=False):
    """Values and gradients of a weighted sum, of ours and of the naive form."""
    weights = torch.rand(len(teachers), 2, len(left), generator=torch.Generator().manual_seed(9))
    results = []
    for form, kind in ((divergences, torch.float32), (naive, torch.float64)):
        inputs = [x.detach().to(kind).requires_grad_() for x in (left, right, scale)]
        values = form(*inputs, teachers, others)
        slopes = torch.autograd.grad((values.nan_to_num() * weights.to(kind)).sum(), inputs)
        results.append((values, slopes))
    return results


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(("size", "scales"), [(7, (20.0, 60.0)), (90, (14.0, 30.0, 5.0))])
def test_values_and_gradients_are_those_of_whole_matrices(monkeypatch, size, scales, others):
    monkeypatch.setattr(tiles, "TILE_ROWS", 16)
    monkeypatch.setattr(tiles, "TILE_COLUMNS", 32)
    teachers = [Matrix(unit(size, 6, seed=k), unit(size, 6, seed=k + 50), s) for k, s in enumerate(scales)]
    (value, slopes), (expected, expected_slopes) = both(
        unit(size, 5, seed=1), unit(size, 5, seed=2), torch.tensor(17.0), teachers, others
    )
    assert torch.allclose(value.double(), expected, rtol=1e-5, atol=1e-5)
    for own, right in zip(slopes, expected_slopes, strict=True):
        assert (own - right).norm() <= 1e-5 * right.norm()


def test_a_range_that_single_precision_lacks():
    """Pairs that point away from each other at scale 100: exponentials between e-200 and e200."""
    left = unit(12, 4)
    teachers = [Matrix(left, -left, 100.0)]
    (value, slopes), (expected, expected_slopes) = both(left, -left.flip(0), torch.tensor(100.0), teachers)
    assert torch.isfinite(value).all() and torch.allclose(value.double(), expected, rtol=1e-4, atol=1e-3)
    for own, right in zip(slopes, expected_slopes, strict=True):
        assert (own - right).norm() <= 1e-4 * right.norm() + 1e-6


def test_one_pair_far_below_all_others():
    """Its exponentials are e-88 where those of the others are 1: what double precision is asked for must hold there."""
    left = torch.eye(16)[:12]
    right = 0.94 * left + 0.34 * torch.eye(16)[15]
    right[0] = torch.eye(16)[13]
    right = torch.nn.functional.normalize(right, dim=-1)
    teachers = [Matrix(unit(12, 4), unit(12, 4, seed=5), 100.0)]
    (value, slopes), (expected, expected_slopes) = both(left, right, torch.tensor(100.0), teachers)
    assert torch.allclose(value.double(), expected, rtol=1e-4, atol=1e-3)
    for own, right_slope in zip(slopes, expected_slopes, strict=True):
        assert (own - right_slope).norm() <= 1e-4 * right_slope.norm() + 1e-6


def test_a_range_that_no_number_has_is_told():
    left = unit(12, 4)
    with pytest.raises(UserError, match="logits of scale 900 leave the range"):
        divergences(left, left, torch.tensor(10.0), [Matrix(left, -left, 900.0)])


def test_the_same_matrix_is_no_distance_away():
    image, text = unit(20, 8), unit(20, 8, seed=3)
    inputs = [x.requires_grad_() for x in (image, text, torch.tensor(25.0))]
    values = divergences(*inputs, [Matrix(image.detach(), text.detach(), 25.0)])
    slopes = torch.autograd.grad(values.sum(), inputs)
    assert values.max() < 1e-5 and all(slope.abs().max() < 1e-4 for slope in slopes)
