"""Run every bench (or those named) one after the other and keep their rows in bench/results.json."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import pkgutil
import platform
import sys
from pathlib import Path

import bench

RESULTS = Path(__file__).with_name("results.json")


def machine() -> str:
    model = next(
        (line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores {model.strip() or platform.machine()}, {system}"


def main(names: list[str]) -> int:
    known = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    kept = {row["name"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    facts = {"machine": machine(), "date": datetime.date.today().isoformat()}
    for name in names or known:
        for row in importlib.import_module(f"bench.{name}").rows():
            kept[row["name"]] = row | facts
            verdict = {True: "holds", False: "MISSED", None: "report"}[row["holds"]]
            print(f"{verdict:7} {row['name']}: {row['ratio']} (bar {row['bar']}); {row['detail']}", flush=True)
            RESULTS.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    return 0 if all(row["holds"] is not False for row in kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
