"""Stored rows: bytes, reading against per-sample files in MMKD-CLIP's layout, and the memory of making them.

Nine teachers have one layout, so one is stored and counted nine times. Rows are 512 wide, a corpus has shards of 1,000.
Its shards are one under many names, and what is judged of them repeats: covered.parquet takes up to a byte a sample and
teacher more where it does not.
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

import numpy as np

TEACHERS, WIDTH, SHARD = 9, 512, 1000
BYTES = TEACHERS * 2 * WIDTH * 2 + 64
KEPT, BATCH, STEPS, READ_BY = 6, 64, 40, 20.0  # teachers of a sample in the reference's files; batches read
FEW, SOME, MANY, MEMORY = 2_000, 20_000, 200_000, 1.2


def write_corpus(folder: Path, samples: int) -> None:
    """A corpus of small images with a text of its own each. All its shards are one tar under many names."""
    import io

    from PIL import Image

    from medweave.corpus.shards import PLANNED, Item, write_shard
    from medweave.corpus.store import FORMAT, PLACES

    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "JPEG")
    row = dict.fromkeys(PLANNED.names) | {"findings": []}
    texts = ([{"kind": "caption", "text": f"Small picture {n}."}] for n in range(SHARD))
    rows = (row | {"id": f"s/{n}", "texts": text} for n, text in enumerate(texts))
    items = (Item(row, "A caption.", file.getvalue(), "jpg", 8, 8, 0) for row in rows)
    shard = write_shard(folder / "shards" / "0.tar", items)
    names = [f"{number:05d}.tar" for number in range(samples // SHARD)]
    for name in names:
        (folder / "shards" / name).hardlink_to(folder / "shards" / "0.tar")
    places = np.zeros(samples, PLACES)
    places["shard"] = np.arange(samples) // SHARD
    places["offset"] = np.tile([r["offset"] for r in shard.rows], len(names))
    places["length"] = len(file.getvalue())
    np.save(folder / "places.npy", places)
    entry = {"samples": SHARD, "bytes": shard.bytes, "sha256": shard.sha256, "content": shard.content}
    strata = [{"source": "s", "split": "train", "modality": "ct", "samples": samples}]
    facts: dict[str, Any] = {"format": FORMAT, "hash": "none", "samples": samples, "strata": strata, "banks": {}}
    facts["shards"] = [{"name": name} | entry for name in names]
    facts["recipe"] = {"limits": {}}
    (folder / "corpus.json").write_text(json.dumps(facts))


def teacher() -> Any:
    """An encoder of two small towers."""
    import torch
    from open_clip.tokenizer import SimpleTokenizer
    from torch.nn import functional

    from medweave.models.encoder import Encoder
    from medweave.models.preprocess import Preprocess
    from medweave.models.tokens import Tokens

    class Small(torch.nn.Module):
        sides, kind, logit_bias, separable, facts, dim, context = (
            ("images", "texts"),
            "softmax",
            None,
            False,
            {},
            WIDTH,
            16,
        )

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.image, self.text = torch.nn.Linear(3 * 64, WIDTH), torch.nn.EmbeddingBag(49408, WIDTH)
            self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
            self.preprocess, self.tokenize = Preprocess(size=8), Tokens(SimpleTokenizer(), self.context)

        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            return functional.normalize(self.image(pixels.flatten(1)), dim=-1)

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return functional.normalize(self.text(tokens), dim=-1)

    return Encoder(Small().requires_grad_(False).eval(), "small")


def make(folder: Path, dtype: str) -> None:
    """Extract the rows of a corpus. Prints the peak memory of this process in bytes."""
    from medweave.features.extract import extract

    extract(folder, teacher(), dtype, bank=[], dtype=dtype, workers=1)  # type: ignore[arg-type]
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def judge(folder: Path, dtype: str) -> None:
    """Write covered.parquet of the rows of a corpus."""
    from medweave.corpus.store import open_corpus
    from medweave.features.coverage import cover
    from medweave.features.store import open_features

    cover(open_features(open_corpus(folder), dtype))


def in_fresh_process(folder: Path, dtype: str) -> int:
    """Peak memory of an extraction, bytes."""
    command = [sys.executable, __file__, str(folder), dtype]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def bytes_a_sample(folder: Path, dtype: str, samples: int) -> float:
    """What nine teachers take: rows, lengths of texts, the stamp and what each sample is trusted for."""
    files = (folder / "features" / dtype).glob("[!.]*")
    return TEACHERS * sum(file.stat().st_size for file in files) / samples


def cosine_of_eight_bits() -> float:
    """Mean cosine of unit rows, some of whose numbers are far larger than the others, and what is read back of them."""
    from medweave.features.rows import decoded, encoded

    rows = np.random.default_rng(0).normal(size=(4096, WIDTH)).astype(np.float32)
    rows[:, :4] *= 10
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return float((decoded(encoded(rows, "int8")) * rows).sum(1).mean())


def write_reference(folder: Path, samples: int) -> None:
    """Per-sample folders of four files: raw and projected vectors of six teachers, a picture, an article."""
    import torch

    for number in range(samples):
        place = folder / "data_0" / f"{number:032x}"
        place.mkdir(parents=True)
        vectors = {f"T{t}{side}": torch.randn(WIDTH) for t in range(KEPT) for side in ("_img", "_txt")}
        for name in ("clips_output.pt", "clips_project_output.pt"):
            torch.save(vectors, place / name)
        (place / "figure.jpg").write_bytes(bytes(50_000))
        (place / "figure.json").write_bytes(bytes(56_000))


def reading(corpus: Path, reference: Path, dtype: str, samples: int) -> dict[str, float]:
    """Median seconds a batch: rows of six teachers here, and torch.load of the reference's files there."""
    import torch

    from medweave.corpus.store import open_corpus
    from medweave.features.store import open_features

    torch.set_num_threads(1)
    opened = open_corpus(corpus)
    teachers = [open_features(opened, dtype) for _ in range(KEPT)]
    draw, seconds = np.random.default_rng(0), {"ours": [], "other": []}
    for _ in range(STEPS):
        batches = draw.integers(0, len(opened), (KEPT, BATCH))  # of its own for each: they share files here
        start = time.perf_counter()
        for one, numbers in zip(teachers, batches, strict=True):
            one.image(numbers), one.text(numbers)
        seconds["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for number in draw.integers(0, samples, BATCH).tolist():
            torch.load(reference / "data_0" / f"{number:032x}" / "clips_project_output.pt")
        seconds["other"].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def row(name: str, ratio: float, bar: float | None, detail: str, *, least: bool = False) -> dict:
    facts = {"name": name, "ratio": round(ratio, 4), "bar": "report", "holds": None, "detail": detail}
    if bar is None:
        return facts
    return facts | {"bar": f"{'>=' if least else '<='} {bar:g}", "holds": ratio >= bar if least else ratio <= bar}


def rows() -> list[dict]:
    with tempfile.TemporaryDirectory() as work:
        few, some, many, reference = (Path(work) / name for name in ("few", "some", "many", "reference"))
        for folder, samples in ((few, FEW), (some, SOME), (many, MANY)):
            write_corpus(folder, samples)
        peaks = {folder: in_fresh_process(folder, "float16") for folder in (few, many)}
        in_fresh_process(few, "int8")
        for dtype in ("float16", "int8"):
            in_fresh_process(some, dtype)
            judge(some, dtype)
        half, byte = (bytes_a_sample(some, dtype, SOME) for dtype in ("float16", "int8"))
        write_reference(reference, 512)
        times = {dtype: reading(few, reference, dtype, 512) for dtype in ("float16", "int8")}
        times["cold"] = reading(many, reference, "float16", 512)
    cosine = cosine_of_eight_bits()
    detail = f"{half:,.0f} bytes against {BYTES:,}; image and one text, with lengths, stamp and coverage"
    read = {dtype: f"{1e3 * t['ours']:.2f} ms against {1e3 * t['other']:.1f} ms" for dtype, t in times.items()}
    what = f"reading {BATCH} samples of {KEPT} teachers"
    return [
        row("rows of nine teachers: bytes a sample", half / BYTES, 1.0, detail),
        row("rows of nine teachers in eight bits: bytes a sample", byte / BYTES, 0.5, f"{byte:,.0f} bytes"),
        row(
            "rows in eight bits: mean cosine",
            cosine,
            0.999,
            f"{cosine:.5f} over 4,096 rows with four large numbers each",
            least=True,
        ),
        row(
            f"{what}, against torch.load of the reference's files",
            times["float16"]["other"] / times["float16"]["ours"],
            READ_BY,
            read["float16"],
            least=True,
        ),
        row(f"{what} in eight bits, likewise", times["int8"]["other"] / times["int8"]["ours"], None, read["int8"]),
        row(
            f"{what} out of {MANY:,}, against 512 samples in the reference's files",
            times["cold"]["other"] / times["cold"]["ours"],
            None,
            read["cold"],
        ),
        row(
            f"memory of extraction, {MANY:,} samples against {FEW:,}",
            peaks[many] / peaks[few],
            MEMORY,
            f"{peaks[many] / 2**20:.0f} MB against {peaks[few] / 2**20:.0f} MB",
        ),
    ]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        make(Path(sys.argv[1]), sys.argv[2])
    else:
        for line in rows():
            print(json.dumps(line))
