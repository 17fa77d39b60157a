"""A run that learns from stored rows: what a batch takes, how far a teacher is trusted, and what stops a run."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from medweave.corpus.build import build
from medweave.corpus.images import decode
from medweave.corpus.order import Ranges
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError, UserError
from medweave.evaluation.parts import numbers_of
from medweave.evaluation.recipe import Part
from medweave.features.coverage import Thresholds, cover
from medweave.features.extract import extract
from medweave.features.store import open_features
from medweave.features.views import Views
from medweave.models.encoder import Encoder
from medweave.models.load import load
from medweave.training import heads, loop
from medweave.training.captions import Caption
from medweave.training.loop import train
from medweave.training.recipe import Recipe, TeachersRecipe
from medweave.training.run import Run
from medweave.training.teachers import teachers_of

OBJECTIVES = [
    {"kind": "contrastive", "targets": "label"},
    {"kind": "feature"},
    {"kind": "affinity"},
    {"kind": "relation", "which": "all"},
    {"kind": "interactive"},
    {"kind": "answer", "captions": 2},
]
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def trained(corpus_recipe, tiny_bert, tmp_path_factory):
    """A run that tells the findings apart: the first teacher."""
    tree = {
        "corpus": corpus_recipe.model_dump(mode="json", serialize_as_any=True),
        "model": model(tiny_bert, 16),
        "train": {
            "run": str(tmp_path_factory.mktemp("teacher") / "run"),
            "steps": 40,
            "batch": 24,
            "workers": 0,
            "augment": None,
            "objectives": [{"kind": "menu"}],
            "optimiser": {"lr": 3e-3},
            "keep": "last",
        },
    }
    return train(Recipe.model_validate(tree)).model


@pytest.fixture(scope="module")
def rows_folder(corpus_recipe, trained, tmp_path_factory):
    """Rows of two teachers, two views each: the run, and one of the same weights that states no licence."""
    folder = tmp_path_factory.mktemp("rows")
    corpus, views = open_corpus(corpus_recipe.path), Views(count=2, policy="squash")
    extract(corpus, str(trained), "one", views=views, root=folder)
    extract(corpus, nameless(trained), "two", views=views, root=folder)
    return folder


def nameless(trained):
    """The run's model without its facts, as of a card of one's own."""
    encoder = load(trained)
    encoder.model.facts = {}
    return Encoder(encoder.model, "teacher:/secret/nameless.yaml")


def of_another_state(trained, folder):
    """The run's model as if its corpus had got more images since."""
    shutil.copytree(trained, folder)
    facts = json.loads((folder / "medweave.json").read_text())
    facts["facts"]["trained_on"] |= {"corpus": "before"}
    (folder / "medweave.json").write_text(json.dumps(facts))
    return str(folder)


def model(tiny_bert, width):
    """The model section of a small recipe."""
    return {
        "image": {"tower": "timm:test_resnet", "size": 32, "resize": "squash"},
        "text": {"tower": f"transformers:{tiny_bert}", "context": 64},
        "embed": width,
    }


@pytest.fixture
def settings(rows_folder):
    """The train section of a distillation; more of `teachers` by keyword."""

    def make(**teachers):
        named = {"rows": list(NAMES), "folder": str(rows_folder), "accept": ["two"], **teachers}
        return {"teachers": named, "objectives": OBJECTIVES, "keep": "last", "ema": 0.9}

    return make


