from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from medweave.errors import RequestError
from medweave.training.objectives.affinity import Affinity, AffinityRecipe
from medweave.training.objectives.answer import Answer, AnswerRecipe
from medweave.training.objectives.interactive import Interactive, InteractiveRecipe


@pytest.mark.parametrize("of", ["batch", "wordless"])
def test_values_are_the_naive_ones(student, given, request, of):
    """A sample whose text has no row is no pair."""
    batch = request.getfixturevalue(of)
    objective = Interactive(InteractiveRecipe(), given)
    losses = objective(student, batch)
    assert losses.keys() == {"interactive/both", "interactive/some"}
    gates = torch.stack([batch.rows[name].gate for name in ("both", "some")])
    gates = gates if of == "batch" else gates * batch.rows["both"].known
    dealt, total = gates / gates.sum(0).clamp_min(1e-30), 0.0
    for at, name in enumerate(("both", "some")):
        rows, kept = batch.rows[name], (gates[at] > 0).nonzero()[:, 0]
        image, text = (normalize(objective.heads[at](x[kept]), dim=-1) for x in (student.image, student.text))
        scale, right = objective.scales[at].exp(), torch.arange(len(kept))
        each = [
            cross_entropy(scale * own @ theirs[kept].T, right, reduction="none")
            for own, theirs in ((image, rows.text), (text, rows.image))
        ]
        expected = (dealt[at, kept] * (each[0] + each[1]) / 2).sum() / 10
        assert losses[f"interactive/{name}"].item() == pytest.approx(expected.item(), rel=1e-4)
        total = total + expected
    inputs = [student.image, student.text, *objective.parameters()]
    slopes, right_slopes = (torch.autograd.grad(one, inputs) for one in (sum(losses.values()), total))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(slopes, right_slopes, strict=True))


def test_what_a_teacher_does_not_cover_changes_nothing(student, given, batch, rows):
    objective = Interactive(InteractiveRecipe(), given)
    noise = replace(rows["some"], image=rows["some"].image.clone(), text=rows["some"].text.clone())
    noise.image[7:], noise.text[7:] = torch.nan, 99.0
    slopes = [
        torch.autograd.grad(sum(objective(student, one).values()), [student.image, student.text])
        for one in (batch, replace(batch, rows={**rows, "some": noise}))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_scales_come_back_from_their_highest(student, given, batch):
    objective = Interactive(InteractiveRecipe(), given)
    with torch.no_grad():
        objective.scales.fill_(7.0)
    objective.settle()
    assert torch.allclose(objective.scales.exp(), torch.tensor(100.0))
    sum(objective(student, batch).values()).backward()
    assert (objective.scales.grad.abs() > 0).all()


@pytest.mark.parametrize(
    ("kind", "recipe"), [(Interactive, InteractiveRecipe()), (Affinity, AffinityRecipe()), (Answer, AnswerRecipe())]
)
def test_both_towers_are_needed(kind, recipe, given):
    with pytest.raises(RequestError, match="needs a teacher with both towers"):
        kind(recipe, replace(given, teachers={"eyes": given.teachers["eyes"]}))


def test_every_parameter_learns_the_scales_too(student, given, batch):
    objective = Interactive(InteractiveRecipe(), given)
    sum(objective(student, batch).values()).backward()
    assert objective.scales.requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
