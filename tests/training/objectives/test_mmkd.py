from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from medweave.errors import RequestError
from medweave.training.objective import Embeddings
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
                getattr(batch.rows[objective.names[t]], side)[i] @ objective.frames[t]
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
    inputs = [student.image, student.text]
    slopes, right_slopes = (
        torch.autograd.grad(total, inputs, retain_graph=True)
        for total in (sum(losses.values()), 50 * feature + contrast / 2)
    )
    assert all(
        torch.allclose(own, other, rtol=1e-4, atol=1e-5) for own, other in zip(slopes, right_slopes, strict=True)
    )


def test_what_no_teacher_covers_changes_nothing(student, given, batch):
    """Beyond the seventh sample `some` covers nothing: its rows there may be anything."""
    objective = Mmkd(MmkdRecipe(), given)
    noise = replace(batch.rows["some"], image=batch.rows["some"].image.clone(), text=batch.rows["some"].text.clone())
    noise.image[7:], noise.text[7:] = torch.nan, 99.0
    slopes = [
        torch.autograd.grad(sum(objective(student, one).values()), [student.image, student.text])
        for one in (batch, replace(batch, rows={**batch.rows, "some": noise}))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_a_sample_whose_text_has_no_row_takes_no_part(student, given, wordless):
    objective = Mmkd(MmkdRecipe(), given)
    slopes = torch.autograd.grad(sum(objective(student, wordless).values()), [student.image, student.text])
    for slope in slopes:
        assert slope.isfinite().all() and slope.any(1).tolist() == [n not in (2, 8) for n in range(10)]


def test_no_rows_of_length_one_come_below_the_floor(given, batch):
    """The best student points where its targets do; it gets just the floor."""
    objective = Mmkd(MmkdRecipe(), given)
    drawn = objective._drawn(torch.stack([batch.rows[name].gate for name in objective.names]), batch)
    targets = [objective._targets(side, torch.arange(10), drawn, batch) for side in ("image", "text")]
    best = [torch.nn.functional.normalize(target, dim=-1) for target in targets]
    student = Embeddings(*best, torch.tensor(10.0), torch.zeros(()))
    floor = objective.floors(batch)["mmkd/feature"].item()
    assert floor > 0.01 and objective(student, batch)["mmkd/feature"].item() == pytest.approx(floor, rel=1e-4)


def test_the_scale_comes_back_from_its_highest(student, given, batch):
    objective = Mmkd(MmkdRecipe(temperature="meant"), given)
    with torch.no_grad():
        objective.scale.fill_(7.0)
    objective.settle()
    assert objective.scale.exp().item() == pytest.approx(100)
    sum(objective(student, batch).values()).backward()
    assert objective.scale.grad.abs() > 0


def test_frames_of_two_teachers_have_nothing_to_do_with_each_other(given):
    """A common cone of both must not lie on the same coordinate of both frames."""
    frames = Mmkd(MmkdRecipe(), given).frames
    spans = frame(given.teachers["both"], 6)
    assert torch.allclose(frames[0] @ frames[0].T, spans @ spans.T, atol=1e-5)
    assert not torch.allclose(frames[0], spans, atol=0.1)


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


def test_a_frame_keeps_the_directions_of_most_spread_and_evens_half_of_it(given, rows):
    """The smallest eigenvalues are lost; of the others the spread comes out as a square root."""
    both = torch.cat([rows["both"].image, rows["both"].text])
    seen = frame(given.teachers["both"], 6)
    sides = (given.teachers["both"].image, given.teachers["both"].text)
    moment = sum(s.covariance + torch.outer(s.mean, s.mean) for s in sides) / 2
    values = torch.linalg.eigvalsh(moment).flip(0)
    after = torch.linalg.eigvalsh(seen.T @ moment @ seen).flip(0)
    assert torch.allclose(after / after.sum(), values[:6].sqrt() / values[:6].sqrt().sum(), atol=1e-4)
    assert after.sum().item() == pytest.approx(1.97**2, rel=1e-4)
    assert (both @ seen).square().sum(1).mean().item() == pytest.approx(1.97**2, rel=0.1)
    assert frame(given.teachers["some"], 6).shape == (5, 6)


def test_rounding_is_not_blown_up(given):
    """Directions in which a teacher never goes stay small."""
    teacher = given.teachers["both"]
    flat = [
        replace(s, covariance=torch.zeros_like(s.covariance), mean=torch.eye(8)[0])
        for s in (teacher.image, teacher.text)
    ]
    seen = frame(replace(teacher, image=flat[0], text=flat[1]), 6)
    assert seen.isfinite().all() and seen.norm(dim=0).max() <= 10 * seen.norm(dim=0).min() * (1 + 1e-4)


def test_it_needs_a_teacher_with_both_towers(given):
    with pytest.raises(RequestError, match="both towers"):
        Mmkd(MmkdRecipe(), replace(given, teachers={"eyes": given.teachers["eyes"]}))