def test_a_run_learns_from_its_teachers_and_its_card_says_so(recipe_of, settings):
    every = settings(drop=0)  # nobody is left out: a loss falls by learning, not by lot
    run = train(recipe_of(train={**every, "steps": 30, "batch": 24, "log": 1, "optimiser": {"lr": 3e-3}}))
    lines = list(run.log("train"))
    kinds = {name.split("/")[0] for name in lines[0]["losses"]}
    assert kinds == {one["kind"] for one in OBJECTIVES}
    for name in ("feature/one", "feature/two", "affinity/one", "answer/two"):
        first, last = (np.mean([line["losses"][name] for line in some]) for some in (lines[:5], lines[-5:]))
        assert last < 0.9 * first, name
    assert all(set(line["taught"]) == set(NAMES) for line in lines)
    facts = json.loads((run.model / "medweave.json").read_text())["facts"]
    assert [one["rows"] for one in facts["teachers"]] == list(NAMES)
    assert facts["licence_class"] == "unknown" and [one["licence_class"] for one in facts["teachers"]] == [
        "open",
        "unknown",
    ]
    assert facts["binds_students"]  # what `two` asks of its students is not known
    assert facts["inherits"][1].endswith("class open).") and "accepted by the recipe" in facts["inherits"][2]
    assert facts["teachers"][1]["model"] == "teacher:nameless.yaml" and "teacher:nameless.yaml" in facts["inherits"][2]
    assert not any("secret" in (run.model / name).read_text() for name in ("medweave.json", "README.md"))


def test_every_parameter_of_a_loss_moves(work_of, settings):
    work = work_of(train=settings())
    before = {name: value.clone() for name, value in work.objectives.named_parameters()}
    for _ in range(2):
        loop.one_step(work, work.loader[work.step])
        work.step += 1
    still = [name for name, value in work.objectives.named_parameters() if torch.equal(value, before[name])]
    assert before and not still


def test_a_share_has_the_rows_of_what_it_shows(work_of, settings, rows_folder, corpus_recipe):
    """Each sample's picture, view and text are looked up one by one."""
    work = work_of(train=settings())
    loader, corpus = work.loader, open_corpus(corpus_recipe.path)
    shown, kinds = set(), set()
    for step in range(6):
        share = loader[step]
        for at, number in enumerate(share.numbers.tolist()):
            view, fields = loader.look.view(0, step, number), corpus.fields(number)
            caption = work.data.captions.draw(step, number, fields)
            shown.add(view)
            kinds.add(caption.kind)
            array = decode(corpus.read(number), 32, grey=True)
            if view:
                picture = loader.look.views.picture(array, 32, fields["modality"], number, view)
                assert np.array_equal(share.micros[0].pixels[at].numpy(), picture)
            for name in NAMES:
                features = open_features(corpus, name, root=rows_folder)
                image, text = share.rows[name].image[at].numpy(), share.rows[name].text[at].numpy()
                assert np.array_equal(image, features.image([number], np.array([view]))[0])
                if caption.own is not None:
                    assert np.array_equal(text, features.text([number], np.array([caption.own]))[0])
                else:
                    mean = sum(features.bank([part])[0] for part in caption.parts)
                    assert np.allclose(text, mean / np.linalg.norm(mean), atol=1e-6)
    assert shown == {0, 1, 2} and kinds >= {"own", "bank"}


def test_the_menu_has_its_rows(work_of, settings, rows_folder, corpus_recipe):
    work = work_of(train=settings())
    features = open_features(open_corpus(corpus_recipe.path), "one", root=rows_folder)
    assert np.array_equal(work.loader[3].rows["one"].menu.numpy(), features.bank(work.loader.menu.texts(3)))


def test_trust_is_measured_on_the_runs_own_training_images(work_of, settings, corpus_recipe, tmp_path):
    work = work_of(train={**settings(), "leave_out": ["heads"], "data": {"overlay": "folds", "fold": 1}})
    file = tmp_path / "run" / "teachers" / "two.parquet"  # it states nothing of its training: all is measured
    table = pq.read_table(file).to_pylist()
    corpus = open_corpus(corpus_recipe.path)
    assert len(table) == len(corpus)
    heads = [row["by"] for number, row in enumerate(table) if corpus.fields(number)["source"] == "heads"]
    assert heads and "prompted" not in heads  # none of its labels was looked at
    taught = work.loader.teachers.taught[1]
    numbers = work.data.training.numbers()
    own = [table[n] for n in numbers.tolist()]
    typical = np.mean([row["score"] for row in own if row["covered"] and row["score"] is not None])
    scores = [typical if row["score"] is None else row["score"] for row in own]
    by_hand = np.array([row["covered"] * max(0.05, score) for row, score in zip(own, scores, strict=True)])
    assert np.allclose(taught.gate(numbers), by_hand, atol=1e-3)
    alike = taught.recipe.model_copy(update={"weight": 2.0})
    same = type(taught)(alike, taught.features, 0.0, taught.captions)
    assert np.allclose(same.gate(numbers), 2.0 * (by_hand > 0), atol=1e-6)


