import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medweave.errors import RequestError
from medweave.models.dual import build
from medweave.training import heads
from medweave.training.distributed import start
from medweave.training.heads import head_finish, head_start
from medweave.training.loop import train
from medweave.training.objectives.menu import menu_loss
from medweave.training.run import Run
from medweave.training.work import data_of, prepare

OBJECTIVES = [{"kind": "menu"}, {"kind": "contrastive", "targets": "label"}]
SETTINGS = {"head_start": {"steps": 30, "batch": 16, "lr": 1e-2}, "objectives": OBJECTIVES}


def state(work):
    return {name: value.clone() for name, value in work.model.state_dict().items()}


def test_only_what_follows_the_towers_moves(work_of):
    work = work_of(train=SETTINGS)
    before = state(work)
    head_start(work)
    moved = {name for name, value in state(work).items() if not torch.equal(value, before[name])}
    assert "clip.logit_scale" in moved
    assert moved - {"clip.logit_scale"} and all(
        "head" in name or ".proj." in name for name in moved - {"clip.logit_scale"}
    )


@pytest.mark.parametrize("freeze", [False, True])
def test_it_lowers_the_loss_of_its_own_objectives(work_of, freeze):
    work = work_of(
        train={**SETTINGS, "head_start": {"steps": 400, "batch": 16, "lr": 3e-2}, "optimiser": {"clip": None}},
        text={"freeze": freeze},
    )

    def loss():
        stored = heads._Stored(work, work.settings.head_start, "head start", work.objectives)
        rows = stored.towers(0, stored[0].micros[0])
        menu = stored.towers.menu(0, stored[0].menu)
        truth = work.menu.truth(work.data.labels.of(stored[0].numbers))
        return menu_loss(rows.image, menu, work.model.logit_scale.exp(), truth).item()

    work.model.eval()
    before = loss()
    head_start(work)
    work.model.eval()
    assert loss() < before - 0.002  # random tiny towers hardly tell one picture or text from another


def test_stored_rows_are_what_the_tower_gives_unaugmented_images(work_of):
    work = work_of(train=SETTINGS)
    stored = heads._Stored(work, work.settings.head_start, "head start", work.objectives)
    share = stored[2]
    pictures = np.stack([work.model.preprocess.array(work.data.corpus.read(n)) for n in share.numbers.tolist()])
    with torch.no_grad():
        rows = work.model.eval().image_features(work.model.preprocess.tensor(pictures))
    assert torch.allclose(share.micros[0].pixels, rows, atol=1e-5)
    assert share.micros[0].texts == work.loader[2].micros[0].texts
    assert stored.read(2).all()


def test_few_images_are_one_batch(work_of):
    work = work_of(train={**SETTINGS, "head_start": {"steps": 2, "batch": 500}})
    head_start(work)
    stored = heads._Stored(work, work.settings.head_start, "head start", work.objectives)
    assert len(stored[1].numbers) == work.data.mix.samples == 72


def test_a_run_begins_with_it_and_the_average_with_its_end(recipe_of):
    settings = {**SETTINGS, "ema": 0.9, "steps": 2, "keep": "last", "validation": {"every": 1}}
    run = train(recipe_of(train=settings))
    assert [line["step"] for line in run.log("validation")] == [0, 1, 2]
    untrained = build(recipe_of().model, 0).state_dict()
    trained = load_file(run.model / "open_clip_model.safetensors")
    head = next(name for name in trained if "visual.head" in name)
    assert not torch.allclose(trained[head], untrained[f"clip.{head}"], atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {**SETTINGS, "steps": 3, "keep": "last"},
        {"objectives": OBJECTIVES, "head_finish": {"steps": 5, "batch": 16}, "steps": 3, "ema": 0.9},
    ],
    ids=["start", "finish"],
)
def test_a_run_killed_in_it_begins_it_again_and_ends_alike(settings, recipe_of, tmp_path, monkeypatch):
    train(recipe_of(train={**settings, "run": str(tmp_path / "whole")}))
    killed = recipe_of(train={**settings, "run": str(tmp_path / "killed")})
    with monkeypatch.context() as patch:
        patch.setattr(heads, "step_", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(killed)
    assert not Run(tmp_path / "killed").finished
    train(killed)
    one, other = (load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_not_repeated_when_a_run_goes_on(recipe_of, monkeypatch):
    recipe = recipe_of(train={**SETTINGS, "steps": 4, "checkpoint": 2, "keep": "last"})
    run, ranks = Run(recipe.train.run), start()
    data = data_of(recipe, ranks)
    run.begin(recipe, data.hashes())
    work = prepare(recipe, run, data, ranks)
    work.step = 2
    from medweave.training.work import save

    work.counts.add(work.loader[0])
    work.counts.add(work.loader[1])
    save(work)
    monkeypatch.setattr("medweave.training.loop.head_start", lambda _: 1 / 0)
    train(recipe)
    assert Run(recipe.train.run).finished


def test_a_finish_moves_only_what_follows_the_towers_of_the_kept_weights(recipe_of, tmp_path):
    """The two runs are alike up to the last step; averaged weights are kept."""
    settings = {"objectives": OBJECTIVES, "steps": 3, "keep": "last", "ema": 0.9, "validation": {"every": 3}}
    plain = train(recipe_of(train={**settings, "run": str(tmp_path / "plain")}))
    finish = {"steps": 5, "batch": 16, "lr": 1e-2}
    run = train(recipe_of(train={**settings, "head_finish": finish, "run": str(tmp_path / "finished")}))
    one, other = (load_file(r.model / "open_clip_model.safetensors") for r in (plain, run))
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert "logit_scale" in moved and len(moved) > 2
    assert all("head" in name or ".proj." in name for name in moved - {"logit_scale"})
    assert [line["step"] for line in run.log("validation")] == [3, 3]


def test_a_finish_lowers_the_loss_on_whole_pictures(work_of):
    work = work_of(
        train={
            "objectives": OBJECTIVES,
            "head_finish": {"steps": 400, "batch": 16, "lr": 3e-2},
            "optimiser": {"clip": None},
        }
    )

    def loss():
        stored = heads._Stored(work, work.settings.head_finish, "head finish", work.objectives)
        rows, menu = stored.towers(0, stored[0].micros[0]), stored.towers.menu(0, stored[0].menu)
        truth = work.menu.truth(work.data.labels.of(stored[0].numbers))
        return menu_loss(rows.image, menu, work.model.logit_scale.exp(), truth).item()

    work.model.eval()
    before = loss()
    head_finish(work)
    assert not work.model.training
    assert loss() < before - 0.02


def test_a_tower_that_pools_and_projects_at_once_is_refused(recipe_of):
    recipe = recipe_of(train=SETTINGS)
    image = {"tower": "open_clip:RN50", "size": 64}
    model = recipe.model.model_copy(update={"image": recipe.model.image.model_copy(update=image), "embed": 12})
    with pytest.raises(RequestError, match="one with its pooling"):
        train(recipe.model_copy(update={"model": model}))
