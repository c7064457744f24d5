"""Keeps the process small: gives back to the system what the allocator holds after a load or a large request.

Knows neither requests nor models. Outside glibc, each call does nothing.
"""

import ctypes

_M_MMAP_THRESHOLD = -3
"""malloc.h's name for the size from which a block is a mapping of its own."""
MMAP_BYTES = 1 << 20
"""Blocks of this size go back as soon as they are freed. Left alone, glibc raises its threshold to the largest block it
has seen freed, up to 32 MiB, and copies of bodies and prompts then stay in the heap."""

_libc = ctypes.CDLL(None)


def bound_heap() -> None:
    """Once, at the start of a process."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)


def trim() -> None:
    """Give back every free page, also in mid-heap; some milliseconds for each 100 MB, without the GIL."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
