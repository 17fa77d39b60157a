import pytest

from medweave.models import dual
from medweave.models.towers import drops


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({}, False),
        ({"text": {"dropout": 0.1}}, True),
        ({"text": {"dropout": 0.1, "freeze": True}}, False),
        ({"image": {"dropout": 0.1}}, True),
        ({"image": {"dropout": 0.1, "freeze": True}}, True),  # before the projection, which learns
        ({"image": {"drop_path": 0.1}}, True),
        ({"image": {"drop_path": 0.1, "freeze": True}}, False),
    ],
)
def test_what_is_dropped_while_learning_is_found(recipe_of, parts, found):
    model = dual.build(recipe_of(**parts))
    assert drops(model) == found
    assert not any(module.training for module in model.modules())
