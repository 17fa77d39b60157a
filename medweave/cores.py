"""How many processor cores there are to use: those that this process may run on, not all that the machine has."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def share_of_cores() -> int:
    """Cores for each of the processes that torchrun started on this machine, one at least; all of them without it."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
