"""What this machine has and lacks for Medweave: each line PASS, WARN or FAIL, with what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medweave.cores import cores
from medweave.models.offline import PACKAGES

OFFLINE_PACKAGES = tuple(PACKAGES.values())


@dataclass(frozen=True)
class Check:
    """One finding of the doctor. state: PASS, WARN or FAIL."""

    state: str
    what: str
    found: str
    todo: str = ""


def checks() -> list[Check]:
    """All checks, in reading order."""
    libraries = list(_libraries())
    device = [_device()] if libraries[0].state == "PASS" else []
    return [_python(), *libraries, *device, _memory(), _disk(), _towers()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Check("PASS" if good else "FAIL", "Python", version, "" if good else "install Python 3.11 or newer")


def _libraries() -> Iterator[Check]:
    for name in ("torch", "torchvision", "open_clip", "timm", "transformers", "pyarrow", "simplejpeg", "pydicom"):
        try:
            version = getattr(importlib.import_module(name), "__version__", "installed")
            yield Check("PASS", name, version)
        except Exception as error:
            yield Check("FAIL", name, f"{type(error).__name__}: {error}", "run `make install` again")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("PASS", "device", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    return Check("PASS", "device", f"CPU, {cores()} cores", "small recipes run; large ones want a GPU")


def _memory() -> Check:
    free = _available() / 2**30
    low = free < 4
    return Check("WARN" if low else "PASS", "free memory", f"{free:.1f} GiB", "close other programs" if low else "")


def _available() -> int:
    """Bytes that programs can have: what is free, and what the system keeps of files that were read."""
    facts = Path("/proc/meminfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    low = free < 5
    return Check("WARN" if low else "PASS", "free disk here", f"{free:.0f} GiB", "free some space" if low else "")


def _towers() -> Check:
    missing = [name for name in OFFLINE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Check("WARN", "offline towers", f"missing: {', '.join(missing)}", "install the extra: medweave[offline]")
    return Check("PASS", "offline towers", "EfficientNet-Lite0, 1, 2 and MiniLM")
