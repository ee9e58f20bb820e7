"""What the C library does with memory that is freed: it keeps it, for every update asks for the same again."""

from __future__ import annotations

import ctypes
import platform

# glibc's mallopt: by default large blocks go back to the system when freed, and pages that are given anew cost a
# fault each, a tenth to a sixth of an update of the published T-Maze.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT, STEP, LARGEST_KEPT = 2**30, 2**26, 2**25  # bytes; glibc allows no more than the last


def keep_freed_memory() -> bool:
    """Keep up to a gigabyte of freed memory in this process and what it forks; false where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    options = {MMAP_THRESHOLD: LARGEST_KEPT, TRIM_THRESHOLD: KEPT, TOP_PAD: STEP}
    return all(library.mallopt(option, value) for option, value in options.items())
