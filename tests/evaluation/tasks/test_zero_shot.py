"""Prompted classification, by hand."""

import numpy as np
import pytest
from scipy.special import softmax

from medweave.errors import UserError
from medweave.evaluation.answer import Setting
from medweave.evaluation.benchmark import Benchmark, load
from medweave.evaluation.cache import Embedder
from medweave.evaluation.cases import cases
from medweave.evaluation.predictions import one_against_rest, probabilities
from medweave.evaluation.recipe import Part
from medweave.evaluation.tasks import zero_shot


class Bank:
    def prompts(self, modality, anatomy, finding, kind):
        return [
            f"{kind} {n} of {finding} in {anatomy} {modality}"
            for n in range({"plain": 2, "report": 3, "signs": 1}[kind])
        ]

    def missing(self, triplets):
        return [t for t in triplets if t[2] == "betosis"]


@pytest.fixture
def setting(world, model):
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=20)
    return Setting(load("corpus-zero-shot"), Embedder(model, world, world.path / "cache", 8), Bank(), 0)


def the_case(setting, benchmark=None):
    (case,) = cases(benchmark or setting.benchmark, setting.embedder.corpus, Part())
    return case


def test_class_vectors_are_means_of_unit_prompts_made_unit(setting, model, world):
    case = the_case(setting)
    answer = zero_shot.run(case, setting)
    assert list(answer.scores) == ["all", "plain", "report", "signs"]
    assert answer.variants == {"prompt sets": ["plain", "report", "signs"]}
    images = model.embed_images([world.read(n) for n in case.test.numbers])
    for name, kinds in (("report", ["report"]), ("all", ["plain", "report", "signs"])):
        for c, finding in enumerate(case.classes):
            prompts = [p for kind in kinds for p in Bank().prompts("xray", "chest", finding, kind)]
            vector = model.embed_texts(prompts).mean(0)
            expected = 10.0 * images @ (vector / np.linalg.norm(vector))
            np.testing.assert_allclose(answer.scores[name][:, c], expected, rtol=1e-4, atol=1e-4)
    assert answer.validation.shape == (12, 3)
    assert answer.choices["generic_prompts"] == ["betosis"]


def test_one_against_rest_ranks_as_softmax_and_never_saturates():
    logits = np.random.default_rng(0).standard_normal((50, 4))
    odds = one_against_rest(logits)
    share = softmax(logits, axis=1)
    np.testing.assert_allclose(odds, np.log(share / (1 - share)))
    np.testing.assert_allclose(probabilities(logits, False), share)
    far = one_against_rest(np.array([[900.0, 0.0], [800.0, 0.0]]))
    assert far[0, 0] > far[1, 0]


def test_own_prompts_are_used_and_an_empty_set_is_named(setting, world):
    own = [{"finding": f, "prompts": {"plain": [f"picture of {f}"]}} for f in ("alphoma", "betosis", "gammitis")]
    mine = Benchmark(name="mine", task="zero_shot", classes=own, prompt_sets=["plain"], data={"source": "chest"})
    case = the_case(setting, mine)
    assert zero_shot.prompts_of(mine, case, Bank()) == {"plain": [[f"picture of {f}"] for f in case.classes]}
    lacking = mine.model_copy(update={"prompt_sets": ["plain", "report"]})
    with pytest.raises(UserError, match="no report prompts for alphoma"):
        zero_shot.prompts_of(lacking, case, Bank())
    assert zero_shot.inputs(case, setting) != zero_shot.inputs(
        case, Setting(mine, setting.embedder, setting.bank, setting.seed)
    )