def test_a_run_killed_goes_on_to_the_same_weights(recipe_of, settings, tmp_path, monkeypatch):
    short = {**settings(), "steps": 6, "checkpoint": 2, "head_start": {"steps": 4, "batch": 16}}
    train(recipe_of(train={**short, "run": str(tmp_path / "whole")}))
    killed = recipe_of(train={**short, "run": str(tmp_path / "killed")})
    step, made = loop.one_step, []

    def dies(work, share):
        made.append(share.step)
        return step(work, share) if len(made) < 4 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", dies)
        with pytest.raises(ZeroDivisionError):
            train(killed)
    train(killed)
    one, other = (load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_learn_what_one_learns(recipe_of, settings, together, tmp_path):
    def recipe(name):
        return recipe_of(train={**settings(), "steps": 8, "norm": "frozen", "run": str(tmp_path / name)})

    train(recipe("one"))
    together(2, lambda: train(recipe("two")))
    one, other = (load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one if one[name].is_floating_point())
    lines = [list(Run(tmp_path / name).log("train"))[-1] for name in ("one", "two")]
    assert lines[0]["taught"] == lines[1]["taught"]
    assert lines[0]["losses"] == pytest.approx(lines[1]["losses"], rel=1e-3)


def test_without_replay_pictures_are_augmented_and_rows_are_of_whole_ones(work_of, settings, rows_folder):
    work = work_of(train=settings(replay=False))
    share = work.loader[0]
    assert work.loader.look.views is None
    features = open_features(work.data.corpus, "one", root=rows_folder)
    assert np.array_equal(share.rows["one"].image.numpy(), features.image(share.numbers))


@pytest.mark.parametrize(
    ("train", "image", "said"),
    [
        ({"objectives": [{"kind": "contrastive"}]}, {}, "no objective learns from teachers"),
        ({"teachers": None}, {}, "feature and affinity and relation and interactive and answer learn from teachers"),
        ({}, {"resize": "pad"}, "stored views become squares by squash, the model's pictures by pad"),
    ],
)
def test_what_does_not_fit_is_told(train, image, said, work_of, settings):
    with pytest.raises(RequestError, match=said):
        work_of(train={**settings(), **train}, image=image)


def test_licences_names_and_rows_stop_a_run_before_it_begins(work_of, settings, tmp_path):
    with pytest.raises(RequestError, match=r"licences stop this .*\(two: its licence is not known.*accept: \[two\]"):
        work_of(train=settings(accept=[]))
    with pytest.raises(RequestError, match=r"no teacher with rows is called 'ones'.*did you mean one"):
        work_of(train=settings(rows=["ones"]))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_caption_without_a_row_is_told(work_of, settings, corpus_recipe, trained, tmp_path):
    extract(open_corpus(corpus_recipe.path), str(trained), "one", bank=["A text."], root=tmp_path)
    with pytest.raises(UserError, match=r"one has no rows of \d+ captions that this run draws, such as '.*again"):
        work_of(train=settings(rows=["one"], accept=[], folder=str(tmp_path)))


def test_teachers_of_different_views_cannot_be_replayed_together(
    work_of, settings, rows_folder, corpus_recipe, trained, tmp_path
):
    (tmp_path / "one").symlink_to(rows_folder / "one")
    views = Views(count=1, seed=4, policy="squash")
    extract(open_corpus(corpus_recipe.path), nameless(trained), "two", views=views, root=tmp_path)
    with pytest.raises(RequestError, match=r"two and one have rows of different views"):
        work_of(train=settings(folder=str(tmp_path)))


def test_teachers_without_views_are_named_where_others_have_them(
    work_of, settings, rows_folder, corpus_recipe, trained, tmp_path
):
    (tmp_path / "one").symlink_to(rows_folder / "one")
    extract(open_corpus(corpus_recipe.path), nameless(trained), "two", root=tmp_path)
    with pytest.raises(RequestError, match=r"some teachers have rows of views, two none .*--views N.*replay=false"):
        work_of(train=settings(folder=str(tmp_path)))
    assert work_of(train=settings(folder=str(tmp_path), rows=["two"])).loader.look.views is None  # nobody has any


def test_a_run_does_not_go_on_with_other_views(recipe_of, settings, corpus_recipe, trained, tmp_path):
    corpus, folder = open_corpus(corpus_recipe.path), tmp_path / "rows"
    extract(corpus, str(trained), "one", views=Views(count=1, policy="squash"), root=folder)
    taught = settings(rows=["one"], accept=[], folder=str(folder))
    replayed, whole = (
        recipe_of(train={**taught, "teachers": taught["teachers"] | {"replay": replay}, "steps": 1, "run": str(run)})
        for replay, run in ((True, tmp_path / "replayed"), (False, tmp_path / "whole"))
    )
    train(replayed), train(whole)
    other = Views(count=1, policy="squash", seed=7)
    extract(corpus, str(trained), "one", views=other, root=folder, replace=True)
    with pytest.raises(RequestError, match="this folder holds a run with another replayed views"):
        train(replayed)
    assert train(whole).finished  # it looks at whole pictures


def test_captions_that_a_run_does_not_draw_change_nothing_of_it(
    recipe_of, prepared, settings, corpus_recipe, trained, tmp_path
):
    corpus, folder = open_corpus(corpus_recipe.path), tmp_path / "rows"
    extract(corpus, str(trained), "one", root=folder)
    recipe = recipe_of(train={**settings(rows=["one"], accept=[], folder=str(folder)), "steps": 1})
    train(recipe)
    standard = (folder / "one" / "standard.safetensors").read_bytes()
    extract(corpus, str(trained), "one", bank=["X-ray of the chest.", "What another run draws."], root=folder)
    assert len(open_features(corpus, "one", root=folder).captions) > 2
    (one,) = prepared(recipe).loader.teachers.taught
    assert (folder / "one" / "standard.safetensors").read_bytes() == standard
    assert train(recipe).finished
    assert not one.text(np.array([0]), [Caption("X-ray of the chest.", "other", None, ("X-ray of the chest.",))])[1][0]


def test_images_without_text_are_told_and_their_texts_are_not(
    recipe_of, prepared, settings, corpus_recipe, trained, tmp_path
):
    """One source has neither labels nor texts: all that can be said of it is what it is a picture of."""
    tree = corpus_recipe.model_dump(mode="json", serialize_as_any=True) | {"path": str(tmp_path / "corpus")}
    tree["sources"][1]["columns"] |= {"labels": None, "caption": None}
    tree["sources"][1]["exhaustive"] = False
    corpus = build(CorpusRecipe.model_validate(tree))
    extract(corpus, nameless(trained), "two", root=tmp_path / "rows")
    asked = settings(rows=["two"], folder=str(tmp_path / "rows"))
    work = prepared(recipe_of(train={**asked, "corpus": str(corpus.path)}))
    (one,), bare = work.loader.teachers.taught, 0
    for step in range(3):
        share = work.loader[step]
        rows, kinds = share.rows["two"], np.array(share.kinds)
        assert rows.known.tolist() == (kinds != "other").tolist()
        assert np.array_equal(rows.image.numpy(), one.features.image(share.numbers))
        assert (rows.gate_of("image")[~rows.known] > 0).all() and not rows.gate_of("image", "text")[~rows.known].any()
        bare += int((~rows.known).sum())
        batch = work.batch(work.data.order, share)
        assert torch.equal(batch.rows["two"].known, rows.known) and batch.rows["two"].covered[~rows.known].all()
    assert bare > 3


def test_a_text_beyond_those_that_have_rows_has_none(corpus_recipe, trained, tmp_path, monkeypatch):
    """`pick` draws among all texts of a sample, of which the first 255 have rows: here the first."""
    monkeypatch.setattr("medweave.features.make_rows.MOST_TEXTS", 1)
    tree = corpus_recipe.model_dump(mode="json", serialize_as_any=True) | {"path": str(tmp_path / "corpus")}
    for source in tree["sources"]:
        source["columns"]["impression"] = "label"
    corpus = build(CorpusRecipe.model_validate(tree))
    number = next(n for n in range(len(corpus)) if len(corpus.fields(n)["texts"]) == 2)
    extract(corpus, str(trained), "one", root=tmp_path / "rows")
    (one,) = teachers_of(corpus, TeachersRecipe(rows=["one"], folder=tmp_path / "rows")).taught
    captions = [Caption("", "own", own, ("",)) for own in (1, 0)]
    rows, known = one.text(np.array([number, number]), captions)
    assert known.tolist() == [False, True] and not rows[0].any()
    assert np.array_equal(rows[1], one.features.text(np.array([number]))[0])


@pytest.mark.parametrize("unscaled", [["one"], ["one", "two"]])
def test_scales_are_asked_for_before_anything_is_measured(work_of, settings, rows_folder, unscaled, tmp_path, capfd):
    folder = shutil.copytree(rows_folder, tmp_path / "rows")
    for name in unscaled:
        stamp = folder / name / "stamp.json"
        stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"head": None}))
    asked = settings(folder=str(folder))
    if len(unscaled) == 1:
        parts = work_of(train=asked).objectives.parts
        said = [line for line in capfd.readouterr().err.splitlines() if "leaves out" in line]
        assert said == [
            f"{kind} leaves out one, whose own scale is not known (give `scale:` to use it)"
            for kind in ("affinity", "answer")
        ]
        assert [list(part.scales) for part in parts if part.left_out] == [["two"], ["two"]]
    else:
        with pytest.raises(RequestError, match=r"affinity needs a teacher's own scale, and that of one and two is not"):
            work_of(train=asked)
        assert not (tmp_path / "run" / "teachers").exists()


