"""Two gloo processes, one process, and accumulation make the same run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medweave.errors import RequestError
from medweave.recipe import as_data
from medweave.training.distributed import Ranks, check_batch
from medweave.training.embed import backward
from medweave.training.loop import train
from medweave.training.run import Run


def weights(run):
    return load_file(run / "model" / "open_clip_model.safetensors")


def close(one, other) -> bool:
    """Whether all weights agree to 1e-4, each by itself and all together."""
    names = [name for name in one if one[name].is_floating_point()]
    whole, same = (torch.cat([values[name].flatten() for name in names]) for values in (one, other))
    return bool((whole - same).abs().max() < 1e-4 and (whole - same).norm() < 1e-4 * whole.norm())


SETTINGS = {
    "steps": 20,
    "norm": "frozen",
    "head_start": {"steps": 10, "batch": 24},
    "keep": "last",
    "validation": {"every": 20},
    "optimiser": {"lr": 3e-4},
    "objectives": [{"kind": "contrastive", "targets": "label"}, {"kind": "menu", "captions": 3}],
}


def test_two_processes_and_accumulation_agree_with_one(recipe_of, together, tmp_path):
    def recipe(name, **changes):
        return recipe_of(train={**SETTINGS, "run": str(tmp_path / name), **changes})

    train(recipe("one"))
    train(recipe("accumulated", accumulate=4))
    together(2, lambda: train(recipe("two")))
    together(2, lambda: train(recipe("both", accumulate=2)))
    names = ("one", "accumulated", "two", "both")
    assert all(close(weights(tmp_path / "one"), weights(tmp_path / name)) for name in names)
    assert len({(tmp_path / name / "counts.json").read_text() for name in names}) == 1
    figures = [next(Run(tmp_path / name).log("validation"))["macro_auroc"] for name in names]
    assert figures == pytest.approx([figures[0]] * 4)


def test_the_gradients_of_two_processes_are_those_of_one(work_of, together, tmp_path):
    def keep_gradients():
        work = work_of(train={"objectives": SETTINGS["objectives"]})
        work.model.eval()
        batch = work.data.batch(work.data.order.numbers(0), work.menu)
        backward(work.towers, work.objectives, work.loader[0], batch, torch.ones(16, dtype=torch.bool), work.ranks)
        slopes = {name: p.grad for name, p in work.model.named_parameters() if p.grad is not None}
        torch.save(slopes, tmp_path / f"{work.ranks.world}-{work.ranks.rank}.pt")

    keep_gradients()
    together(2, keep_gradients)
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    largest = max(slope.norm() for slope in one.values())
    for name, slope in one.items():
        assert torch.equal(first[name], second[name])
        if slope.norm() > 1e-5 * largest:
            assert (slope - first[name]).norm() / slope.norm() < 1e-5


def test_a_batch_that_cannot_be_dealt_is_refused():
    check_batch(16, 2, Ranks(0, 4, torch.device("cpu")))
    with pytest.raises(RequestError, match="take a multiple of 12"):
        check_batch(16, 4, Ranks(0, 3, torch.device("cpu")))


@pytest.mark.slow
def test_torchrun_on_the_command_line(recipe_of, free_port, tmp_path):
    train(recipe_of(train={**SETTINGS, "run": str(tmp_path / "one")}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(as_data(recipe_of(train={**SETTINGS, "run": str(tmp_path / "two")}))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command = [*launch, "--no-python", str(Path(sys.executable).with_name("medweave")), "train", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert close(weights(tmp_path / "one"), weights(tmp_path / "two"))
