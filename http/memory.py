"""Keeps the process small and its collector quiet: gives back to the system what the allocator holds after a load or a
large request, and has garbage looked for where there may be some.

Knows neither requests nor models. Outside glibc, nothing is given back.
"""

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
"""malloc.h's name for the size from which a block is a mapping of its own."""
MMAP_BYTES = 1 << 20
"""Blocks of this size go back as soon as they are freed. Left alone, glibc raises its threshold to the largest block it
has seen freed, up to 32 MiB, and copies of bodies and prompts then stay in the heap."""

YOUNG_OBJECTS = 20_000
"""So many new containers before the collector looks for cycles among them, some 0.5 ms: a busy front's tokens are
thousands of them at a time, and none is in a cycle. Python's own 700 took a third of its time (measured)."""

_libc = ctypes.CDLL(None)


def bound_heap() -> None:
    """Once, at the start of a process."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)


def trim() -> None:
    """Give back every free page, also in mid-heap; some milliseconds for each 100 MB, without the GIL."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def spare_collector() -> None:
    """Once all that stays is there: the modules' 150,000 objects, 0.1 s each time, are not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
