"""Freed memory stays with the process: taking the same large block again costs no page faults."""

import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from medweave import memory
if {keep}:
    memory.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(20_000_000)
before = faults()
for _ in range(20):
    torch.ones(20_000_000)
print(faults() - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_blocks_are_kept():
    assert faults(True) < 0.5 * faults(False)
