"""The memory a process keeps, and in which pages: seen from the system's accounts."""

import pathlib
import platform
import subprocess
import sys

import pytest

from mimjax.run import heap

# Says how much a process holds before, with and after 256 MiB, and in huge pages.
HOLD = """
import pathlib, re, sys
import numpy as np
from mimjax.run import heap

def told():
    whole = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return [int(re.search(f"{name}:\\\\s+(\\\\d+)", whole)[1]) // 1024
            for name in ("Rss", "AnonHugePages")]

for step in sys.argv[1:]:
    getattr(heap, step)()
before, block = told(), np.ones(2**28, np.uint8)
during = told()
del block
print(before, during, told(), sep="\\n")
"""
HUGE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.platform != "linux",
    reason="it asks the GNU C library on Linux, and nothing elsewhere",
)


def held(*steps: str) -> list[list[int]]:
    """MiB in memory and in huge pages: before, with and after 256 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", HOLD, *steps], check=True, capture_output=True, text=True
    )
    return [
        [int(x) for x in line[1:-1].split(",")] for line in done.stdout.splitlines()
    ]


@pytest.mark.parametrize("steps", [(), ("keep",), ("keep", "give_back")])
def test_memory_is_kept_once_it_is_asked_for(steps):
    before, during, after = (rss for rss, _ in held(*steps))
    assert during - before > 250
    assert (after - before > 250) == bool(steps)


@pytest.mark.parametrize("steps", [("keep",), ("keep", "give_back")])
def test_it_is_in_huge_pages_where_the_system_has_them(steps):
    (_, before), (_, during), _ = held(*steps)
    granted = HUGE.exists() and "[never]" not in HUGE.read_text()
    assert (during - before > 128) == granted


def test_the_c_library_has_what_is_asked_of_it():
    """Or nothing would be kept or given back, and nobody told."""
    for name in ("mallopt", "malloc_trim", "malloc", "free", "madvise"):
        assert heap.function(name)
