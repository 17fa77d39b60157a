"""Memory of a reading worker: a corpus of 5,000,000 samples against one of 50,000, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FEW, MANY, BAR = 50_000, 5_000_000, 1.2
SHARD, SOURCES, BATCH, STEPS = 1000, 20, 64, 2000


def write_corpus(folder: Path, samples: int) -> None:
    """A corpus of `samples` rows in 20 sources. All its shards are one small tar under many names."""
    from medweave.corpus.shards import PLANNED, Item, write_shard
    from medweave.corpus.store import FORMAT, PLACES

    row = dict.fromkeys(PLANNED.names) | {"findings": [{"name": "normal", "state": "present"}]}
    items = (Item(row | {"id": f"s/{n}"}, "A caption.", bytes(2000), "jpg", 8, 8, 0) for n in range(SHARD))
    shard = write_shard(folder / "shards" / "0.tar", items)
    names = [f"{number:05d}.tar" for number in range(samples // SHARD)]
    for name in names:
        (folder / "shards" / name).hardlink_to(folder / "shards" / "0.tar")
    places = np.empty(samples, PLACES)
    places["shard"] = np.arange(samples) // SHARD
    places["offset"] = np.tile([r["offset"] for r in shard.rows], len(names))
    places["length"] = 2000
    places["stratum"] = np.arange(samples) * SOURCES // samples
    np.save(folder / "places.npy", places)
    entry = {"samples": SHARD, "bytes": shard.bytes, "sha256": shard.sha256, "content": shard.content}
    strata = [
        {"source": f"s{n}", "split": "train", "modality": "ct", "samples": samples // SOURCES} for n in range(SOURCES)
    ]
    facts = {"format": FORMAT, "hash": "none", "samples": samples, "strata": strata, "banks": {}}
    facts["shards"] = [{"name": name} | entry for name in names]
    (folder / "corpus.json").write_text(json.dumps(facts))


def read(folder: Path) -> None:
    """What a worker does: order, pixels, fields. Prints its peak memory in bytes."""
    from medweave.corpus.order import Order, power_weights
    from medweave.corpus.store import open_corpus
    from medweave.corpus.views import split_view, strata_of

    corpus = open_corpus(folder)
    strata = list(strata_of(corpus, split_view(corpus, "train"), by="source").values())
    order = Order(strata, power_weights(strata, 0.5), BATCH, seed=0)
    for step in range(STEPS):
        for number in order.numbers(step):
            corpus.read(int(number))
            corpus.fields(int(number))
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent of a new process in
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def peak(samples: int) -> int:
    """Peak memory of a fresh process that reads a corpus of so many samples, bytes."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), samples)
        return int(subprocess.check_output([sys.executable, __file__, "read", folder]))


def rows() -> list[dict]:
    few, many = peak(FEW), peak(MANY)
    return [
        {
            "name": "memory of a reading worker, 5 M rows of index against 50,000",
            "ratio": round(many / few, 4),
            "bar": f"<= {BAR}",
            "holds": many / few <= BAR,
            "detail": f"{many / 2**20:.0f} MB against {few / 2**20:.0f} MB, {STEPS * BATCH:,} samples read",
        }
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        read(Path(sys.argv[2]))
    else:
        print(json.dumps(rows()[0]))