def test_a_teacher_can_be_kept_from_what_it_was_trained_on(
    recipe_of, settings, prepared, corpus_recipe, tmp_path, monkeypatch
):
    """Two halves are taught crosswise: each by the run that has not seen it."""
    monkeypatch.setattr("medweave.features.coverage.LEAST", 10_000)  # runs of six steps guess
    corpus = open_corpus(corpus_recipe.path)
    seen = {}
    for name, aside in (("one", [1, 2, 3, 4]), ("two", [5, 6, 7, 8, 9])):
        part = {"overlay": "folds", "fold": 0, "aside": aside}
        half = recipe_of(train={"run": str(tmp_path / name), "data": part, "batch": 8, "keep": "last"})
        model = train(half).model
        extract(corpus, str(model), name, root=tmp_path / "rows")
        seen[name] = set(numbers_of(corpus, Part.model_validate(part), "train").tolist())
    assert all(seen.values()) and not seen["one"] & seen["two"]
    part = {"overlay": "folds", "fold": 0}
    taught = settings(folder=str(tmp_path / "rows"), unseen=True, replay=False)
    work = prepared(recipe_of(train={**taught, "data": part}))
    numbers = numbers_of(corpus, Part.model_validate(part), "train")
    assert seen["one"] | seen["two"] == set(numbers.tolist())
    for teacher in work.loader.teachers.taught:
        met = np.array([number in seen[teacher.name] for number in numbers.tolist()])
        assert not teacher.gate(numbers[met]).any() and teacher.gate(numbers[~met]).any()
    with pytest.raises(UserError, match=r"two covers no training sample.*unseen=false"):
        prepared(recipe_of(train={**taught, "data": {**part, "aside": [5, 6, 7, 8, 9]}, "run": str(tmp_path / "none")}))


