"""The loop against its own arithmetic, padding by length against padding to the context, the loader against stock.

Each measurement runs in a fresh process, the two sides in turns, so that other work on the machine meets both alike.
Lite0 at 128 px, batches of 64, MiniLM; JPEGs of 512 px.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, SIDE, BATCH, CONTEXT, SENTENCES = 512, 512, 64, 256, 16
ROUNDS, STEPS = 3, 4


def write_corpus(folder: Path) -> dict[str, Any]:
    """The `corpus:` section of a built corpus of JPEGs with labels and reports of one to SENTENCES sentences.

    The sentences are captions of the banks; half of the reports have more than 40 words, as collections of radiographs
    with their reports do.
    """
    from PIL import Image, ImageFilter

    from medweave.corpus.build import build
    from medweave.corpus.captions.bank import Bank
    from medweave.corpus.recipe import CorpusRecipe

    draw = np.random.default_rng(0)
    bank, classes = Bank.load(), ("normal", "pneumonia")
    sentences = {name: bank.captions("xray", "chest", name) for name in classes}
    (folder / "images").mkdir()
    with (folder / "images" / "manifest.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels", "caption"])
        for number in range(IMAGES):
            rough = Image.fromarray(draw.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
            rough.filter(ImageFilter.GaussianBlur(1.2)).save(folder / "images" / f"{number}.jpg", quality=90)
            length = min(SENTENCES, 1 + int(draw.gamma(2, 2)))
            caption = " ".join(draw.choice(sentences[classes[number % 2]], length))
            rows.writerow([f"{number}.jpg", classes[number % 2], caption])
    source = {"kind": "folder", "name": "bench", "path": str(folder / "images"), "manifest": "manifest.csv"}
    source |= {"columns": {"labels": "labels", "caption": "caption"}, "modality": "xray", "anatomy": "chest"}
    tree = {"path": str(folder / "corpus"), "sources": [source], "accept": ["unknown"]}
    tree |= {"groups": {"near": {"search": False}}, "split": {"train": 0.96, "validation": 0.02, "test": 0.02}}
    build(CorpusRecipe.model_validate(tree))
    return tree


def work_of(corpus: dict[str, Any], *, frozen: bool, own: float = 0.25, context: int = 64, **settings: Any) -> Any:
    """A prepared run. settings: more of its train section."""
    from medweave.training.distributed import start
    from medweave.training.recipe import Recipe
    from medweave.training.run import Run
    from medweave.training.work import data_of, prepare

    image = {"tower": "timm:tf_efficientnet_lite0", "size": 128, "resize": "squash"}
    text = {"tower": "offline:minilm", "context": context, "freeze": frozen}
    train = {"run": str(Path(corpus["path"]).parent / "run"), "steps": ROUNDS * (STEPS + 2) * 2, "batch": BATCH}
    train |= {"captions": {"sources": {"bench": {"own": own, "bank": 1 - own}}}} | settings
    tree = {"corpus": corpus, "model": {"image": image, "text": text, "embed": 256}, "train": train}
    recipe, ranks = Recipe.model_validate(tree), start()
    return prepare(recipe, Run(recipe.train.run), data_of(recipe, ranks), ranks)


def in_turns(ours: Callable[[], float], other: Callable[[], float]) -> dict[str, float]:
    """Median seconds of both over some rounds, after one round that warms up."""
    ours(), other()
    pairs = [(ours(), other()) for _ in range(ROUNDS)]
    return {"ours": statistics.median(a for a, _ in pairs), "other": statistics.median(b for _, b in pairs)}


def whole_loop(work: Any) -> Callable[[], float]:
    """A function to seconds a step of the whole loop of a prepared run."""
    from medweave.training.kept import learn
    from medweave.training.loader import batches
    from medweave.training.loop import one_step

    learn(work)
    shares = batches(work.loader, 0, work.settings.total_steps, 1, pin=False)

    def whole() -> float:
        for _ in range(2):  # what was made ready while the other side ran is used up
            one_step(work, next(shares)[0])
        start = time.perf_counter()
        for _ in range(STEPS):
            share, _ = next(shares)
            made = one_step(work, share)
            work.counts.add(share)
            work.step += 1
        made.losses["contrastive"].item()
        return (time.perf_counter() - start) / STEPS

    return whole


def loop(corpus: dict[str, Any], frozen: bool) -> dict[str, float]:
    """Seconds a step: the whole loop, and forward + backward + optimiser step on one batch in memory."""
    import torch
    from open_clip.loss import ClipLoss

    work = work_of(corpus, frozen=frozen)
    whole = whole_loop(work)
    micro, model, criterion = work.loader[0].micros[0], work.model, ClipLoss()
    pixels = (micro.pixels.movedim(-1, 1).float() - work.towers.mean) / work.towers.std
    kept = model.project_text(work.towers.pooled(micro.texts)).detach() if frozen else None
    parameters = list(model.clip.visual.parameters()) if frozen else list(model.parameters())
    optimiser = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-6, fused=True)

    def plain() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            text = kept if frozen else work.towers.text(micro, None)
            criterion(model.encode_image(pixels), text, model.logit_scale.exp().detach()).backward()
            optimiser.step()
            optimiser.zero_grad()
        return (time.perf_counter() - start) / STEPS

    return in_turns(whole, plain)


def padding(corpus: dict[str, Any]) -> dict[str, float]:
    """Seconds a training step at context 256: texts in length buckets, and all padded to the context."""
    from dataclasses import replace

    import torch

    from medweave.training.kept import learn
    from medweave.training.loader import Bucket
    from medweave.training.loop import one_step

    work = work_of(corpus, frozen=False, own=0.5, context=CONTEXT)
    learn(work)
    shares = [work.loader[0]]
    whole = []
    for share in shares:
        (micro,) = share.micros
        tokens = work.model.tokenize.padded(micro.texts)
        whole.append(replace(share, micros=[replace(micro, buckets=[Bucket(torch.arange(BATCH), tokens)])]))

    def steps(of: list[Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            for share in of:
                one_step(work, share)
            return (time.perf_counter() - start) / len(of)

        return run

    return in_turns(steps(shares), steps(whole))


def loading(corpus: dict[str, Any], size: int = 224) -> dict[str, float]:
    """CPU seconds an image in one process: our loader, and webdataset with open_clip's train transform."""
    import open_clip
    import torch
    import webdataset
    from open_clip.transform import image_transform_v2

    from medweave.corpus.store import open_corpus
    from medweave.training.loader import Look, Steps

    torch.set_num_threads(1)
    work = work_of(corpus, frozen=False)
    own = work.loader
    look = Look(size, "crop", own.look.augment)
    steps = Steps(own.corpus, own.order, own.captions, look, own.tokenize, work.ranks, 1)
    config = open_clip.transform.PreprocessCfg(size=size)
    transform = image_transform_v2(config, is_train=True)
    folder = open_corpus(corpus["path"]).path / "shards"
    shards = sorted(str(path) for path in folder.glob("*-train-*.tar"))

    def stock() -> Iterator[Any]:
        tokenize = work.model.tokenize.padded
        data = (
            webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
            .decode("pilrgb")
            .rename(image="jpg", text="txt")
        )
        data = data.map_dict(image=transform, text=lambda text: tokenize([text])[0]).to_tuple("image", "text")
        return iter(data.batched(BATCH, partial=False))

    def timed(make: Callable[[int], Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.process_time()
            for step in range(STEPS):
                make(step)
            return (time.process_time() - start) / (STEPS * BATCH)

        return run

    def endless() -> Iterator[Any]:
        while True:
            yield from stock()

    stream = endless()
    return in_turns(timed(lambda step: steps[step]), timed(lambda _: next(stream)))


MEASURES = {
    "loop": lambda corpus: loop(corpus, frozen=False),
    "cached": lambda corpus: loop(corpus, frozen=True),
    "padding": padding,
    "loading": loading,
}


def in_fresh_process(name: str, corpus: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.training", name, json.dumps(corpus)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def rows() -> list[dict]:
    """The rows of bench/results.json that this file answers for."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder))
        found = {name: in_fresh_process(name, corpus) for name in MEASURES}
    titles = {
        "loop": ("whole loop against its arithmetic in memory: images a second", 0.92),
        "cached": ("whole loop, cached text tower, against the image tower alone: images a second", 0.85),
        "loading": ("loader against webdataset + open_clip's train transform: images a CPU second", 2.0),
        "padding": ("step at context 256, padded by length against padded to the context", 1.4),
    }
    scale = {"loop": BATCH, "cached": BATCH, "padding": BATCH, "loading": 1}
    result = []
    for name, (title, bar) in titles.items():
        ours, other = found[name]["ours"], found[name]["other"]
        detail = f"{scale[name] / ours:.0f} against {scale[name] / other:.0f} images/s"
        ratio = other / ours
        result.append(
            {"name": title, "ratio": round(ratio, 3), "bar": f">= {bar}", "holds": ratio >= bar, "detail": detail}
        )
    return result


if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](json.loads(sys.argv[2]))))
