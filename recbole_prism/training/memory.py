"""Freed memory stays with the process, where the C library is glibc.

glibc returns large freed blocks to the system, and each step of a training gets them again page by page, filled with
zeros: for rows with their padding that is up to half of a step (docs/performance.md). Blocks of sizes that differ from
step to step fit into few of the holes that others left, so there is a bound on what is kept.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from torch.optim import Optimizer

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # options of mallopt, as malloc.h numbers them
KEPT = 1 << 30  # bytes; blocks up to this size, and so much at the end of the heap
HELD = 2 << 30  # bytes; what a process may grow by before all that is free is given back


def keep_freed_memory(optimizer: Optimizer | None = None) -> bool:
    """Whether it is kept now: with glibc, unless the environment sets these thresholds.

    After a step of ``optimizer`` it is given back where it has become too much.
    """
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")):
        return False
    if not set_thresholds(KEPT, KEPT):
        return False
    if optimizer is not None and RESIDENT.is_file():
        optimizer.register_step_post_hook(Bound())
    return True


class Bound:
    """Gives all free memory back whenever more than ``HELD`` has come since the last time."""

    def __init__(self) -> None:
        self.lived = resident()

    def __call__(self, *step) -> None:
        if resident() - self.lived > HELD:
            ctypes.CDLL(None).malloc_trim(0)
            self.lived = resident()


RESIDENT = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def set_thresholds(mmap: int, trim: int) -> bool:
    """Bytes from which blocks are mapped by themselves, and of free heap that are given back; False without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(MMAP_THRESHOLD, mmap) and library.mallopt(TRIM_THRESHOLD, trim))
