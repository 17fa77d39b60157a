import re

import numpy as np
import pytest

from medweave.corpus.store import open_corpus
from medweave.errors import DamagedError
from medweave.evaluation.parts import numbers_of
from medweave.evaluation.quick import quick_zero_shot
from medweave.models.encoder import Encoder


def test_figures_are_those_of_evaluations_own_quick_pass(work_of):
    work = work_of()
    work.model.eval()
    corpus = work.data.corpus
    numbers = numbers_of(corpus, work.settings.data, "validation")
    found = work.validation(work.towers)
    expected = quick_zero_shot(Encoder(work.model, "tiny"), corpus, numbers, work.data.captions.bank)
    for metric in ("macro_auroc", "balanced_accuracy"):
        assert found[metric] == pytest.approx(expected[metric], abs=1e-6)
    assert set(found["sources"]) == {"lungs", "heads"}


def test_a_frozen_text_tower_is_not_run_again(work_of, monkeypatch):
    work = work_of(text={"freeze": True})
    work.model.eval()
    monkeypatch.setattr(work.model.clip.text, "transformer", None)
    assert work.validation(work.towers)["macro_auroc"] is not None


def test_many_images_are_thinned_evenly_and_sources_left_out_stay_out(work_of):
    few = work_of(train={"validation": {"images": 10}}).validation.exam.numbers
    sources = np.array(work_of().data.corpus.index(["source"])["source"].to_pylist())
    assert {name: int((sources[few] == name).sum()) for name in ("lungs", "heads")} == {"lungs": 5, "heads": 5}
    left = work_of(train={"leave_out": ["heads"]}).validation.exam.numbers
    assert set(sources[left]) == {"lungs"}


def test_validation_images_are_no_training_images(work_of, corpus_recipe):
    work = work_of(train={"data": {"overlay": "folds", "fold": 0}})
    trained = {n for ranges in work.data.mix.ranges for n in ranges.numbers().tolist()}
    assert len(work.validation.exam.numbers) and not trained & set(work.validation.exam.numbers.tolist())
    groups = open_corpus(corpus_recipe.path).index(["group"])["group"].to_pylist()
    tested = numbers_of(work.data.corpus, work.settings.data, "test")
    assert not {groups[n] for n in trained} & {groups[n] for n in tested}


def test_a_damaged_validation_image_is_named(work_of, monkeypatch):
    corpus = work_of().data.corpus
    (number, *_) = numbers_of(corpus, work_of().settings.data, "validation").tolist()
    name, read = corpus.fields(number)["id"], type(corpus).read
    monkeypatch.setattr(type(corpus), "read", lambda self, n: b"damaged" if n == number else read(self, n))
    with pytest.raises(DamagedError, match=rf"a validation image: .*\({re.escape(name)}\): build again"):
        work_of()


def test_without_validation_images_it_is_empty(work_of, capfd):
    work = work_of(train={"data": {"validation": "none"}})
    assert not work.validation
    assert "the last weights are kept" in capfd.readouterr().err
