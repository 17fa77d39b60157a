import csv

import numpy as np
import pytest
from PIL import Image

from medweave.corpus.plan import make_plan
from medweave.corpus.recipe import CorpusRecipe
from medweave.errors import RequestError
from medweave.recipe import check


def recipe_of(folder, *names, **fields) -> CorpusRecipe:
    """Two pictures, of the sources `one` and `two`; `two` has another licence."""
    with (folder / "m.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "source", "licence"])
        for number, (name, licence) in enumerate((("one", "CC BY 4.0"), ("two", "CC BY-NC 4.0"))):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", name, licence])
    columns = {name: name for name in ("path", "source", "licence")}
    source = {"kind": "folder", "path": str(folder), "manifest": "m.csv", "columns": columns, "modality": "xray"}
    groups = {"sources": {name: {"correlation": 0.9} for name in names}}
    tree = {"path": str(folder / "corpus"), "sources": [source], "workers": 1, "groups": groups, **fields}
    return check(tree, CorpusRecipe, where="test")


def test_thresholds_of_a_source_that_there_is_not(tmp_path):
    with pytest.raises(RequestError, match=r"no source is called 'ones' \(corpus.groups.sources\).*did you mean one"):
        make_plan(recipe_of(tmp_path, "ones"))


def test_thresholds_of_a_source_that_is_refused_or_not_searched(tmp_path):
    assert len(make_plan(recipe_of(tmp_path, "one", "two")).table) == 1  # `two` is not accepted
