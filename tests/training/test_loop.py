"""Whole runs: they learn, they can be killed, they say what is wrong."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medweave.corpus.store import open_corpus
from medweave.errors import RequestError, UserError
from medweave.evaluation.parts import numbers_of
from medweave.models.load import load
from medweave.training import loop
from medweave.training.distributed import start
from medweave.training.loop import train
from medweave.training.run import Run
from medweave.training.work import data_of

FORK = multiprocessing.get_context("fork")
LEARNS = {
    "steps": 60,
    "optimiser": {"lr": 5e-3, "warmup": 0.1},
    "objectives": [{"kind": "contrastive", "targets": "label"}],
    "validation": {"every": 20},
}


def weights(run: Run) -> bytes:
    return (run.model / "open_clip_model.safetensors").read_bytes()


def test_a_run_learns_and_leaves_everything(recipe_of):
    run = train(recipe_of(train=LEARNS))
    losses = [line["loss"] for line in run.log("train")]
    assert np.mean(losses[-2:]) < losses[0] - 0.5
    checks = list(run.log("validation"))
    assert [line["step"] for line in checks] == [20, 40, 60]
    assert max(line["macro_auroc"] for line in checks) > 0.9 and set(checks[0]["sources"]) == {"lungs", "heads"}
    assert run.counts["read"] == 60 * 16 and list(run.log("counts"))[-1]["epochs"] == run.counts["epochs"]
    assert run.finished and (run.path / "tensorboard").is_dir() and not list(run.checkpoints.iterdir())
    facts = json.loads((run.model / "medweave.json").read_text())["facts"]
    assert facts["trained_on"]["corpus"] == open_corpus(run_corpus(run)).hash and facts["images_seen"] == 960
    assert {row["source"] for row in facts["licences"]} == {"lungs", "heads"}


def run_corpus(run: Run) -> str:
    import yaml

    return yaml.safe_load((run.path / "recipe.yaml").read_text())["corpus"]["path"]


def test_the_model_that_is_kept_gives_the_best_validation_again(recipe_of):
    recipe = recipe_of(train={**LEARNS, "ema": 0.9})
    run = train(recipe)
    best = max(run.log("validation"), key=lambda line: line["macro_auroc"])
    assert run.facts["best"] == {"step": best["step"], "value": best["macro_auroc"]}
    from medweave.corpus.captions.bank import Bank
    from medweave.evaluation.quick import quick_zero_shot

    corpus = open_corpus(recipe.corpus.path)
    numbers = numbers_of(corpus, recipe.train.data, "validation")
    found = quick_zero_shot(load(str(run.model)), corpus, numbers, Bank.load(corpus.banks()))
    assert found["macro_auroc"] == pytest.approx(best["macro_auroc"], abs=1e-6)


@pytest.mark.parametrize("text", [{}, {"freeze": True}])
def test_a_killed_run_ends_with_the_same_bytes(recipe_of, tmp_path, text):
    settings = {"steps": 12, "checkpoint": 2, "ema": 0.9, "validation": {"every": 5}, "workers": 1}
    whole = train(recipe_of(train={**settings, "run": str(tmp_path / "whole")}, text=text))
    recipe = recipe_of(train={**settings, "run": str(tmp_path / "killed")}, text=text)
    for past in (3, 7):
        kill_after(past, lambda: train(recipe), tmp_path / "killed")
        assert not Run(tmp_path / "killed").finished
    killed = train(recipe)
    assert weights(killed) == weights(whole)
    assert killed.counts == whole.counts
    told = [[(line["step"], line["loss"]) for line in run.log("train")] for run in (whole, killed)]
    assert told[0] == told[1]
    assert list(killed.log("validation")) == list(whole.log("validation"))


def kill_after(step: int, work, folder: Path) -> None:
    """Run `work` in a process of its own and kill it once a checkpoint past `step` is there."""
    process = FORK.Process(target=work)
    process.start()
    while process.is_alive():
        steps = [int(path.stem.split("-")[1]) for path in (folder / "checkpoints").glob("step-*.pt")]
        if steps and max(steps) > step:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run ended before it could be killed"


def test_workers_change_nothing(recipe_of, tmp_path):
    runs = [train(recipe_of(train={"run": str(tmp_path / str(n)), "workers": n})) for n in (0, 2)]
    assert weights(runs[0]) == weights(runs[1])


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(recipe_of, capfd):
    run = train(recipe_of())
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    train(recipe_of(train={"workers": 1}))
    assert "is finished: nothing to do" in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(RequestError, match=r"another train.batch.*choose another train.run"):
        train(recipe_of(train={"batch": 8}))


def test_a_run_that_failed_on_its_model_takes_the_right_one(recipe_of):
    with pytest.raises(UserError, match="nothing"):
        train(recipe_of(image={"tower": "timm:nothing"}))
    assert train(recipe_of()).finished


def test_nothing_is_written_into_a_folder_of_other_files(recipe_of, tmp_path):
    (tmp_path / "run").mkdir()
    mine = tmp_path / "run" / "recipe.yaml"
    mine.write_text("name: mine\n")
    with pytest.raises(RequestError, match=r"the folder holds other files .*set train\.run to a new folder"):
        train(recipe_of())
    assert list(mine.parent.iterdir()) == [mine] and mine.read_text() == "name: mine\n"


def test_a_model_that_goes_on_from_another_keeps_what_binds_that(recipe_of, tmp_path):
    first = train(recipe_of(train={"run": str(tmp_path / "first"), "steps": 2}))
    card = first.model / "medweave.json"
    held = json.loads(card.read_text())
    earlier = {"name": "a", "weights": "b"}
    held["facts"] |= {"licence_class": "no-derivatives", "binds_students": True, "teachers": [earlier]}
    card.write_text(json.dumps(held))
    second = train(recipe_of(train={"run": str(tmp_path / "second"), "steps": 2}, model={"start": str(first.path)}))
    facts = json.loads((second.model / "medweave.json").read_text())["facts"]
    assert facts["licence_class"] == "no-derivatives" and facts["binds_students"] and facts["teachers"] == [earlier]
    assert "no adapted copies" in facts["inherits"][0]
    assert "Goes on from tiny (class no-derivatives)." in facts["inherits"]


def test_a_checkpoint_of_another_architecture_is_refused(recipe_of, tmp_path):
    from medweave.training import checkpoint

    other = train(recipe_of(image={"tower": "timm:test_vit"}, train={"run": str(tmp_path / "other")}))
    Run(tmp_path / "run").begin(recipe_of(), data_of(recipe_of(), start()).hashes())
    state = {"model": torch.nn.Linear(2, 2).state_dict(), "step": 3}
    checkpoint.save(tmp_path / "run" / "checkpoints", 3, state)
    with pytest.raises(UserError, match="another architecture"):
        train(recipe_of())
    assert other.finished


def test_last_weights_and_averages(recipe_of, tmp_path):
    """`keep: last` with an average keeps the average of the last step, without it the last step's own weights."""
    settings = {"steps": 5, "keep": "last", "checkpoint": 1}
    plain = train(recipe_of(train={**settings, "run": str(tmp_path / "plain")}))
    averaged = train(recipe_of(train={**settings, "run": str(tmp_path / "averaged"), "ema": 0.9}))
    assert weights(plain) != weights(averaged)
    scales = [load(str(run.model)).model.logit_scale.item() for run in (plain, averaged)]
    assert scales[0] != scales[1]


