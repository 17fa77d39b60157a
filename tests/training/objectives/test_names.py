"""Rows may have any plain name: those of timm's models have dots, and some are words of torch's own modules."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from medweave.training.objective import Objectives
from medweave.training.objectives.affinity import AffinityRecipe
from medweave.training.objectives.answer import AnswerRecipe
from medweave.training.objectives.feature import FeatureRecipe
from medweave.training.objectives.interactive import InteractiveRecipe
from medweave.training.objectives.mmkd import MmkdRecipe
from medweave.training.objectives.relation import RelationRecipe

RECIPES = [
    FeatureRecipe(),
    AffinityRecipe(),
    RelationRecipe(which="all"),
    InteractiveRecipe(),
    AnswerRecipe(captions=2),
    MmkdRecipe(),
]
NAMES = ("vit_base_patch14_dinov2.lvd142m", "keys", "items", "type", "training", "spread", "heads")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_a_teacher_of_any_name_teaches_the_same(recipe, student, given, batch):
    menu = normalize(torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(5)), dim=-1)
    student = replace(student, menu=menu)
    taught = replace(batch.rows["both"], menu=normalize(torch.ones(8, 8) + torch.eye(8), dim=-1))
    batch = replace(batch, near=torch.ones(10, 4, dtype=torch.bool))

    def losses(name):
        only = replace(given, teachers={name: given.teachers["both"]})
        found = Objectives([recipe], only)(student, replace(batch, rows={name: taught}))
        return {key.replace(name, "NAME"): loss.item() for key, loss in found.items()}

    plain = losses("both")
    assert plain and all(losses(name) == plain for name in NAMES)
