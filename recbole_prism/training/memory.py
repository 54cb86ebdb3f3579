"""Freed memory stays with the process, where the C library is glibc.

glibc returns large freed blocks to the system, and each step of a training gets them again page by page, filled with
zeros: for rows with their padding that is up to half of a step (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # options of mallopt, as malloc.h numbers them
KEPT = 1 << 30  # bytes; blocks up to this size, and so much at the end of the heap


def keep_freed_memory() -> bool:
    """Whether it is kept now: with glibc, unless the environment sets these thresholds."""
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")):
        return False
    return set_thresholds(KEPT, KEPT)


def set_thresholds(mmap: int, trim: int) -> bool:
    """Bytes from which blocks are mapped by themselves, and of free heap that are given back; False without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(MMAP_THRESHOLD, mmap) and library.mallopt(TRIM_THRESHOLD, trim))
