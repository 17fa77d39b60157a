from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from medweave.errors import RequestError
from medweave.training.objectives.mmkd import Mmkd, MmkdRecipe, frame


@pytest.mark.parametrize("temperature", ["shipped", "meant"])
def test_values_are_the_papers_formulas(student, given, batch, temperature):
    """50 x mean over samples and directions of the squared distance, image and text; and both contrasts, halved."""
    objective = Mmkd(MmkdRecipe(temperature=temperature), given)
    losses = objective(student, batch)
    gates = torch.stack([batch.rows[name].gate for name in objective.names])
    drawn = objective._drawn(gates, batch)
    image, text = (
        torch.stack(
            [
                getattr(batch.rows[objective.names[t]], side)[i] @ frame(given.teachers[objective.names[t]], 6)
                for i, t in enumerate(drawn.tolist())
            ]
        )
        for side in ("image", "text")
    )
    feature = ((student.image - image) ** 2).sum() / 60 + ((student.text - text) ** 2).sum() / 60
    scale, right = {"shipped": 2.6593, "meant": 1 / 0.07}[temperature], torch.arange(10)
    contrast = sum(cross_entropy(scale * a @ b.T, right) for a, b in ((student.image, text), (student.text, image)))
    assert losses["mmkd/feature"].item() == pytest.approx(50 * feature.item(), rel=1e-4)
    assert losses["mmkd/interactive"].item() == pytest.approx(contrast.item() / 2, rel=1e-4)


def test_one_teacher_is_drawn_for_each_sample_among_those_that_cover_it(given, batch):
    objective = Mmkd(MmkdRecipe(), given)
    gates = torch.stack([batch.rows[name].gate for name in objective.names])
    drawn = torch.stack([objective._drawn(gates, replace(batch, step=step)) for step in range(100)])
    assert (drawn[:, 7:] == 0).all() and 0.3 < drawn[:, :7].float().mean() < 0.7


def test_the_scale_learns_only_as_meant(student, given, batch):
    for temperature, learns in (("shipped", False), ("meant", True)):
        objective = Mmkd(MmkdRecipe(temperature=temperature), given)
        sum(objective(student, batch).values()).backward()
        assert (objective.scale.grad is not None) is learns
        assert all(p.grad is None for p in objective.frames)


def test_a_frame_keeps_the_directions_of_most_spread(given, rows):
    """The linear autoencoder of least error: projecting and back loses what the smallest eigenvalues say."""
    both = torch.cat([rows["both"].image, rows["both"].text])
    seen = frame(given.teachers["both"], 6)
    moments = sum(
        s.covariance + torch.outer(s.mean, s.mean) for s in (given.teachers["both"].image, given.teachers["both"].text)
    )
    lost = torch.trace(moments) - torch.trace(seen.T @ moments @ seen)
    assert lost.item() == pytest.approx(torch.linalg.eigvalsh(moments)[:2].sum().item(), rel=1e-3)
    assert torch.allclose(seen.T @ seen, torch.eye(6), atol=1e-5) and (both @ seen).shape == (20, 6)
    assert frame(given.teachers["some"], 6).shape == (5, 6)


def test_it_needs_a_teacher_with_both_towers(given):
    with pytest.raises(RequestError, match="both towers"):
        Mmkd(MmkdRecipe(), replace(given, teachers={"eyes": given.teachers["eyes"]}))
