from dataclasses import replace

import pytest
import torch

from medweave.errors import RequestError
from medweave.training.objective import Embeddings
from medweave.training.objectives.relation import Relation, RelationRecipe


def away(theirs, own, scale):
    hidden = torch.eye(len(own), dtype=torch.bool)
    a, b = ((scale * x @ x.T).masked_fill(hidden, -torch.inf).log_softmax(1) for x in (theirs, own))
    return torch.where(hidden, 0.0, a.exp() * (a - b).masked_fill(hidden, 0.0)).sum(1)


def test_teachers_with_one_tower_teach_that_side(student, given, batch):
    losses = Relation(RelationRecipe(scale=7.0), given)(student, batch)
    assert losses.keys() == {"relation/eyes/image"}
    expected = away(batch.rows["eyes"].image, student.image, 7.0).mean()
    assert losses["relation/eyes/image"].item() == pytest.approx(expected.item(), rel=1e-4)
    own, right = (torch.autograd.grad(x, student.image)[0] for x in (losses["relation/eyes/image"], expected))
    assert torch.allclose(own, right, rtol=1e-4, atol=1e-6)


def test_a_text_without_a_row_is_compared_with_none_its_image_with_all(student, given, wordless):
    """One teacher, naive: image and text are likened among those that have a row of that side."""
    both = replace(given, teachers={"both": given.teachers["both"]})
    losses = Relation(RelationRecipe(which="all", scale=7.0), both)(student, wordless)
    rows = wordless.rows["both"]
    for side, kept in (("image", torch.arange(10)), ("text", rows.known.nonzero()[:, 0])):
        own, loss = getattr(student, side), losses[f"relation/both/{side}"]
        expected = away(getattr(rows, side)[kept], own[kept], 7.0).sum() / 10
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        slope, right = (torch.autograd.grad(value, own)[0] for value in (loss, expected))
        assert torch.allclose(slope, right, rtol=1e-4, atol=1e-6)
        assert slope[[2, 8]].any(1).tolist() == [side == "image"] * 2


def test_it_needs_a_teacher_with_one_tower(given):
    with pytest.raises(RequestError, match=r"relation needs a teacher with one tower.*which: all"):
        Relation(RelationRecipe(), replace(given, teachers={"both": given.teachers["both"]}))


def test_all_teachers_may_teach_both_sides(student, given, batch):
    losses = Relation(RelationRecipe(which="all"), given)(student, batch)
    sides = [f"relation/{name}/{side}" for name, side in (("both", "image"), ("some", "image"), ("eyes", "image"))]
    assert losses.keys() == {*sides, "relation/both/text", "relation/some/text"}


def test_a_student_that_is_its_teacher_has_nothing_to_learn(given, batch, rows):
    image = rows["eyes"].image
    losses = Relation(RelationRecipe(), given)(Embeddings(image, image, torch.tensor(9.0), torch.zeros(())), batch)
    assert losses["relation/eyes/image"].item() == pytest.approx(0, abs=1e-5)


def test_samples_that_a_teacher_does_not_cover_take_no_part(student, given, batch, rows):
    """`some` covers seven of ten: its rows of the others may be anything, and the loss is that of the seven, naive."""
    noise = replace(rows["some"], image=rows["some"].image.clone(), text=rows["some"].text.clone())
    noise.image[7:], noise.text[7:] = torch.nan, 99.0
    some = replace(given, teachers={"some": given.teachers["some"]})
    losses = Relation(RelationRecipe(which="all", scale=7.0), some)(student, replace(batch, rows={"some": noise}))
    assert losses.keys() == {"relation/some/image", "relation/some/text"}
    for side in ("image", "text"):
        own = getattr(student, side)
        expected = away(getattr(rows["some"], side)[:7], own[:7], 7.0).sum() / 10
        loss = losses[f"relation/some/{side}"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        slope, right = (torch.autograd.grad(value, own)[0] for value in (loss, expected))
        assert torch.allclose(slope, right, rtol=1e-4, atol=1e-6)
        assert not slope[7:].any()
