from dataclasses import replace

import pytest
import torch

from medweave.errors import RequestError
from medweave.training.objective import Embeddings
from medweave.training.objectives.affinity import Affinity, AffinityRecipe
from medweave.training.objectives.answer import Answer, AnswerRecipe


def naive(student, batch, scales):
    """Whole matrices of the covered samples; each sample's attention is dealt to its teachers."""
    names = list(scales)
    gates = torch.stack([batch.rows[name].gate for name in names])
    known = batch.rows["both"].known
    gates = gates if known is None else gates * known
    dealt = gates / gates.sum(0).clamp_min(1e-30)
    losses = {}
    for at, name in enumerate(names):
        rows, kept = batch.rows[name], (gates[at] > 0).nonzero()[:, 0]
        theirs = scales[name] * rows.image[kept] @ rows.text[kept].T
        own = student.scale * student.image[kept] @ student.text[kept].T
        away = 0
        for a, b in ((theirs, own), (theirs.T, own.T)):
            a, b = a.log_softmax(1), b.log_softmax(1)
            away = away + 0.5 * (a.exp() * (a - b)).sum(1)
        losses[f"affinity/{name}"] = (dealt[at, kept] * away).sum() / len(gates[at])
    return losses


@pytest.mark.parametrize("of", ["batch", "wordless"])
def test_values_and_gradients_are_the_naive_ones(student, given, request, of):
    """A sample whose text has no row is in no teacher's matrix."""
    batch = request.getfixturevalue(of)
    found = Affinity(AffinityRecipe(sharpness=0.5), given)(student, batch)
    expected = naive(student, batch, {"both": 15.0, "some": 15.0})
    assert found.keys() == expected.keys()
    inputs = [student.image, student.text, student.scale]
    for name in found:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-4)
    own, right = (torch.autograd.grad(sum(x.values()), inputs) for x in (found, expected))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(own, right, strict=True))


def test_what_a_teacher_does_not_cover_changes_nothing(student, given, batch, rows):
    noise = replace(rows["some"], image=rows["some"].image.clone())
    noise.image[7:] = torch.nan
    slopes = [
        torch.autograd.grad(sum(Affinity(AffinityRecipe(), given)(student, b).values()), [student.image, student.text])
        for b in (batch, replace(batch, rows={**rows, "some": noise}))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


@pytest.mark.parametrize(("kind", "recipe"), [(Affinity, AffinityRecipe()), (Answer, AnswerRecipe())])
def test_a_teacher_whose_scale_is_not_known_is_left_out(given, kind, recipe):
    unknown = {**given.teachers, "both": replace(given.teachers["both"], scale=None)}
    objective = kind(recipe, replace(given, teachers=unknown))
    assert objective.left_out == ["both"] and list(objective.scales) == ["some"]
    assert kind(recipe, given).left_out == []
    unknown["some"] = replace(given.teachers["some"], scale=None)
    with pytest.raises(RequestError, match=r"needs a teacher's own scale, and that of both and some .*give `scale:`"):
        kind(recipe, replace(given, teachers=unknown))
    single = {name: teacher for name, teacher in given.teachers.items() if len(teacher.sides) < 2}
    with pytest.raises(RequestError, match="both towers"):
        kind(recipe, replace(given, teachers=single))


def test_a_student_that_is_its_teacher_has_nothing_to_learn(given, batch, rows):
    only = {"both": given.teachers["both"]}
    twin = Embeddings(rows["both"].image, rows["both"].text, torch.tensor(30.0), torch.zeros(()))
    losses = Affinity(AffinityRecipe(), replace(given, teachers=only))(twin, batch)
    assert losses["affinity/both"].item() == pytest.approx(0, abs=1e-5)


def test_a_teacher_that_covers_one_sample_of_a_batch_teaches_nothing(student, given, batch, rows):
    alone = replace(rows["some"], gate=torch.eye(10)[0])
    losses = Affinity(AffinityRecipe(), given)(student, replace(batch, rows={**rows, "some": alone}))
    assert losses["affinity/some"].item() == 0
