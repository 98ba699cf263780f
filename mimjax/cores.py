"""The cores of the CPU that this process may use, and shares of them."""

import os
import pathlib
import re


def usable() -> list[int]:
    """Their numbers; where the system does not bind processes, all there are."""
    bound = getattr(os, "sched_getaffinity", None)
    return sorted(bound(0)) if bound else list(range(os.cpu_count() or 1))


def share(cores: list[int], number: int, count: int) -> list[int]:
    """The share of that number, from 0, of `count`; threads of a core stay together."""
    cores = sorted(cores, key=lambda core: (first_thread(core), core))
    return cores[number * len(cores) // count : (number + 1) * len(cores) // count]


def first_thread(core: int) -> int:
    """The first of the threads that are one core with this one, where Linux tells."""
    place = f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
    try:
        return int(re.split("[,-]", pathlib.Path(place).read_text())[0])
    except (OSError, ValueError):
        return core
