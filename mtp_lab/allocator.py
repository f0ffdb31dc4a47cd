"""Keeps freed memory in the process, where glibc would hand large blocks back to the kernel after every step.

A training step frees and asks again for the same hundreds of megabytes; each round through the kernel clears them page
by page. On Linux with glibc this alone is worth 1.3 to 1.7 times the speed at our sizes; elsewhere it does nothing.
"""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
GIBIBYTE = 1 << 30


@cache
def keep_memory() -> bool:
    """Raises glibc's thresholds once; returns whether there was a glibc that took them."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    wanted = {M_MMAP_THRESHOLD: GIBIBYTE, M_TRIM_THRESHOLD: GIBIBYTE, M_TOP_PAD: GIBIBYTE // 16}
    return all([mallopt(option, value) == 1 for option, value in wanted.items()])
