"""The C library's allocator, told to keep memory that training will ask for again.

On Linux glibc gives blocks of more than 32 MB, and the top of its heap, back to the system as soon as they are freed.
The activations of the next step are then new pages, each of which costs a page fault. What that takes of a training
step stands in docs/performance.md; `benchmarks/allocator.py` measures it.
"""

import ctypes
import os
import platform
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
MALLOPT = (
    (M_MMAP_THRESHOLD, 1 << 30),  # bytes; smaller blocks come from the heap
    (M_TRIM_THRESHOLD, -1),  # never make the heap smaller
    (M_TOP_PAD, 256 << 20),  # bytes that it grows by beyond what is asked for
)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the rest of the process; tells whether it does.

    Nothing is done under another C library or allocator (`LD_PRELOAD`), where MALLOC_ variables say what is wanted, or
    with ANYSIZE_MALLOC=0.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    wishes = " ".join(os.environ.get(name, "") for name in ("LD_PRELOAD", "GLIBC_TUNABLES"))
    if "malloc" in wishes or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    if os.environ.get("ANYSIZE_MALLOC") == "0":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in MALLOPT)
