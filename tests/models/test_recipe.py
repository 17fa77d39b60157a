import subprocess
import sys

import pytest

from medweave.errors import RequestError
from medweave.models.recipe import ModelRecipe
from medweave.recipe import as_data, check

TOWERS = {"image": {"tower": "timm:resnet18"}, "text": {"tower": "offline:minilm"}}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({}, "both image and text, or start"),
        ({**TOWERS, "start": "somewhere"}, "leave image, text"),
        ({**TOWERS, "image": {"tower": "resnet18"}}, "timm:NAME"),
        ({**TOWERS, "image": {"tower": "timm:"}}, "timm:NAME"),
        ({**TOWERS, "text": {"tower": "open_clip"}}, "image tower open_clip:ARCH"),
        ({**TOWERS, "image": {"tower": "timm:resnet18", "resise": "pad"}}, "resize"),
    ],
)
def test_mistakes(tree, words):
    with pytest.raises(RequestError, match=words):
        check(tree, ModelRecipe, "test")


@pytest.mark.parametrize(
    ("side", "tower", "refused"),
    [
        ("image", {"tower": "open_clip:ViT-B-16", "projection": "mlp", "drop_path": 0.1}, "projection, drop_path"),
        ("image", {"tower": "open_clip:ViT-B-16", "projection": "linear"}, "projection"),
        ("image", {"tower": "open_clip:ViT-B-16", "dropout": 0.5}, "dropout"),
        ("text", {"tower": "open_clip:ViT-B-16", "projection": "mlp", "pooler": "cls_pooler"}, "projection, pooler"),
    ],
)
def test_options_of_another_family_are_refused(side, tower, refused):
    with pytest.raises(
        RequestError, match=rf"  {side}: {refused} can be set for a t[a-z]* tower only, not for open_clip:V"
    ):
        check({**TOWERS, side: tower}, ModelRecipe, "test")


def test_options_that_change_nothing_pass_and_a_written_recipe_reads_back():
    towers = {
        "image": {"tower": "open_clip:ViT-B-16", "dropout": 0, "projection": None},
        "text": {"tower": "open_clip", "pooler": None},
    }
    recipe = check(towers, ModelRecipe, "t")
    assert recipe.image.projection is None and recipe.text.projection is None
    assert check(as_data(recipe), ModelRecipe, "t") == recipe


@pytest.mark.parametrize(
    ("image", "words"),
    [({"projection": None}, "linear, mlp or none"), ({"projection": "none", "dropout": 0.5}, "before the projection")],
)
def test_a_timm_tower_says_its_projection(image, words):
    with pytest.raises(RequestError, match=words):
        check({**TOWERS, "image": {"tower": "timm:resnet18", **image}}, ModelRecipe, "t")


def test_only_a_start_is_frozen_as_a_whole():
    with pytest.raises(RequestError, match=r"image.freeze and text.freeze"):
        check({**TOWERS, "freeze": {"text": True}}, ModelRecipe, "t")
    assert check({"start": "somewhere", "freeze": {"text": 2}}, ModelRecipe, "t").freeze.text == 2


def test_freeze_tells_numbers_from_truth():
    values = [check({**TOWERS, "text": {"tower": "offline:minilm", "freeze": f}}, ModelRecipe, "t") for f in (True, 1)]
    assert values[0].text.freeze is True and values[1].text.freeze == 1 and values[1].text.freeze is not True


def test_the_recipe_needs_no_torch():
    code = "import sys, medweave.models.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