def test_a_loss_that_is_no_number_stops_the_run(recipe_of):
    with pytest.raises(UserError, match=r"not finite at step \d+.*lower train.optimiser.lr"):
        train(recipe_of(train={"optimiser": {"lr": 1e30, "clip": None}, "norm": "frozen", "steps": 20, "log": 1}))


@pytest.mark.parametrize(
    ("train_", "reason"),
    [
        ({"batch": 500}, "fewer than a batch of 500"),
        ({"corpus": "nowhere"}, "no built corpus"),
        ({"data": {"overlay": "folds", "fold": 9}}, "has no fold 9"),
        ({"data": {"train": "trian"}}, "no sample is in the training part"),
    ],
)
def test_requests_that_do_not_fit_the_corpus_leave_nothing(recipe_of, train_, reason):
    recipe = recipe_of(train=train_)
    with pytest.raises(RequestError, match=reason):
        train(recipe)
    assert not Path(recipe.train.run).exists()


def test_a_second_process_in_the_same_folder_is_told(recipe_of):
    from medweave.files import only_writer

    recipe = recipe_of()
    with only_writer(recipe.train.run), pytest.raises(UserError, match="another process is writing"):
        train(recipe)


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(recipe_of, monkeypatch):
    recipe = recipe_of(train={"steps": 8, "checkpoint": 2})

    def full(state, file):
        if state["step"] > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    save = torch.save
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        train(recipe)
    monkeypatch.undo()
    assert [path.name for path in Run(recipe.train.run).checkpoints.glob("step*")] == ["step-000000004.pt"]
    assert train(recipe).finished


def test_a_gpu_that_is_full_is_one_line(recipe_of, monkeypatch):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop, "backward", full)
    with pytest.raises(UserError, match=r"the GPU's memory is full .*train\.accumulate"):
        train(recipe_of())


def test_an_unreadable_image_costs_no_run_and_is_counted(recipe_of, monkeypatch):
    from medweave.corpus.store import Corpus

    read, gone = Corpus.read, 30
    monkeypatch.setattr(Corpus, "read", lambda self, number: b"damaged" if number == gone else read(self, number))
    run = train(recipe_of(train={"steps": 12, "mix": {"alpha": 1.0}}))
    counts = run.counts
    assert sum(counts["skipped"].values()) > 0 and counts["skipped_examples"][0]["sample"] == gone
    assert counts["read"] + sum(counts["skipped"].values()) == counts["asked"] == 12 * 16


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"norm": "frozen"}, {"augment": None}, {"ema": 0.99}])
def test_settings_train(recipe_of, settings):
    run = train(recipe_of(train={"steps": 3, "log": 1, **settings}))
    assert all(np.isfinite(line["loss"]) for line in run.log("train"))


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_both_heads_and_label_targets_train(recipe_of, head):
    recipe = recipe_of(train={"objectives": [{"kind": "contrastive", "head": head, "targets": "label"}], "log": 1})
    tree = recipe.model_copy(update={"model": recipe.model.model_copy(update={"head": head})})
    run = train(tree)
    lines = list(run.log("train"))
    assert lines[-1]["loss"] < lines[0]["loss"] * 1.2 and (lines[-1]["bias"] != 0) == (head == "sigmoid")
