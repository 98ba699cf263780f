"""The memory a process keeps, and in which pages: seen from the system's accounts."""

import os
import pathlib
import platform
import resource
import subprocess
import sys

import pytest

from mimjax.run import heap

# Says how many MiB a process holds, and how many in huge pages: after the steps named,
# then with 256 MiB more, then without them. Of bytes: numpy asks for huge pages itself.
HOLD = """
import ctypes, mmap, pathlib, re, sys
from mimjax.run import heap

def tell():
    whole = pathlib.Path("/proc/self/smaps_rollup").read_text()
    found = (re.search(f"{name}:\\\\s+(\\\\d+)", whole) for name in NAMES)
    print(*(int(kilobytes[1]) // 1024 for kilobytes in found))

NAMES = "Rss", "AnonHugePages"
MADVISE = "madvise" in sys.argv
for step in sys.argv[1:]:
    if step == "pieces":  # every second one of 2,000 of 128 KiB is free again
        pieces = [bytes(2**17) + b"1" for _ in range(2000)]
        del pieces[::2]
    elif step != "madvise":
        getattr(heap, step)()
tell()
size = 2**28
if MADVISE:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    block.write(b"1" * size)
    tell()
    block.close()
else:
    block = b"1" * size
    tell()
    del block
tell()
"""

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or not pathlib.Path("/proc/self/smaps_rollup").exists(),
    reason="it asks the GNU C library on Linux, and nothing elsewhere",
)


def held(*steps: str) -> list[list[int]]:
    """MiB in memory and in huge pages: before, with and after 256 MiB."""
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    command = [sys.executable, "-c", HOLD, *steps]
    done = subprocess.run(
        command, env=clean, check=True, capture_output=True, text=True
    )
    return [[int(x) for x in line.split()] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("steps", [(), ("keep",), ("keep", "give_back")])
def test_memory_is_kept_once_it_is_asked_for(steps):
    before, during, after = (rss for rss, _ in held(*steps))
    assert during - before > 250
    assert (after - before > 250) == bool(steps)


@pytest.mark.parametrize("steps", [("keep",), ("keep", "give_back")])
def test_it_is_in_huge_pages_where_the_system_has_them_for_those_who_ask(steps):
    def huge(*steps: str) -> int:
        (_, before), (_, during), _ = held(*steps)
        return during - before

    found = huge(*steps)
    if not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text():
        assert found == 0
    elif found <= 128:
        # Free memory may be in too many pieces, for whoever asks.
        assert huge("madvise") <= 128


def test_what_is_free_in_pieces_is_given_back():
    held_by_pieces = held("keep", "pieces")[0][0]
    assert held_by_pieces - held("keep", "pieces", "give_back")[0][0] > 100


def test_addresses_are_not_reserved_where_they_are_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(heap, "OVERCOMMIT", tmp_path / "overcommit_memory")
    assert not heap.may_reserve()
    for mode, may in (("0", True), ("1", True), ("2", False)):
        heap.OVERCOMMIT.write_text(f"{mode}\n")
        assert heap.may_reserve() == may
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**33, 2**34))
    heap.OVERCOMMIT.write_text("0\n")
    assert not heap.may_reserve()


def test_the_c_library_has_what_is_asked_of_it():
    """Or nothing would be kept or given back, and nobody told."""
    for name in ("mallopt", "malloc_trim", "malloc", "free", "madvise"):
        assert heap.function(name)
