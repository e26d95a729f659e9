"""Telling glibc to keep freed memory for the next step instead of handing it back to the kernel."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt (glibc's malloc.h)."""
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make allocations of any size come from the heap, and the heap never shrink; whether the C library took it.

    A training step frees and takes the same tensors every time. By default glibc maps those of 32 MB and more anew, and
    gives freed memory back, so the kernel zeroes and maps 40,000 pages in each step of small on a CPU: 8% of its time.
    The price is that what the process once held stays its own. Settings of the environment (``MALLOC_...``) and other
    allocators are left alone.
    """
    return _set(mapped=1 << 30, trimmed=_LARGEST)


def give_back_freed_memory() -> bool:
    """Undo `keep_freed_memory`: the thresholds that glibc's own adjustment ends at in a process that frees much."""
    return _set(mapped=32 << 20, trimmed=64 << 20)


def _set(mapped: int, trimmed: int) -> bool:
    """Sizes from which allocations are mapped apart, and from which the heap's free end is given back (bytes)."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, mapped) and mallopt(_TRIM_THRESHOLD, trimmed))
