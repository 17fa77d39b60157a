import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from medweave.training.objectives.interactive import Interactive, InteractiveRecipe


def test_values_are_the_naive_ones(student, given, batch):
    objective = Interactive(InteractiveRecipe(), given)
    losses = objective(student, batch)
    assert losses.keys() == {"interactive/both", "interactive/some"}
    gates = torch.stack([batch.rows[name].gate for name in ("both", "some")])
    dealt = gates / gates.sum(0)
    for at, name in enumerate(("both", "some")):
        rows, kept = batch.rows[name], (gates[at] > 0).nonzero()[:, 0]
        image, text = (normalize(objective.heads[name](x[kept]), dim=-1) for x in (student.image, student.text))
        scale, right = objective.scales[at].exp(), torch.arange(len(kept))
        each = [
            cross_entropy(scale * own @ theirs[kept].T, right, reduction="none")
            for own, theirs in ((image, rows.text), (text, rows.image))
        ]
        expected = (dealt[at, kept] * (each[0] + each[1]) / 2).sum() / 10
        assert losses[f"interactive/{name}"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_every_parameter_learns_the_scales_too(student, given, batch):
    objective = Interactive(InteractiveRecipe(), given)
    sum(objective(student, batch).values()).backward()
    assert objective.scales.requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
