"""Memory of preparing training data in a trainer: an index of 2,000,000 samples against one of 50,000.

Half of the sources label eight findings, the others have captions only. Fresh processes. Folds are for small
collections: those here are dealt at random, so that every second sample begins a range of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEW, MANY, BAR = 50_000, 2_000_000, 24
SOURCES, FINDINGS, FOLDS, ROW_GROUP = 20, 8, 5, 65_536
SHARES = {"test": 0.1, "train": 0.8, "validation": 0.1}
PARTS = {"splits": {}, "folds": {"overlay": "folds", "fold": 1}}


def write_corpus(folder: Path, samples: int) -> None:
    """A corpus without shards: corpus.json, index.parquet, places.npy and folds of all samples."""
    from medweave.corpus.shards import INDEX
    from medweave.corpus.store import FORMAT, PLACES

    strata = [
        {"source": f"s{n:02}", "split": split, "modality": "ct", "samples": round(samples / SOURCES * share)}
        for n in range(SOURCES)
        for split, share in SHARES.items()
    ]
    draw, first = np.random.default_rng(0), 0
    with pq.ParquetWriter(folder / "index.parquet", INDEX, compression="zstd") as file:
        for number, stratum in enumerate(strata):
            rows = _rows(stratum, first, FINDINGS if number // len(SHARES) % 2 else 0, draw)
            file.write_table(rows, row_group_size=ROW_GROUP)
            first += stratum["samples"]
    places = np.zeros(first, PLACES)
    places["stratum"] = np.repeat(np.arange(len(strata)), [stratum["samples"] for stratum in strata])
    np.save(folder / "places.npy", places)
    facts = {"format": FORMAT, "hash": "none", "samples": first, "strata": strata, "banks": {}, "shards": []}
    (folder / "corpus.json").write_text(json.dumps(facts | {"recipe": {"sources": []}, "licences": []}))
    ids = pq.read_table(folder / "index.parquet", columns=["id"])["id"].take(pa.array(draw.permutation(first)))
    fold, inner = (pa.array(draw.integers(0, FOLDS, first), pa.int8()) for _ in range(2))
    (folder / "overlays").mkdir()
    pq.write_table(pa.table({"id": ids, "fold": fold, "inner": inner}), folder / "overlays" / "folds.parquet")


def _rows(stratum: dict, first: int, findings: int, draw: np.random.Generator) -> pa.Table:
    """Rows of the index: one finding of so many is present."""
    from medweave.corpus.shards import INDEX

    count = stratum["samples"]
    numbers = range(first, first + count)
    present = np.arange(findings) == draw.integers(0, max(1, findings), count)[:, None]
    state = pa.array(np.where(present, "present", "absent").ravel(), pa.string())
    name = pa.array([f"finding {n}" for n in range(findings)] * count, pa.string())
    columns = {column: pa.array([stratum[column]] * count) for column in ("source", "split", "modality")} | {
        "id": pa.array([f"{stratum['source']}/images/{n:09}" for n in numbers]),
        "group": pa.array([f"{stratum['source']}/{n // 3}" for n in numbers]),
        "sha256": pa.array([f"{n:064x}" for n in numbers]),
        "findings": pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1) * findings, pa.int32()),
            pa.StructArray.from_arrays([name, state], ["name", "state"]),
        ),
    }
    return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in INDEX], schema=INDEX)


def prepare(folder: str, part: str) -> None:
    """What a trainer's main process does before its model. Prints the bytes that it took at most."""
    from medweave.corpus.captions.bank import Bank
    from medweave.training.distributed import start
    from medweave.training.recipe import Recipe, section
    from medweave.training.validate import exam_of
    from medweave.training.work import data_of

    train = {"run": "none", "corpus": folder, "steps": 1, "data": PARTS[part]}
    recipe, ranks = Recipe.model_validate({"train": train}), start()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of imports
    data = data_of(recipe, ranks)
    data.hashes()
    kept = data.findings, exam_of(data.corpus, section(recipe, "train"), Bank.load(), data.labels.known, recipe.seed)
    print(_memory("VmHWM") - before if kept else 0)


def _memory(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def rows() -> list[dict]:
    took: dict[tuple[str, int], int] = {}
    for samples in (FEW, MANY):
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder), samples)
            for part in PARTS:
                command = [sys.executable, __file__, "prepare", folder, part]
                took[part, samples] = int(subprocess.check_output(command).splitlines()[-1])
    return [_row(part, took[part, FEW], took[part, MANY]) for part in PARTS]


def _row(part: str, few: int, many: int) -> dict:
    each = (many - few) / (MANY - FEW)
    held = {"bar": f"<= {BAR}", "holds": each <= BAR} if part == "splits" else {"bar": "report", "holds": None}
    return {
        "name": f"bytes a sample that preparing training data by {part} takes, 2 M rows of index against 50,000",
        "ratio": round(each, 1),
        **held,
        "detail": f"{many / 2**20:.0f} MB against {few / 2**20:.0f} MB at most, above what imports took",
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(*sys.argv[2:])
    else:
        print(json.dumps(rows(), indent=1))
