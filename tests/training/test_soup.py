import pytest
import torch
from safetensors.torch import load_file

from medweave.training import soup
from medweave.training.kept import learn
from medweave.training.loop import one_step, train
from medweave.training.norms import learning_norms
from medweave.training.optim import rate, set_rate
from medweave.training.run import Run

torch.set_num_threads(1)
QUIET = {"keep": "last", "norm": "frozen", "workers": 0}
METRIC = "macro_auroc"


def model_of(run):
    return load_file(run.model / "open_clip_model.safetensors")


def values(work):
    return {name: value.clone() for name, value in soup._learning(work)}


class Exam:
    """A validation that likes weights near a target, and counts what it was asked."""

    def __init__(self, work, target):
        self.work, self.target = work, target

    def __bool__(self):
        return True

    def __call__(self, towers):
        away = sum((value - self.target[name]).square().sum().item() for name, value in soup._learning(self.work))
        return {METRIC: -away, "balanced_accuracy": -away, "sources": {}}


def test_branches_are_runs_of_their_own_and_the_soup_is_their_mean(recipe_of, work_of, tmp_path):
    run = train(recipe_of(train={**QUIET, "steps": 6, "soup": {"branches": 2}}))
    ends = []
    for first in (0, 3):
        work = work_of(train={**QUIET, "steps": 6, "run": str(tmp_path / str(first))})
        learn(work)
        for step in range(3):
            set_rate(work.optimiser, rate(step, 3, work.settings.optimiser.warmup))
            one_step(work, work.loader[first + step])
        ends.append({name.removeprefix("clip."): value for name, value in work.model.state_dict().items()})
    made = model_of(run)
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in made)
    for name, value in made.items():
        assert torch.allclose(value.float(), (ends[0][name] + ends[1][name]) / 2, atol=1e-6), name
    assert run.facts["best"]["steps"] == [3, 6] and run.facts["best"]["share"] == 1


@pytest.mark.parametrize("place", ["begin_branch", "add", "cook"])
def test_a_run_that_stopped_anywhere_cooks_the_same_soup(recipe_of, tmp_path, monkeypatch, place):
    settings = {
        **QUIET,
        "steps": 8,
        "checkpoint": 2,
        "ema": 0.9,
        "norm": "batch",
        "head_start": {"steps": 3, "batch": 16},
        "validation": {"every": 2},
        "soup": {"branches": 2, "late": 2, "choose": "greedy", "line": [0.5, 1.0]},
    }
    whole = train(recipe_of(train={**settings, "run": str(tmp_path / "whole")}))
    recipe = recipe_of(train={**settings, "run": str(tmp_path / "stopped")})
    usual = getattr(soup, place)

    def stops(work):
        if work.step >= 4:
            usual(work)
            raise ZeroDivisionError
        usual(work)

    with monkeypatch.context() as patch:
        patch.setattr(soup, place, stops)
        with pytest.raises(ZeroDivisionError):
            train(recipe)
    assert not Run(tmp_path / "stopped").finished
    stopped = train(recipe)
    one, other = model_of(whole), model_of(stopped)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert stopped.facts["best"] == whole.facts["best"]
    assert not [file for file in (tmp_path / "stopped" / "checkpoints").iterdir() if file.name != ".lock"]


def test_late_weights_are_those_of_the_last_validations(recipe_of):
    settings = {**QUIET, "steps": 8, "validation": {"every": 2}, "soup": {"branches": 2, "late": 2}}
    assert train(recipe_of(train=settings)).facts["best"]["steps"] == [2, 4, 6, 8]


def cooked(work, shift_of_each, target_shift):
    """Cook a soup of weights shifted from the first ones, with an exam that likes a shift."""
    soup.begin_branch(work)
    first = values(work)
    for step, shift in enumerate(shift_of_each, 1):
        with torch.no_grad():
            for name, value in soup._learning(work):
                value.copy_(first[name] + shift)
        work.step = step
        soup._write(work, f"soup-{step:09d}.safetensors")
    work.validation = Exam(work, {name: value + target_shift for name, value in first.items()})
    facts = soup.cook(work)
    shifts = [(value - first[name]).mean().item() for name, value in soup._learning(work)]
    return facts, shifts


def test_greedy_takes_what_validation_likes_only(work_of):
    work = work_of(train={**QUIET, "steps": 4, "soup": {"choose": "greedy"}})
    facts, shifts = cooked(work, [0.2, 1.0, -0.1, 0.4], target_shift=0.3)
    assert facts["steps"] == [1, 4]
    assert shifts == pytest.approx([0.3] * len(shifts), abs=1e-4)


def test_all_are_taken_alike(work_of):
    work = work_of(train={**QUIET, "steps": 4, "soup": {}})
    facts, shifts = cooked(work, [0.2, 1.0, -0.1, 0.4], target_shift=0.3)
    assert facts["steps"] == [1, 2, 3, 4]
    assert shifts == pytest.approx([0.375] * len(shifts), abs=1e-4)


def test_validation_chooses_on_the_way_from_the_first_weights(work_of):
    work = work_of(train={**QUIET, "steps": 1, "soup": {"line": [0.25, 0.5, 1.0]}})
    facts, shifts = cooked(work, [0.8], target_shift=0.35)
    assert facts["share"] == 0.5
    assert shifts == pytest.approx([0.4] * len(shifts), abs=1e-4)


def test_norms_that_learn_are_measured_for_the_soup(work_of):
    work = work_of(train={**QUIET, "norm": "batch", "steps": 2, "soup": {}})
    learn(work)
    norms = learning_norms(work.model)
    soup.begin_branch(work)
    for _ in range(2):
        one_step(work, work.loader[work.step])
        work.step += 1
        soup._write(work, f"soup-{work.step:09d}.safetensors")
    soup.cook(work)
    found = [norm.running_mean.clone() for norm in norms]
    work.model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for step in range(2):
            work.towers.image(work.loader[step].micros[0].pixels)
    for norm, mean in zip(norms, found, strict=True):
        assert torch.allclose(norm.running_mean, mean, atol=1e-6)


def test_two_processes_cook_the_soup_of_one(recipe_of, together, tmp_path):
    settings = {**QUIET, "steps": 4, "soup": {"branches": 2, "line": [0.5, 1.0]}}
    one = train(recipe_of(train={**settings, "run": str(tmp_path / "one")}))
    recipe = recipe_of(train={**settings, "run": str(tmp_path / "two")})
    together(2, lambda: train(recipe))
    two = Run(tmp_path / "two")
    assert two.facts["best"]["share"] == one.facts["best"]["share"]
    for name, value in model_of(one).items():
        assert torch.allclose(value.float(), model_of(two)[name].float(), atol=1e-4), name
