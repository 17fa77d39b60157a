"""What a run says while it goes on: log.jsonl, TensorBoard, Weights & Biases if it is installed and switched on, a bar.

Lines of log.jsonl, each with `kind` and `step` (steps made):
train       loss, losses by name, floors (what no student could go below on this batch, where that is known and not
            0), lr (the highest of all groups), gradient (norm before clipping), scale, bias, images, epoch,
            images_per_second, wait (share of the time spent waiting for data), seconds
validation  macro_auroc, balanced_accuracy (means over sources), sources: name -> the two
counts      as counts.json, once an epoch
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medweave.files import write_bytes
from medweave.progress import PLAIN_EVERY, say
from medweave.training.run import Run


class Log:
    """The writer of one run, from a step on: what an interrupted run wrote beyond it is dropped, at 0 everything."""

    def __init__(self, run: Run, name: str, first: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        kept = [line for line in run.log() if first > 0 and line["step"] <= first]
        write_bytes(run.path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = (run.path / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run.path / "tensorboard"), purge_step=first + 1 if first else 0)
        self._wandb = _wandb(run, name, first)
        self._shown = _Shown(name, first, total)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._shown.close()
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def train(self, step: int, values: dict[str, Any]) -> None:
        """A line on training, and where it stands on the screen."""
        self._write("train", step, values)
        rate, wait = values["images_per_second"], values["wait"]
        self._shown.at(step, f"loss {values['loss']:.4g}  {rate:.0f} images/s  {wait:.0%} waiting for data")

    def validation(self, step: int, values: dict[str, Any]) -> None:
        """A line on validation."""
        self._write("validation", step, values)
        shown = "  ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in values.items() if isinstance(v, float))
        say(f"step {step}: validation {shown}")

    def counts(self, step: int, values: dict[str, Any]) -> None:
        """A line of counts."""
        self._write("counts", step, values)

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{name}": value for name, value in _numbers(values)}
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)


class Stopwatch:
    """Images a second and the share of waiting since the last reading."""

    def __init__(self) -> None:
        self._restart()

    def add(self, images: int, waited: float) -> None:
        """One step's images and the seconds that it waited for them."""
        self._images += images
        self._waited += waited

    def skip(self, seconds: float) -> None:
        """Time that was not spent on training: validation, checkpoints."""
        self._start += seconds

    def read(self) -> dict[str, float]:
        """images_per_second, wait, seconds; starts again."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        values = {"images_per_second": self._images / seconds, "wait": self._waited / seconds, "seconds": seconds}
        self._restart()
        return values

    def _restart(self) -> None:
        self._images, self._waited, self._start = 0, 0.0, time.perf_counter()


class _Shown:
    """A bar with time left on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, first: int, total: int) -> None:
        self._name, self._first, self._total = name, first, total
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(name, total=total, completed=first, text="")
            self._bar.start()

    def at(self, step: int, text: str) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        elif now - self._last >= PLAIN_EVERY or step == self._total:
            self._last = now
            left = (now - self._start) / max(1, step - self._first) * (self._total - step)
            say(f"{self._name}: step {step}/{self._total}  {text}  about {left:.0f} s left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _numbers(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Every number of a nested mapping with its name."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((f"{prefix}{name}", value))
    return found


def _wandb(run: Run, name: str, first: int) -> Any:
    """A Weights & Biases run where WANDB_PROJECT is set, the package is installed and lets one in; else None.

    Its number lies in the run's folder, so that an interrupted run goes on under it; one that begins anew gets another.
    """
    if "WANDB_PROJECT" not in os.environ:
        return None
    try:
        import wandb
    except ImportError:
        say("WANDB_PROJECT is set, but wandb is not installed: pip install wandb")
        return None
    number = run.path / "wandb.txt"
    if first == 0 or not number.exists():
        write_bytes(number, uuid.uuid4().hex.encode())
    try:
        return wandb.init(name=name, dir=run.path, resume="allow", id=number.read_text())
    except wandb.Error as error:
        say(f"Weights & Biases does not take this run, it is logged without: {error}")
        return None