def test_a_run_is_measured_on_what_it_has_not_seen(recipe_of, settings, prepared, corpus_recipe, tmp_path, monkeypatch):
    corpus, part, asked = open_corpus(corpus_recipe.path), {"overlay": "folds", "fold": 0}, []
    model = train(recipe_of(train={"run": str(tmp_path / "one"), "data": part, "batch": 8, "keep": "last"})).model
    extract(corpus, str(model), "one", root=tmp_path / "rows")

    def recorded(features, measuring, known_to, **others):
        asked.append(set(measuring.numbers().tolist()) - set(known_to.numbers().tolist()))
        return cover(features, measuring, known_to=known_to, thresholds=Thresholds(source=-1.0), **others)

    monkeypatch.setattr("medweave.training.teachers.cover", recorded)
    taught = settings(rows=["one"], accept=[], folder=str(tmp_path / "rows"), replay=False)
    prepared(recipe_of(train={**taught, "data": part}))
    assert asked == [set(numbers_of(corpus, Part.model_validate(part), "validation").tolist())]


def test_rows_of_a_run_on_another_state_of_the_corpus_are_not_taken_for_unseen(
    recipe_of, settings, prepared, corpus_recipe, trained, tmp_path
):
    model = of_another_state(trained, tmp_path / "model")
    extract(open_corpus(corpus_recipe.path), model, "old", root=tmp_path / "rows")
    taught = settings(rows=["old"], accept=["old"], folder=str(tmp_path / "rows"), replay=False, unseen=True)
    with pytest.raises(UserError, match="old was trained on another corpus or state of it"):
        prepared(recipe_of(train=taught))


