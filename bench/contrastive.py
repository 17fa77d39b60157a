"""Contrastive loss against open_clip's ClipLoss: time and extra peak memory, forward + backward, fresh processes."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

import torch

WIDTH = 512
FORMS = ("ours", "ours-labels", "ours-masked", "open_clip")


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.nn.functional.normalize(torch.randn(size, WIDTH, generator=generator), dim=1) for _ in range(2)]
    return rows[0].requires_grad_(), rows[1].requires_grad_(), torch.tensor(14.3, requires_grad=True)


def loss_of(form: str, size: int):
    """A function of (image, text, scale) to the loss."""
    if form == "open_clip":
        from open_clip.loss import ClipLoss

        return ClipLoss()
    from medweave.corpus.known import LabelSet
    from medweave.training.objective import Embeddings
    from medweave.training.objectives.contrastive import softmax_loss
    from medweave.training.positives import positives_of

    positives = None
    if form != "ours":
        names = frozenset(f"finding {i}" for i in range(100))
        others = (lambda name: names - {name}) if form == "ours-labels" else (lambda name: frozenset())
        sets = [LabelSet(("xray", "chest"), frozenset({name}), others(name)) for name in sorted(names)]
        positives = positives_of([sets[i % 100] for i in range(size)])
    zero = torch.zeros(())
    return lambda image, text, scale: softmax_loss(Embeddings(image, text, scale, zero), positives)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(form: str, size: int, repeats: int) -> dict[str, float]:
    image, text, scale = inputs(size)
    loss = loss_of(form, size)
    small = inputs(256)
    loss_of(form, 256)(*small).backward()
    before = peak()
    seconds = []
    for _ in range(repeats):
        image.grad = text.grad = scale.grad = None
        start = time.perf_counter()
        loss(image, text, scale).backward()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "memory": peak() - before}


def in_fresh_process(form: str, size: int, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, form, str(size), str(repeats)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def gradient_difference(size: int = 2048) -> float:
    """Largest relative difference of the gradients of the two forms."""
    found = []
    for form in ("ours", "open_clip"):
        values = inputs(size)
        loss_of(form, size)(*values).backward()
        found.append([v.grad for v in values])
    return max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))


def rows(rounds: int = 3) -> list[dict]:
    """The rows of bench/results.json that this file answers for."""
    runs = {form: [in_fresh_process(form, 16384, 2) for _ in range(rounds)] for form in FORMS}
    seconds = {form: statistics.median(r["seconds"] for r in runs[form]) for form in FORMS}
    memory = {form: statistics.median(r["memory"] for r in runs[form]) for form in FORMS}
    large = in_fresh_process("ours", 65536, 1)["memory"]
    difference = gradient_difference()

    def row(name: str, ratio: float, bar: float, detail: str) -> dict:
        return {
            "name": name,
            "ratio": float(f"{ratio:.3g}"),
            "bar": f"<= {bar:.4g}",
            "holds": ratio <= bar,
            "detail": detail,
        }

    return [
        row(
            "contrastive loss, 16,384 x 512: memory",
            memory["ours"] / memory["open_clip"],
            1 / 24,
            f"{memory['ours'] / 1e6:.0f} MB against {memory['open_clip'] / 1e6:.0f} MB",
        ),
        row(
            "contrastive loss, 16,384 x 512: time",
            seconds["ours"] / seconds["open_clip"],
            0.8,
            f"{seconds['ours']:.2f} s against {seconds['open_clip']:.2f} s",
        ),
        row("contrastive loss: relative difference of gradients", difference, 1e-5, "2,048 x 512 against ClipLoss"),
        row("contrastive loss, 65,536 against 16,384: memory", large / memory["ours"], 4.5, f"{large / 1e6:.0f} MB"),
        row(
            "multi-positive targets against single: time",
            seconds["ours-labels"] / seconds["ours"],
            1.3,
            "100 label sets in the batch, all findings known",
        ),
        row(
            "multi-positive targets with masked pairs against single: time",
            seconds["ours-masked"] / seconds["ours"],
            1.3,
            "100 label sets in the batch, no finding known but the one present",
        ),
    ]


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        for line in rows():
            print(json.dumps(line))
