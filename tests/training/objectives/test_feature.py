from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from medweave.errors import RequestError
from medweave.training.objective import Batch, Embeddings, Given, Standard, Teacher, TeacherRows
from medweave.training.objectives.feature import Feature, FeatureRecipe


def naive(objective, given, student, batch):
    """Sample by sample, nobody dropped: teacher -> loss."""
    losses = dict.fromkeys(given.teachers, 0.0)
    for i in range(len(batch.numbers)):
        trusting = {name: float(batch.rows[name].gate[i]) for name in given.teachers}
        for name, teacher in given.teachers.items():
            if trusting[name] == 0:
                continue
            away = []
            for side in teacher.sides:
                standard, rows = getattr(teacher, side), getattr(batch.rows[name], side)
                there = batch.rows[name].gate > 0
                if side == "text" and batch.rows[name].known is not None:
                    there = there & batch.rows[name].known
                if not there[i]:
                    continue
                known = [standard(rows[j][None])[0] for j in range(len(rows)) if there[j]]
                place = list(given.teachers).index(name)
                told = objective.heads[f"{place}:{side}"](getattr(student, side)[i] * 6**0.5)  # width 6

                def far(a, b):
                    return 0.5 * (1 - cosine_similarity(a, b, dim=0)) + 0.5 * smooth_l1_loss(a, b)

                mean = torch.zeros(len(standard.mean))  # of standardised rows
                away.append(far(told, standard(rows[i][None])[0]) / (sum(far(mean, k) for k in known) / len(known)))
            losses[name] = losses[name] + trusting[name] / sum(trusting.values()) * sum(away) / len(away)
    return {f"feature/{name}": loss / len(batch.numbers) for name, loss in losses.items()}


@pytest.mark.parametrize("of", ["batch", "wordless"])
def test_values_and_gradients_are_the_naive_ones(student, given, request, of):
    batch = request.getfixturevalue(of)
    objective = Feature(FeatureRecipe(), given)
    found, expected = objective(student, batch), naive(objective, given, student, batch)
    assert found.keys() == expected.keys()
    inputs = [student.image, student.text, *objective.parameters()]
    slopes = torch.autograd.grad(sum(found.values()), inputs)
    right = torch.autograd.grad(sum(expected.values()), inputs)
    for name in found:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    for own, other in zip(slopes, right, strict=True):
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-6)


def test_what_a_teacher_does_not_cover_changes_nothing(student, given, batch, rows):
    noise = replace(rows["some"], image=rows["some"].image.clone(), text=rows["some"].text.clone())
    noise.image[7:], noise.text[7:] = torch.nan, 99.0
    other = replace(batch, rows={**rows, "some": noise})
    objective = Feature(FeatureRecipe(), given)
    slopes = []
    for one in (batch, other):
        objective.spread.zero_()
        slopes.append(torch.autograd.grad(sum(objective(student, one).values()), [student.image, student.text]))
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_a_sample_whose_text_has_no_row_is_told_by_its_image(student, given, wordless):
    objective = Feature(FeatureRecipe(), replace(given, teachers={"both": given.teachers["both"]}))
    slopes = torch.autograd.grad(sum(objective(student, wordless).values()), [student.image, student.text])
    image, text = (slope[[2, 8]] for slope in slopes)
    assert image.isfinite().all() and image.any(1).all() and not text.any()


def test_a_text_tower_says_nothing_of_a_sample_whose_text_has_no_row(student, given, wordless):
    words = replace(given, teachers={"words": replace(given.teachers["both"], image=None)})
    rows = {"words": replace(wordless.rows["both"], image=None)}
    losses = Feature(FeatureRecipe(), words)(student, replace(wordless, rows=rows))
    (slope,) = torch.autograd.grad(sum(losses.values()), student.text)
    assert not slope[[2, 8]].any() and slope[[0, 1, 9]].any(1).all()
    assert rows["words"].covered.tolist() == [n not in (2, 8) for n in range(10)]


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    row = torch.nn.functional.normalize(torch.randn(9, 6), dim=-1)
    plain = Standard(torch.zeros(6), torch.eye(6), torch.eye(6))
    teachers = {"twin": Teacher(10.0, plain, plain)}
    objective = Feature(FeatureRecipe(heads=False, standardise=False), Given(6, teachers))
    batch = Batch(torch.arange(9), [None] * 9, rows={"twin": TeacherRows(torch.ones(9), row, row)})
    losses = objective(Embeddings(row, row, torch.tensor(10.0), torch.zeros(())), batch)
    assert losses["feature/twin"].item() == pytest.approx(0, abs=1e-6)


def test_without_heads_a_standardised_row_can_be_told(given):
    """It has length √E, and so have the student's rows then."""
    six = replace(given, width=8, teachers={"both": given.teachers["both"]})
    objective = Feature(FeatureRecipe(heads=False), six)
    target = torch.nn.functional.normalize(torch.randn(9, 8), dim=-1)
    matrix = torch.eye(8) * 8**0.5
    plain = Standard(torch.zeros(8), matrix, torch.eye(8) / 8)
    objective.teachers = {"both": Teacher(30.0, plain, plain)}
    batch = Batch(torch.arange(9), [None] * 9, rows={"both": TeacherRows(torch.ones(9), target, target)})
    losses = objective(Embeddings(target, target, torch.tensor(10.0), torch.zeros(())), batch)
    assert losses["feature/both"].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(RequestError, match="without heads both, 8 wide, cannot be told by a student 6 wide"):
        Feature(FeatureRecipe(heads=False), replace(six, width=6))


def test_the_mean_row_costs_one(given, batch, student):
    objective = Feature(FeatureRecipe(), given)
    objective(student, batch)  # measures what the mean row costs
    for parameter in objective.parameters():
        parameter.data.zero_()
    objective.eval()
    assert sum(objective(student, batch).values()).item() == pytest.approx(1, rel=0.02)  # attention differs by sample


def test_every_parameter_learns(student, given, batch):
    objective = Feature(FeatureRecipe(hidden=4), given)
    sum(objective(student, batch).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
