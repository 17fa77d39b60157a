"""Teacher dropping, of every objective that deals a sample's attention to many teachers."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from medweave.training.objective import Embeddings, Given, build, shares
from medweave.training.objectives.affinity import Affinity, AffinityRecipe
from medweave.training.objectives.answer import AnswerRecipe
from medweave.training.objectives.feature import FeatureRecipe
from medweave.training.objectives.interactive import InteractiveRecipe
from medweave.training.objectives.relation import RelationRecipe

RECIPES = [
    FeatureRecipe(),
    AffinityRecipe(),
    RelationRecipe(which="all"),
    InteractiveRecipe(),
    AnswerRecipe(captions=2),
]


def kept(objective, away, gates, batch, step):
    """[K, B] bool: which teachers a sample heard, told by the slopes of the dealt losses."""
    away = away.clone().requires_grad_()
    objective.dealt(away, gates, replace(batch, step=step)).sum().backward()
    return away.grad > 0


def test_the_worst_learnt_is_kept_and_others_are_dropped_by_chance(batch):
    objective = Affinity(AffinityRecipe(), Given(6, drop=0.5))
    gates, away = torch.stack([rows.gate for rows in batch.rows.values()]), torch.rand(3, 10)
    found = torch.stack([kept(objective, away, gates, batch, step) for step in range(200)])
    worst = torch.where(gates > 0, away, -1.0).argmax(0)
    assert bool(found.gather(1, worst.expand(200, 1, 10)).all())
    covering = (gates > 0) & (torch.arange(3)[:, None] != worst)
    heard = found.float().mean(0)
    assert heard[covering].min() > 0.35 and heard[covering].max() < 0.65
    assert not found[:, gates == 0].any()
    assert torch.equal(found[5], kept(objective, away, gates, batch, 5))
    assert bool(kept(objective.eval(), away, gates, batch, 5)[gates > 0].all()), "none is dropped when it is measured"


def test_what_is_left_is_dealt_anew(batch):
    away, gates = torch.rand(3, 10), torch.stack([rows.gate for rows in batch.rows.values()])
    slope = away.clone().requires_grad_()
    losses = Affinity(AffinityRecipe(), Given(6, drop=0.5)).dealt(slope, gates, batch)
    losses.sum().backward()
    assert torch.allclose(10 * slope.grad.sum(0), torch.ones(10)), "every sample counts as much as before"
    assert torch.allclose(losses, (slope.grad * away).sum(1))
    nobody = Affinity(AffinityRecipe(), Given(6)).dealt(away, gates, batch)
    assert torch.allclose(nobody, (shares(gates) * away).sum(1) / 10)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_every_objective_of_many_teachers_drops(recipe, student, given, batch, rows):
    """All others dropped, a sample's only loss is of its worst teacher; the mean loss rises, for no gate is below."""
    menu = normalize(torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(5)), dim=-1)
    student = Embeddings(student.image, student.text, student.scale, student.bias, menu)
    told = {
        name: replace(of, menu=normalize(torch.randn(8, of.image.shape[1]), dim=-1) if of.text is not None else None)
        for name, of in rows.items()
    }
    batch = replace(batch, rows=told, near=torch.ones(10, 4, dtype=torch.bool))
    torch.manual_seed(0)
    objective = build(recipe, given)
    torch.manual_seed(0)
    dropping = build(recipe, replace(given, drop=1.0))
    dropping.load_state_dict(objective.state_dict())
    plain, worst = (sum(one(student, batch).values()).item() for one in (objective, dropping))
    assert worst > plain * 1.001
    dropping.eval(), objective.eval()
    assert sum(dropping(student, batch).values()).item() == pytest.approx(
        sum(objective(student, batch).values()).item()
    )
