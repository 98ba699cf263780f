"""The memory that updates on a CPU take: kept from one to the next, in huge pages.

It is the GNU C library that is asked, on Linux; elsewhere nothing happens.
"""

import ctypes
import mmap
import os
import pathlib
from typing import Any

# Parameters of mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4

OVERCOMMIT = pathlib.Path("/proc/sys/vm/overcommit_memory")


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
        # Nothing at the end is given back, or what is reserved there would be.
        mallopt(M_TRIM_THRESHOLD, -1)
        if may_reserve():
            reserve()


def may_reserve() -> bool:
    """Whether addresses alone are free here, without the memory behind them."""
    if not OVERCOMMIT.exists():
        return False
    import resource  # which Windows has not

    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        if resource.getrlimit(limit)[0] != resource.RLIM_INFINITY:
            return False
    # Two: all that is asked for is counted as if it were used.
    return OVERCOMMIT.read_text().strip() != "2"


def reserve() -> None:
    """Has the heap grow in pages of 2 MiB, up to half of the machine's memory.

    None of it is taken yet; of more than all, Linux would refuse. Of pages of 4 KiB an
    update has half a million, more than a processor can keep track of: in huge ones
    MAE-S takes 8 % less time in bfloat16. Where the system has all memory in them, or
    none, nothing changes.
    """
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    malloc, free, madvise = map(function, ("malloc", "free", "madvise"))
    malloc.restype = ctypes.c_void_p
    block = malloc(ctypes.c_size_t(size))
    if block:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        length = ctypes.c_size_t(block + size - start)
        madvise(ctypes.c_void_p(start), length, mmap.MADV_HUGEPAGE)
        free(ctypes.c_void_p(block))


def give_back() -> None:
    """Gives back what a compiler has left free: hundreds of megabytes.

    It is in pieces too small for an update, which would take its memory on top of them.
    What is whole, at the end of the heap, stays.
    """
    trim = function("malloc_trim")
    if trim:
        trim(ctypes.c_size_t(2**62))  # bytes to leave there: all
