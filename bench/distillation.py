"""Distillation from stored rows: a step against one without teachers, and the objectives against the contrastive loss.

Six teachers with both towers, 512 wide. Each measurement runs in a fresh process, the two sides in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEACHERS, WIDTH, SAMPLES = 6, 512, 4096
OBJECTIVES = [{"kind": "contrastive"}, {"kind": "feature"}, {"kind": "affinity"}]


def store_rows(corpus: dict[str, Any]) -> None:
    """Rows of six small teachers for the corpus of bench.training."""
    from bench.features import teacher
    from medweave.features.extract import extract

    for number in range(TEACHERS):
        extract(corpus["path"], teacher(), f"teacher-{number}", workers=1)


def trust_all(corpus: dict[str, Any], run: Path) -> list[str]:
    """Verdicts that cover every sample, as if measured; the names of the teachers."""
    from medweave.corpus.store import open_corpus
    from medweave.features.coverage import Verdicts, write_verdicts
    from medweave.features.store import names, open_features

    opened = open_corpus(corpus["path"])
    (run / "teachers").mkdir(parents=True, exist_ok=True)
    for name in names(opened):
        features = open_features(opened, name)
        write_verdicts(
            features, lambda n, *_: Verdicts(len(n), True, "bench", 1.0), run / "teachers" / f"{name}.parquet"
        )
    return names(opened)


def taught(corpus: dict[str, Any], **settings: Any) -> Any:
    """A prepared run that learns from the stored teachers."""
    from bench.training import work_of

    names = trust_all(corpus, Path(corpus["path"]).parent / "run")
    teachers = {"rows": names, "accept": names}
    return work_of(corpus, frozen=False, teachers=teachers, objectives=OBJECTIVES, **settings)


def step(corpus: dict[str, Any]) -> dict[str, float]:
    """Seconds a step of the whole loop: with six stored teachers, and with the contrastive loss alone."""
    from bench.training import in_turns, whole_loop, work_of

    return in_turns(whole_loop(taught(corpus)), whole_loop(work_of(corpus, frozen=False)))


def online(corpus: dict[str, Any]) -> dict[str, float]:
    """Seconds a step with six stored teachers, and with six of the student's size that embed its batch meanwhile."""
    import torch

    from bench.training import in_turns, whole_loop

    work = taught(corpus, steps=64)
    stored, micro = whole_loop(work), work.loader[0].micros[0]

    def with_teachers() -> float:
        seconds = stored()
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(TEACHERS):
                work.towers(0, micro)
        return seconds + time.perf_counter() - start

    return in_turns(stored, with_teachers)


def objectives() -> dict[str, float]:
    """Seconds of forward and backward, and extra peak memory: feature and affinity, and the contrastive loss alone."""
    import torch
    from torch.nn.functional import normalize

    from bench.contrastive import peak
    from medweave.training.objective import Batch, Embeddings, Given, Objectives, Standard, Teacher, TeacherRows
    from medweave.training.recipe import TrainRecipe

    def unit(seed: int) -> torch.Tensor:
        return normalize(torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)

    side = Standard(torch.zeros(WIDTH), torch.eye(WIDTH), torch.eye(WIDTH))
    names = [f"teacher-{number}" for number in range(TEACHERS)]
    rows = {name: TeacherRows(torch.ones(SAMPLES), unit(2 * at), unit(2 * at + 1)) for at, name in enumerate(names)}
    batch = Batch(torch.arange(SAMPLES), [None] * SAMPLES, rows=rows)
    given = Given(WIDTH, {name: Teacher(50.0, side, side) for name in names}, drop=0.5)
    student = Embeddings(unit(90).requires_grad_(), unit(91).requires_grad_(), torch.tensor(14.3), torch.zeros(()))

    def timed(kinds: list[dict[str, Any]]) -> Any:
        made = Objectives(TrainRecipe(run="run", steps=1, objectives=kinds).objectives, given)  # type: ignore[arg-type]

        def once() -> float:
            start = time.perf_counter()
            sum(made(student, batch).values()).backward()
            return time.perf_counter() - start

        return once

    plain, taught = timed(OBJECTIVES[:1]), timed(OBJECTIVES[1:])
    plain()
    before = peak()
    taught()
    memory = peak() - before
    pairs = [(taught(), plain()) for _ in range(5)]
    ours, other = (statistics.median(some) for some in zip(*pairs, strict=True))
    return {"ours": ours, "other": other, "memory": memory}


def in_fresh_process(name: str, corpus: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.distillation", name, json.dumps(corpus)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def rows() -> list[dict]:
    """The rows of bench/results.json that this file answers for."""
    from bench.training import write_corpus

    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder))
        store_rows(corpus)
        whole, alone = in_fresh_process("step", corpus), in_fresh_process("objectives", corpus)
        live = in_fresh_process("online", corpus)
    detail = (
        f"{alone['ours']:.2f} s against {alone['other']:.2f} s; {alone['memory'] / 1e6:.0f} MB more, B x B is 67 MB"
    )
    return [
        _row(
            "step with six stored teachers against a contrastive step: time",
            whole["ours"] / whole["other"],
            1.15,
            f"{whole['ours']:.3f} s against {whole['other']:.3f} s",
        ),
        _row(
            "feature + affinity of six teachers, 4,096 x 512, against the contrastive loss: time",
            alone["ours"] / alone["other"],
            7,
            detail,
        ),
        _row(
            "step with six stored teachers against six of the student's size on line: time",
            live["ours"] / live["other"],
            None,
            f"{live['ours']:.3f} s against {live['other']:.3f} s",
        ),
    ]


def _row(name: str, ratio: float, bar: float | None, detail: str) -> dict:
    held = {"bar": "report", "holds": None} if bar is None else {"bar": f"<= {bar}", "holds": ratio <= bar}
    return {"name": name, "ratio": round(ratio, 3), **held, "detail": detail}


if __name__ == "__main__":
    corpus_of_bench = json.loads(sys.argv[2])
    measured = {"step": lambda: step(corpus_of_bench), "online": lambda: online(corpus_of_bench)}
    print(json.dumps((measured | {"objectives": objectives})[sys.argv[1]]()))
