import json
import sys
import types

import pytest

from medweave.training.log import Log, Stopwatch
from medweave.training.run import Run

LINE = {"loss": 1.5, "losses": {"contrastive": 1.5}, "images_per_second": 10.0, "wait": 0.1}


def test_what_an_interrupted_run_wrote_past_its_checkpoint_is_dropped(tmp_path):
    run = Run(tmp_path)
    with Log(run, "tiny", 0, 10) as log:
        for step in (1, 2, 3, 4):
            log.train(step, LINE)
        log.validation(3, {"macro_auroc": None, "sources": {}})
    with Log(run, "tiny", 2, 10) as log:
        log.train(3, {**LINE, "loss": 0.5})
    assert [(line["step"], line["loss"]) for line in run.log("train")] == [(1, 1.5), (2, 1.5), (3, 0.5)]
    assert not list(run.log("validation"))


def test_a_run_that_begins_anew_keeps_nothing(tmp_path):
    for _ in range(2):
        with Log(Run(tmp_path), "tiny", 0, 10) as log:
            log.validation(0, {"macro_auroc": 0.5, "sources": {}})
    assert [line["step"] for line in Run(tmp_path).log("validation")] == [0]


def test_a_torn_last_line_is_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"kind": "train", "step": 1, **LINE}) + '\n{"kind": "tra')
    with Log(Run(tmp_path), "tiny", 1, 10):
        pass
    assert [line["step"] for line in Run(tmp_path).log()] == [1]


def test_tensorboard_gets_every_number(tmp_path):
    with Log(Run(tmp_path), "tiny", 0, 10) as log:
        log.train(1, LINE)
        log.validation(1, {"macro_auroc": 0.75, "sources": {"a": {"macro_auroc": 0.75}}})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = {"train/loss", "train/losses/contrastive", "validation/macro_auroc", "validation/sources/a/macro_auroc"}
    assert names <= set(board.Tags()["scalars"])
    assert board.Scalars("validation/macro_auroc")[0].value == pytest.approx(0.75)


def test_a_switched_on_wandb_that_is_not_installed_is_said(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_PROJECT", "x")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Log(Run(tmp_path), "tiny", 0, 10):
        pass
    assert "wandb is not installed" in capfd.readouterr().err


class FakeWandb(types.ModuleType):
    """What `wandb` was asked for. refuses: as it does when nobody has logged in."""

    class Error(Exception):
        pass

    def __init__(self, refuses=False):
        super().__init__("wandb")
        self.refuses, self.ids = refuses, []

    def init(self, **asked):
        if self.refuses:
            raise self.Error("No API key configured.")
        self.ids.append(asked["id"])
        return self

    def log(self, numbers, step):
        pass

    def finish(self):
        pass


def test_a_resumed_run_keeps_its_wandb_number_and_no_other_has_it(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setenv("WANDB_PROJECT", "x")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for folder, first in (("a/0", 0), ("a/0", 1), ("a/0", 0), ("b/0", 0)):
        with Log(Run(tmp_path / folder), "tiny", first, 10) as log:
            log.train(first + 1, LINE)
    began, resumed, anew, elsewhere = fake.ids
    assert began == resumed
    assert len({began, anew, elsewhere}) == 3


def test_a_wandb_that_refuses_stops_no_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_PROJECT", "x")
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses=True))
    with Log(Run(tmp_path), "tiny", 0, 10) as log:
        log.train(1, LINE)
    assert "No API key configured" in capfd.readouterr().err
    assert [line["step"] for line in Run(tmp_path).log()] == [1]


def test_the_stopwatch_counts_training_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    watch.add(20, 1.0)
    watch.add(20, 1.0)
    now[0] = 14.0
    watch.skip(4.0)
    assert watch.read() == {"images_per_second": 4.0, "wait": 0.2, "seconds": 10.0}
