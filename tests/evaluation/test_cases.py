"""Which images, classes and truth a benchmark makes of a corpus."""

import numpy as np
import pyarrow as pa
import pytest

from medweave.errors import RequestError
from medweave.evaluation.benchmark import Benchmark, load, shipped
from medweave.evaluation.cases import Broken, cases
from medweave.evaluation.parts import check_test_split, numbers_of, roles
from medweave.evaluation.recipe import Part
from medweave.evaluation.sealed import Ledger

ZERO_SHOT = load("corpus-zero-shot")


def found(world, benchmark=ZERO_SHOT, part=None, **more):
    return {case.name: case for case in cases(benchmark, world, part or Part(), **more)}


def test_every_source_with_two_classes_is_a_case(world):
    world.fill("chest", ["alphoma", "betosis"], each=10)
    world.fill("single", ["alphoma"], each=10)
    world.fill("knee", ["gammitis", "deltopathy"], each=5)
    case = found(world)
    assert sorted(case) == ["corpus-zero-shot/chest", "corpus-zero-shot/knee"]
    chest = case["corpus-zero-shot/chest"]
    assert chest.classes == ["alphoma", "betosis"] and not chest.multi
    assert (len(chest.train), len(chest.validation), len(chest.test)) == (12, 4, 4)
    assert chest.source == "chest" and chest.modality == "xray" and chest.anatomy == "chest"


def test_a_source_of_two_modalities_is_two_cases(world):
    world.fill("mixed", ["alphoma", "betosis"], each=5)
    world.fill("mixed", ["alphoma", "betosis"], each=5, modality="ct")
    assert sorted(found(world)) == ["corpus-zero-shot/mixed/ct", "corpus-zero-shot/mixed/xray"]


def test_each_modality_masks_what_a_source_does_not_label(world):
    world.fill("one", ["alphoma", "betosis"], each=10)
    world.fill("two", ["gammitis", "deltopathy"], each=10)
    world.fill("three", ["gammitis", "deltopathy"], each=10, modality="ct")
    benchmark = Benchmark(name="by", task="zero_shot", each="modality")
    case = found(world, benchmark)
    assert sorted(case) == ["by/ct", "by/xray"]
    assert case["by/xray"].multi and not case["by/ct"].multi
    assert (case["by/xray"].validation.truth == -1).any(1).all()


def test_two_findings_in_one_image_make_a_source_multi_label(world):
    world.fill("eyes", ["alphoma", "betosis"], each=10)
    world.add("eyes", {"alphoma": "present", "betosis": "present"}, split="train")
    world.add("eyes", {"alphoma": "uncertain", "betosis": "absent"}, split="test")
    case = found(world)["corpus-zero-shot/eyes"]
    assert case.multi
    truth = case.test.open({}, Ledger(world.path / "openings.jsonl"))
    assert truth[-1].tolist() == [-1, 0]


def test_half_known_images_are_left_out_of_a_single_label_set_and_counted(world):
    world.fill("chest", ["alphoma", "betosis"], each=10)
    world.add("chest", {"alphoma": "present", "betosis": "uncertain"}, split="test")
    world.add("chest", {"alphoma": "absent", "betosis": "absent"}, split="test")
    world.add("chest", {}, split="test")
    case = found(world)["corpus-zero-shot/chest"]
    assert len(case.test) == 4 and case.left_out == 3


def test_labels_without_any_negative_are_one_clear_line(world):
    for n in range(10):
        world.add("open", {("alphoma", "betosis")[n % 2]: "present"}, split=("train", "test")[n // 5])
    case = found(world)["corpus-zero-shot/open"]
    assert isinstance(case, Broken) and case.skipped and "exhaustive" in case.reason


def test_folds_of_an_overlay(world):
    world.fill("chest", ["alphoma", "betosis"], each=10)
    world.add("caption", {}, split="train")
    world.add("caption", {}, split="test")
    named = pa.array([row["id"] for row in world.rows[:20]])
    fold, inner = np.arange(20) % 4, np.arange(20) // 4
    world.overlays["folds"] = pa.table(
        {"id": named, "fold": pa.array(fold, pa.int8()), "inner": pa.array(inner, pa.int8())}
    )
    part = Part(overlay="folds", fold=1)
    np.testing.assert_array_equal(numbers_of(world, part, "test"), np.flatnonzero(fold == 1))
    np.testing.assert_array_equal(numbers_of(world, part, "validation"), np.flatnonzero((fold != 1) & (inner == 0)))
    assert roles(world, part)[20:].tolist() == ["train", "none"]
    world.gone = {0, 20}
    assert roles(world, part)[[0, 20]].tolist() == ["none", "none"]
    with pytest.raises(RequestError, match="no fold 7"):
        roles(world, Part(overlay="folds", fold=7))


def test_an_unknown_split_names_the_known_ones(world):
    world.fill("chest", ["alphoma", "betosis"], each=10)
    with pytest.raises(RequestError, match="test"):
        check_test_split(world, Part(test="tets"))


def test_a_fold_without_images_of_a_source_is_skipped_not_failed(world):
    world.fill("chest", ["alphoma", "betosis"], each=10)
    for n in range(4):
        states = {"gammitis": ("present", "absent")[n % 2], "deltopathy": ("absent", "present")[n % 2]}
        world.add("tiny", states, split="train")
    tiny = found(world)["corpus-zero-shot/tiny"]
    assert isinstance(tiny, Broken) and tiny.skipped
    named = Benchmark(name="tiny", task="zero_shot", data={"source": "tiny"})
    assert not found(world, named)["tiny"].skipped


def test_own_classes_keep_their_order_and_confounded_sets_are_marked(world):
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=10)
    benchmark = Benchmark(
        name="mine",
        task="zero_shot",
        data={"source": "chest"},
        classes=[{"finding": "gammitis"}, {"finding": "alphoma"}, {"finding": "betosis"}],
    )
    assert found(world, benchmark)["mine"].classes == ["gammitis", "alphoma", "betosis"]
    assert found(world, confounded=["chest"])["corpus-zero-shot/chest"].confounded
    assert not found(world)["corpus-zero-shot/chest"].confounded


def test_every_shipped_benchmark_is_valid():
    assert {"corpus-zero-shot", "corpus-probe"} <= set(shipped())
    for name in shipped():
        assert load(name).name == name


def test_mistakes_of_a_benchmark_are_listed_together(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntask: {kind: probe, shot: [1]}\neach: sources\nprompt_set: [plain]\n")
    with pytest.raises(RequestError) as error:
        load(str(path))
    assert all(part in str(error.value) for part in ("3 mistakes", "shot", "each", "prompt_sets"))
    with pytest.raises(RequestError, match="corpus-probe"):
        load("corpus-prob")
