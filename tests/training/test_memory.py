"""Freed blocks stay with a process that trains."""

import os
import subprocess
import sys

import pytest

from recbole_prism.training import memory

FAULTS = """
import resource, sys
import torch
from recbole_prism.training.memory import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory()
def use():
    torch.zeros(8, 1 << 20)  # 32 MiB and more by default are mapped anew each time
    torch.zeros(64, 1 << 20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment) -> tuple[bool, int]:
    """Whether memory is kept in a new process, and the pages it gets in using 288 MiB five times."""
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    return answer[0] == "True", int(answer[1])


@pytest.mark.skipif(memory.platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_blocks_that_were_freed_are_used_again():
    kept, few = faults()
    left, many = faults(MALLOC_TRIM_THRESHOLD_="131072")  # somebody has other wishes
    assert (kept, left) == (True, False)
    assert few < many / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
