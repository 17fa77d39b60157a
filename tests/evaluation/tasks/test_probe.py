"""The linear probe against scikit-learn's own, and its inner choices."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from medweave.errors import UserError
from medweave.evaluation.answer import Setting
from medweave.evaluation.benchmark import load
from medweave.evaluation.cache import Embedder
from medweave.evaluation.cases import Items, cases
from medweave.evaluation.recipe import Part
from medweave.evaluation.tasks import probe


def items(truth, groups=None):
    n = len(truth)
    names = np.array([f"i{i}" for i in range(n)])
    return Items(
        np.arange(n), names, names if groups is None else np.asarray(groups), names, np.asarray(truth, np.int8)
    )


def setting_of(world, model):
    return Setting(load("corpus-probe"), Embedder(model, world, world.path / "cache", 8), None, 0)


@pytest.mark.parametrize("classes", [2, 4])
def test_rotation_and_fit_are_scikit_learns_on_the_plain_features(classes):
    random = np.random.default_rng(classes)
    labels = np.arange(60) % classes
    train = random.standard_normal((60, 200)) * random.random(200) + random.standard_normal((classes, 200))[labels]
    test = random.standard_normal((25, 200))
    inside, outside = probe.standardised(train.astype(np.float32), test.astype(np.float32))
    assert inside.shape == (60, 60)
    truth = np.eye(classes, dtype=np.int8)[labels]
    logits = probe.fit(inside, truth, False, 0.01)(outside)
    scaler = StandardScaler().fit(train)
    plain = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-8, max_iter=5000)
    plain.fit(scaler.transform(train), labels)
    expected = plain.predict_proba(scaler.transform(test))
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_constant_feature_and_a_missing_class_do_no_harm():
    random = np.random.default_rng(0)
    features = np.concatenate([random.standard_normal((30, 4)), np.ones((30, 1))], 1).astype(np.float32)
    inside, _ = probe.standardised(features, features)
    assert np.isfinite(inside).all()
    truth = np.eye(3, dtype=np.int8)[np.arange(30) % 2]
    logits = probe.fit(inside, truth, False, 1.0)(inside)
    assert (logits.argmax(1) < 2).all() and np.isfinite(logits).all()


def test_labels_are_fitted_where_they_are_known():
    random = np.random.default_rng(1)
    features = random.standard_normal((80, 6))
    truth = (features[:, :2] > 0).astype(np.int8)
    hidden = truth.copy()
    hidden[::3, 0] = -1
    logits = probe.fit(features, hidden, True, 1.0)(features)
    assert ((logits > 0) == (truth == 1)).mean() > 0.9
    known = hidden[:, 0] >= 0
    alone = probe.fit(features[known], hidden[known, :1], True, 1.0)(features)
    np.testing.assert_allclose(logits[:, :1], alone)


def test_inner_folds_never_split_a_group():
    groups = [f"g{i // 3}" for i in range(90)]
    train = items(np.eye(3)[np.arange(90) // 3 % 3], groups)
    folds = list(probe.inner_folds(train, 0))
    assert len(folds) == 5
    for inside, outside in folds:
        assert not set(train.groups[inside]) & set(train.groups[outside])
    assert sorted(np.concatenate([outside for _, outside in folds])) == list(range(90))
    assert list(probe.inner_folds(items(np.eye(2)[[0, 1]]), 0)) == []


def test_regularisation_follows_the_noise():
    """Pure noise asks for the strongest regularisation; a clean feature for a weak one."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    truth = np.eye(2, dtype=np.int8)[labels]
    noise = random.standard_normal((120, 40))
    clean = np.concatenate([noise[:, :3], (4.0 * labels - 2)[:, None] + 0.3 * noise[:, 3:4]], 1)
    hard, _ = probe.choose_strength(noise, items(truth), False, 0)
    easy, losses = probe.choose_strength(clean, items(truth), False, 0)
    assert hard <= 1e-3 < 1e-1 <= easy
    assert set(losses) == {f"{s:g}" for s in probe.STRENGTHS}


