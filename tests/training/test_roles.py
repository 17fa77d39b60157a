"""Who is trained on, validated on and tested on: the same as by going through the index row by row.

On a corpus with folds for some of its samples, and samples that were withdrawn.
"""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from medweave.corpus.captions.bank import Bank
from medweave.corpus.known import known_of
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.evaluation.benchmark import Benchmark, load
from medweave.evaluation.cases import Case, cases
from medweave.evaluation.parts import numbers_of, roles
from medweave.evaluation.recipe import Part
from medweave.files import hash_of
from medweave.seeds import generator
from medweave.training.mix import mix_of
from medweave.training.recipe import TrainRecipe
from medweave.training.validate import exam_of

COLUMNS = ["id", "source", "split", "modality", "anatomy", "group", "findings", "sha256"]
PARTS = [
    Part(),
    Part(train="validation", validation="train"),
    Part(train="train", validation="train"),
    Part(validation="nowhere"),
    Part(overlay="folds", fold=1),
    Part(overlay="some", fold=0),
    Part(overlay="some", fold=1, aside=[1, 3]),
    Part(overlay="some", fold=2, train="test", test="train"),
    Part(held_out=False),
    Part(overlay="some", fold=1, aside=[3], held_out=False),
]
SECTIONS = [{}, {"mix": {"by": "modality"}}, {"leave_out": ["heads"]}, {"mix": {"weights": {"lungs": 0, "heads": 1}}}]


@pytest.fixture(scope="module")
def corpus(corpus_recipe, tmp_path_factory):
    corpus = open_corpus(shutil.copytree(corpus_recipe.path, tmp_path_factory.mktemp("roles") / "corpus"))
    ids = corpus.index(["id"])["id"].to_pylist()
    draw = np.random.default_rng(0)
    chosen = draw.permutation(len(ids))[: len(ids) // 2]
    fold, inner = draw.integers(0, 3, len(chosen)), draw.integers(0, 4, len(chosen))
    corpus.write_overlay("some", pa.table({"id": [ids[n] for n in chosen], "fold": fold, "inner": inner}))
    corpus.withdraw([ids[n] for n in draw.permutation(len(ids))[:9]], "the patients asked")
    return corpus


@pytest.fixture(scope="module")
def rows(corpus):
    return corpus.index(COLUMNS).to_pylist()


def naive_roles(corpus, rows, part) -> list[str]:
    """Row by row, as one would explain it."""
    overlay = {row["id"]: row for row in corpus.overlay(part.overlay).to_pylist()} if part.overlay else {}
    gone = corpus.withdrawn()
    found = [_role(row, part, overlay.get(row["id"])) if n not in gone else "none" for n, row in enumerate(rows)]
    return found if part.held_out else ["train" if role == "validation" else role for role in found]


def _role(row, part, told):
    if told is not None:
        if told["fold"] == part.fold:
            return "test"
        return "none" if told["inner"] in part.aside else "validation" if told["inner"] == 0 else "train"
    splits = [part.train, part.validation, part.test]
    role = ["train", "validation", "test"][splits.index(row["split"])] if row["split"] in splits else "none"
    return "none" if role == "test" and part.overlay else role


def settings(part, **changes):
    keep = "best" if part.held_out else "last"
    return TrainRecipe.model_validate({"run": "r", "steps": 1, "data": part.model_dump(), "keep": keep, **changes})


@pytest.mark.parametrize("part", PARTS)
def test_roles(corpus, rows, part):
    expected = naive_roles(corpus, rows, part)
    assert roles(corpus, part)[:].tolist() == expected
    for role in ("train", "validation", "test"):
        assert numbers_of(corpus, part, role).tolist() == [n for n, own in enumerate(expected) if own == role]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("changes", SECTIONS)
def test_the_mix(corpus, rows, part, changes):
    recipe = settings(part, **changes)
    role, by, weights = naive_roles(corpus, rows, part), recipe.mix.by, recipe.mix.weights or {}
    expected: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if role[number] == "train" and row["source"] not in recipe.leave_out and weights.get(row[by], 1) > 0:
            expected.setdefault(row[by], []).append(number)
    mix = mix_of(corpus, recipe)
    found = {name: ranges.numbers().tolist() for name, ranges in zip(mix.names, mix.ranges, strict=True)}
    assert found == expected and list(found) == list(expected)
    assert mix.sources == sorted({rows[n]["source"] for numbers in expected.values() for n in numbers})
    assert mix.hash == hash_of([mix.names, [[r.starts.tolist(), r.stops.tolist()] for r in mix.ranges]])
    runs = [n for numbers in expected.values() for n in numbers if n - 1 not in numbers]
    assert [start for ranges in mix.ranges for start in ranges.starts.tolist()] == runs


@pytest.mark.parametrize("part", PARTS)
def test_the_exam_of_a_run(corpus, rows, part):
    recipe = settings(part, validation={"images": 12}, leave_out=["heads"] if part.fold == 1 else [])
    role = naive_roles(corpus, rows, part)
    by_source: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if role[number] == "validation" and row["source"] not in recipe.leave_out:
            by_source.setdefault(row["source"], []).append(number)
    each = 12 // max(1, len(by_source))
    drawn = [generator(3, "validation", source).permutation(numbers)[:each] for source, numbers in by_source.items()]
    expected = sorted(n for numbers in drawn for n in numbers.tolist())
    assert exam_of(corpus, recipe, Bank.load(), known_of(corpus), 3).numbers.tolist() == expected


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("each", ["source", "modality", None])
def test_cases(corpus, rows, part, each):
    benchmark = load("corpus-zero-shot") if each == "source" else Benchmark(name="b", task="zero_shot", each=each)
    role = naive_roles(corpus, rows, part)
    for case in cases(benchmark, corpus, part):
        if not isinstance(case, Case):
            assert "no labelled image is in the test part" in case.reason and not role.count("test")
            continue
        mine = [n for n, row in enumerate(rows) if each is None or row[each] == case.name.rpartition("/")[2]]
        truth = {n: _truth(rows[n], case.classes) for n in mine}
        assert case.classes == sorted({f["name"] for n in mine for f in rows[n]["findings"] if f["state"] == "present"})
        full = [n for n in mine if truth[n].count(1) == 1 and truth[n].count(-1) == 0]
        usable = [n for n in mine if set(truth[n]) != {-1}] if case.multi else full
        for name in ("train", "validation", "test"):
            items, expected = getattr(case, name), [n for n in usable if role[n] == name]
            assert items.numbers.tolist() == expected
            for column, values in (("id", items.ids), ("group", items.groups), ("sha256", items.sha256)):
                assert values.tolist() == [rows[n][column] for n in expected]
            if name != "test":
                assert items.truth.tolist() == [truth[n] for n in expected]
        assert case.left_out == sum(role[n] == "test" for n in mine if n not in usable)


def _truth(row, classes):
    state = {finding["name"]: finding["state"] for finding in row["findings"]}
    return [{"present": 1, "absent": 0}.get(state.get(name), -1) for name in classes]


def test_parts_that_there_are_none_of_cannot_be_set_aside(corpus):
    with pytest.raises(RequestError, match=r"overlay some has no inner part 7.*\[0, 1, 2, 3\]"):
        numbers_of(corpus, Part(overlay="some", fold=1, aside=[1, 7]), "train")
    with pytest.raises(ValueError, match="aside names inner parts of an overlay"):
        Part(aside=[1])
