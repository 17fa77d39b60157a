"""Building a corpus of JPEGs with two workers, against one process that does the same checks with Pillow and tarfile.

Both check the header, decode every picture to its end, hash it (sha256 and DCT), and write tars and a Parquet index.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, SIDE, SHARD, ROUNDS, BAR = 4000, 512, 500, 3, 1.6


def write_images(folder: Path) -> None:
    """JPEGs of 512 px and about 80 KB, one in 200 truncated, with a manifest."""
    from PIL import Image, ImageFilter

    generator = np.random.default_rng(0)
    rough = [Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(4)]
    with (folder / "manifest.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels"])
        for number in range(IMAGES):
            picture = rough[number % 4].rotate(90 * (number // 4 % 4)).filter(ImageFilter.GaussianBlur(1.2))
            picture.putpixel((number % SIDE, number // SIDE), (255, 255, 255))
            data = io.BytesIO()
            picture.save(data, "JPEG", quality=90)
            data.truncate(len(data.getvalue()) // 2 if number % 200 == 7 else None)
            (folder / f"{number:05}.jpg").write_bytes(data.getvalue())
            rows.writerow([f"{number:05}.jpg", ("normal", "pneumonia")[number % 2]])


def ours(folder: Path, out: Path) -> int:
    """The images stored by `medweave build`."""
    from medweave.corpus.build import build
    from medweave.corpus.recipe import CorpusRecipe

    source = {"kind": "folder", "path": str(folder), "manifest": "manifest.csv", "columns": {"labels": "labels"}}
    tree = {"path": str(out), "sources": [source | {"modality": "xray", "anatomy": "chest"}], "accept": ["unknown"]}
    tree |= {"workers": 2, "shard": SHARD, "groups": {"near": {"search": False}}}
    return len(build(CorpusRecipe.model_validate(tree)))


def loop(folder: Path, out: Path) -> int:
    """The images stored by the loop that one would write: Pillow, tarfile, one process."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir()
    index = []
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.random.default_rng(0).shuffle(rows)
    for number, start in enumerate(range(0, len(rows), SHARD)):
        with tarfile.open(out / f"train-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            index += [add(tar, folder, row) for row in rows[start : start + SHARD]]
    index = [row for row in index if row]
    pq.write_table(pa.Table.from_pylist(index), out / "index.parquet")
    return len(index)


def add(tar: tarfile.TarFile, folder: Path, row: dict) -> dict | None:
    """Write one sample; its row of the index, None for a bad image."""
    data = (folder / row["path"]).read_bytes()
    facts = checked(data)
    if facts is None:
        return None
    row = row | facts | {"offset": tar.offset + 512, "length": len(data)}
    for suffix, content in (("jpg", data), ("txt", row["labels"].encode()), ("json", json.dumps(row).encode())):
        member = tarfile.TarInfo(f"{Path(row['path']).stem}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return row


def checked(data: bytes) -> dict | None:
    """Size and hashes of a sound JPEG; None for another file."""
    from PIL import Image
    from scipy.fft import dctn

    try:
        picture = Image.open(io.BytesIO(data))
        width, height = picture.size
        if width * height > 100_000_000 or max(width, height) > 20 * min(width, height):
            return None
        grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BICUBIC), float)
    except OSError:
        return None
    low = dctn(grey)[:8, :8].ravel()
    bits = np.packbits(low > np.median(low[1:])).tobytes().hex()
    return {"width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest(), "phash": bits}


def timed(form: str, folder: Path) -> float:
    """Seconds of one build in a fresh process, imports left out."""
    return float(
        subprocess.check_output([sys.executable, "-m", "bench.build", form, str(folder)], stderr=subprocess.DEVNULL)
    )


def measure(form: str, folder: Path) -> float:
    import scipy.fft  # noqa: F401

    import medweave.corpus.build  # noqa: F401

    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        stored = {"ours": ours, "loop": loop}[form](folder, Path(out) / "corpus")
        seconds = time.perf_counter() - start
    assert stored == IMAGES - IMAGES // 200
    return seconds


def rows() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        seconds = [[timed(form, Path(folder)) for form in ("loop", "ours")] for _ in range(ROUNDS)]
    theirs, mine = (statistics.median(times) for times in zip(*seconds, strict=True))
    return [
        {
            "name": "build with two workers against a Pillow and tarfile loop, images/s",
            "ratio": round(theirs / mine, 4),
            "bar": f">= {BAR}",
            "holds": theirs / mine >= BAR,
            "detail": f"{IMAGES / mine:.0f} images/s against {IMAGES / theirs:.0f}, JPEGs of {SIDE} px",
        }
    ]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], Path(sys.argv[2])))
    else:
        print(json.dumps(rows()[0]))
