from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from medweave.training.objective import Embeddings
from medweave.training.objectives.answer import Answer, AnswerRecipe

SAMPLES, WIDTH, FINDINGS, EACH = 10, 6, 5, 3


def unit(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def near():
    """The first six images are of the modality of findings 0 to 2, the next three of 3 and 4, the last of none."""
    near = torch.zeros(SAMPLES, FINDINGS, dtype=torch.bool)
    near[:6, :3], near[6:9, 3:] = True, True
    return near


@pytest.fixture
def asked(student, batch, rows, near):
    """The student and the batch with a menu."""
    menus = {
        name: unit(FINDINGS * EACH, of.text.shape[1], seed=at)
        for at, (name, of) in enumerate(rows.items(), 40)
        if of.text is not None
    }
    taught = {name: replace(of, menu=menus.get(name)) for name, of in rows.items()}
    menu = unit(FINDINGS, EACH, WIDTH, seed=30).requires_grad_()
    return replace(student, menu=menu), replace(batch, rows=taught, near=near)


def answer_of(image, menu, scale, near):
    """One image, a loop over findings."""
    logits = [
        scale * image @ (of.mean(0) / of.mean(0).norm()) for of, is_near in zip(menu, near, strict=True) if is_near
    ]
    return torch.stack(logits).log_softmax(0)


def naive(student, batch, scale):
    losses = {"answer/both": 0.0, "answer/some": 0.0}
    for at in range(9):
        own = answer_of(student.image[at], student.menu, student.scale, batch.near[at])
        gates = {name: batch.rows[name].gate[at] for name in ("both", "some")}
        for name, gate in gates.items():
            rows = batch.rows[name]
            theirs = answer_of(rows.image[at], rows.menu.view(FINDINGS, EACH, -1), scale, batch.near[at])
            away = (theirs.exp() * (theirs - own)).sum()
            losses[f"answer/{name}"] = losses[f"answer/{name}"] + gate / sum(gates.values()) * away / SAMPLES
    return losses


def test_values_and_gradients_are_the_naive_ones(asked, given):
    student, batch = asked
    found = Answer(AnswerRecipe(captions=EACH, sharpness=0.5, weight=2.0), given)(student, batch)
    expected = {name: 2 * loss for name, loss in naive(student, batch, 15.0).items()}
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-4)
    inputs = [student.image, student.menu, student.scale]
    own, right = (torch.autograd.grad(sum(x.values()), inputs) for x in (found, expected))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(own, right, strict=True))
    assert all(slope.isfinite().all() for slope in own)


def test_what_a_teacher_does_not_cover_changes_nothing(asked, given):
    student, batch = asked
    noise = replace(batch.rows["some"], image=batch.rows["some"].image.clone())
    noise.image[7:] = torch.nan
    slopes = [
        torch.autograd.grad(
            sum(Answer(AnswerRecipe(captions=EACH), given)(student, b).values()), [student.image, student.menu]
        )
        for b in (batch, replace(batch, rows={**batch.rows, "some": noise}))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))
    assert not slopes[0][0][9].any()  # its modality has no finding


def test_an_image_is_asked_whatever_its_text(asked, given, wordless):
    """The menu has its rows; the sample's own text is not looked at."""
    student, batch = asked
    bare = {name: replace(of, menu=batch.rows[name].menu) for name, of in wordless.rows.items()}
    losses = [Answer(AnswerRecipe(captions=EACH), given)(student, one) for one in (batch, replace(batch, rows=bare))]
    slopes = [torch.autograd.grad(sum(one.values()), student.image)[0] for one in losses]
    assert torch.equal(*slopes) and slopes[1][[2, 8]].any(1).all()
    assert {name: loss.item() for name, loss in losses[0].items()} == {n: loss.item() for n, loss in losses[1].items()}


def test_a_student_that_is_its_teacher_has_nothing_to_learn(asked, given):
    _, batch = asked
    rows = batch.rows["both"]
    twin = Embeddings(rows.image, rows.text, torch.tensor(30.0), torch.zeros(()), rows.menu.view(FINDINGS, EACH, -1))
    alone = replace(given, teachers={"both": given.teachers["both"]})
    losses = Answer(AnswerRecipe(captions=EACH), alone)(twin, batch)
    assert losses["answer/both"].item() == pytest.approx(0, abs=1e-6)
