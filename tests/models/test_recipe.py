import subprocess
import sys

import pytest

from medweave.errors import RequestError
from medweave.models.recipe import ModelRecipe
from medweave.recipe import check

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


def test_freeze_tells_numbers_from_truth():
    values = [check({**TOWERS, "text": {"tower": "offline:minilm", "freeze": f}}, ModelRecipe, "t") for f in (True, 1)]
    assert values[0].text.freeze is True and values[1].text.freeze == 1 and values[1].text.freeze is not True


def test_the_recipe_needs_no_torch():
    code = "import sys, medweave.models.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