def test_few_shot_draws_are_seeded_balanced_and_spread_over_groups():
    truth = np.eye(2)[np.arange(40) % 2]
    groups = [f"g{i % 2}{i // 8}" for i in range(40)]
    train = items(truth, groups)
    rows = probe.draw(train, 4, False, 0, "case", 1)
    assert rows.tolist() == probe.draw(train, 4, False, 0, "case", 1).tolist()
    assert rows.tolist() != probe.draw(train, 4, False, 0, "case", 2).tolist()
    assert (train.truth[rows] == 1).sum(0).tolist() == [4, 4]
    assert len(set(train.groups[rows])) == 8
    assert len(probe.draw(train, 100, False, 0)) == 40


def test_few_shot_of_several_labels_draws_images_with_and_without_each():
    random = np.random.default_rng(2)
    truth = (random.random((60, 3)) < [0.5, 0.2, 0.1]).astype(np.int8)
    truth[random.random((60, 3)) < 0.2] = -1
    drawn = truth[probe.draw(items(truth), 2, True, 0)]
    assert ((drawn == 1).sum(0) >= 2).all() and ((drawn == 0).sum(0) >= 2).all()
    assert len(drawn) <= 3 * 2 * 2


def test_more_shots_of_several_labels_are_better(world, make_model):
    names = ["alphoma", "betosis", "gammitis"]
    world.fill("eyes", names, each=80, noise=1.5)
    for n in range(80):
        both = {name: "absent" if name == names[n % 3] else "present" for name in names}
        world.add("eyes", both, split=("train", "test")[n % 2], noise=1.5)
    setting = setting_of(world, make_model())
    (case,) = cases(setting.benchmark, world, Part())
    assert case.multi
    answer = probe.run(case, setting)
    truth = case.test._items.truth

    def auroc(name):
        return roc_auc_score(truth == 1, answer.scores[name], average="macro")

    one, sixteen = (np.mean([auroc(n) for n in answer.variants[f"{k} a class"]]) for k in (1, 16))
    assert 0.5 < one < sixteen <= auroc("all") + 0.05


def test_the_validation_part_is_fitted_on_unless_it_is_left_out(world, make_model):
    world.fill("chest", ["alphoma", "betosis"], each=40, noise=1.5)
    setting = setting_of(world, make_model())
    alone = replace(setting, benchmark=load("corpus-probe-train"))
    (case,) = cases(setting.benchmark, world, Part())
    both = np.concatenate([case.train.numbers, case.validation.numbers])
    truth = np.concatenate([case.train.truth, case.validation.truth])
    for one, used in ((setting, len(both)), (alone, len(case.train.numbers))):
        answer = probe.run(case, one)
        embed = one.embedder.features
        inside, outside = probe.standardised(embed(both[:used]), embed(case.test.numbers))
        expected = probe.fit(inside, truth[:used], False, answer.choices["strength"])(outside)
        np.testing.assert_array_equal(answer.scores["all"], expected)
    assert used < len(both)
    assert probe.inputs(case, alone) != probe.inputs(case, setting)


def test_more_shots_are_better_and_all_is_best(world, make_model):
    world.fill("chest", ["alphoma", "betosis", "gammitis"], each=100, noise=1.5)
    setting = setting_of(world, make_model())
    (case,) = cases(setting.benchmark, world, Part())
    answer = probe.run(case, setting)
    assert set(answer.variants) == {"1 a class", "4 a class", "16 a class"}
    truth = case.test._items.truth.argmax(1)

    def right(names):
        return np.mean([(answer.scores[name].argmax(1) == truth).mean() for name in names])

    one, sixteen = right(answer.variants["1 a class"]), right(answer.variants["16 a class"])
    assert 1 / 3 < one < sixteen <= right(["all"]) + 0.05
    assert answer.validation is None


def test_a_training_part_of_one_class_is_refused(world, make_model):
    world.fill("chest", ["alphoma", "betosis"], each=10)
    for row in world.rows:
        if row["findings"][0]["state"] == "present":
            row["split"] = "test"
    setting = setting_of(world, make_model())
    (case,) = cases(setting.benchmark, world, Part())
    with pytest.raises(UserError, match="fewer than two of the classes"):
        probe.run(case, setting)
