"""What compares a whole batch with itself, and `feature`, never holds the whole matrix: tiles only, in both passes."""

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from medweave.corpus.known import LabelSet
from medweave.training import tiles
from medweave.training.objective import Batch, Embeddings, Given, Objectives, Standard, Teacher, TeacherRows
from medweave.training.objectives.affinity import AffinityRecipe
from medweave.training.objectives.contrastive import ContrastiveRecipe
from medweave.training.objectives.feature import FeatureRecipe
from medweave.training.objectives.interactive import InteractiveRecipe
from medweave.training.objectives.relation import RelationRecipe

SAMPLES, WIDTH = 512, 8


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made inside has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def unit(seed):
    return normalize(torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize(
    "recipe",
    [
        ContrastiveRecipe(),
        ContrastiveRecipe(targets="label"),
        ContrastiveRecipe(head="sigmoid", targets="label"),
        AffinityRecipe(),
        RelationRecipe(which="all"),
        InteractiveRecipe(),
        FeatureRecipe(),
    ],
    ids=lambda recipe: "-".join(str(value) for value in recipe.model_dump().values() if isinstance(value, str)),
)
def test_no_tensor_is_as_large_as_the_batch_squared(monkeypatch, recipe):
    monkeypatch.setattr(tiles, "TILE_ROWS", 32)
    monkeypatch.setattr(tiles, "TILE_COLUMNS", 64)
    standard = Standard(torch.zeros(WIDTH), torch.eye(WIDTH), torch.eye(WIDTH))
    given = Given(WIDTH, {name: Teacher(20.0, standard, standard) for name in ("one", "two")})
    rows = {
        name: TeacherRows(torch.ones(SAMPLES), unit(seed), unit(seed + 1)) for seed, name in ((2, "one"), (4, "two"))
    }
    labels = [LabelSet(("xray", "chest"), frozenset({f"finding {n % 9}"}), frozenset()) for n in range(SAMPLES)]
    batch = Batch(torch.arange(SAMPLES), labels, rows=rows)
    scale = torch.tensor(14.0, requires_grad=True)
    student = Embeddings(unit(0).requires_grad_(), unit(1).requires_grad_(), scale, torch.zeros(()))
    objective = Objectives([recipe], given)
    with Largest() as largest:
        sum(objective(student, batch).values()).backward()
    assert 0 < largest.numbers < SAMPLES**2 / 8
    assert student.image.grad is not None
