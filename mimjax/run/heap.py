"""The memory that updates on a CPU take: kept from one to the next, in huge pages.

It is the GNU C library that is asked, on Linux; elsewhere nothing happens.
"""

import ctypes
import mmap
import os
from typing import Any

# Parameters of mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def function(name: str) -> Any:
    """A function of the C library's; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def keep() -> None:
    """Lets the process keep the memory of an update for the next.

    The C library gives large blocks back at once, and the system then clears every page
    of them anew: 15 to 24 % of the CPU time of small models.
    """
    mallopt = function("mallopt")
    if mallopt:
        mallopt(M_MMAP_MAX, 0)  # no block apart
        mallopt(M_TRIM_THRESHOLD, -1)  # nothing at the end is given back
        enlarge()


def enlarge() -> None:
    """Has the heap's next pages be of 2 MiB, half as many as the machine could hold.

    None of them is taken yet. Of pages of 4 KiB an update needs half a million, more
    than a processor can keep track of: MAE-S takes 8 % longer. Where the system grants
    huge pages to all who ask or to none, this changes nothing.
    """
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    malloc, free, madvise = map(function, ("malloc", "free", "madvise"))
    malloc.restype = ctypes.c_void_p
    block = malloc(ctypes.c_size_t(size))
    if block and hasattr(mmap, "MADV_HUGEPAGE"):
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        length = block + size - start
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    free(ctypes.c_void_p(block))


def give_back() -> None:
    """Gives back what a compiler has left free: hundreds of megabytes.

    It is in pieces too small for an update, which would take its memory on top of them.
    """
    trim = function("malloc_trim")
    if trim:
        trim(ctypes.c_size_t(0))
        enlarge()  # the end of the heap is gone too