def test_a_run_on_another_state_of_the_corpus_is_measured_on_the_validation_part(
    recipe_of, settings, prepared, corpus_recipe, trained, tmp_path, capfd
):
    """Whatever it has learnt by heart of the training part, it is not asked about."""
    corpus, rows = open_corpus(corpus_recipe.path), tmp_path / "rows"
    extract(corpus, of_another_state(trained, tmp_path / "model"), "old", root=rows)
    taught = settings(rows=["old"], accept=["old"], folder=str(rows), replay=False)
    prepared(recipe_of(train={**taught, "objectives": [{"kind": "feature"}]}))
    validation = numbers_of(corpus, Part(), "validation")
    said = (
        f"what it has seen is not known; it is measured on the {len(validation)} samples of the validation part alone"
    )
    assert said in capfd.readouterr().err
    cover(open_features(corpus, "old", root=rows), Ranges.of(validation), file=tmp_path / "by-hand.parquet")
    found, expected = (
        pq.read_table(file) for file in (tmp_path / "run/teachers/old.parquet", tmp_path / "by-hand.parquet")
    )
    assert found.equals(expected)


def test_teachers_have_no_say_in_the_head_finish(recipe_of, settings, prepared, capfd):
    finish = {"head_finish": {"steps": 3, "batch": 16}, "head_start": {"steps": 2, "batch": 16}}
    work = prepared(recipe_of(train={**settings(), **finish}))
    before = {name: value.clone() for name, value in work.objectives.named_parameters()}
    stored = heads._Stored(work, work.settings.head_finish, "head finish", work.objectives.without_teachers)
    assert not stored[0].rows  # what nobody asks for is not read
    heads.head_finish(work)
    assert all(torch.equal(value, before[name]) for name, value in work.objectives.named_parameters())
    said = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("head finish: 3 steps"))
    assert "contrastive loss" in said and "feature" not in said and "answer" not in said
    heads.head_start(work)
    assert any(not torch.equal(value, before[name]) for name, value in work.objectives.named_parameters())
