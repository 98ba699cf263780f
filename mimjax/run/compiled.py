"""What has been compiled, kept on disk for the processes to come.

The cache is JAX's, and so is its key: program, options, versions, kind and number of
devices, features of the CPU. How many of its cores may be used is no part of it, though
the compiler cuts loops into as many pieces: the folder tells.
"""

import contextlib
import os
import pathlib
import re
import sys
import time
import warnings
import zlib
from typing import TextIO

import jax

from mimjax import cores

# The programs of the quickstart take 0.1 to 14 s to compile on two busy cores, and a
# twentieth of it to load: below this there is little to gain.
LEAST_SECONDS = 0.1
# A step is 0.4 MB on CPU, and tens of MB where it is large and for an accelerator.
MOST_BYTES = 4 * 2**30

# The first bytes of what zstandard has packed (RFC 8878, section 3.1.1).
ZSTANDARD = bytes.fromhex("28b52ffd")
YOUNG_SECONDS = 60

# What JAX warns of, and goes on without.
FAILED = re.compile(r"Error (\w+) persistent compilation cache entry for '(.*?)': (.*)")


def keep(shared: pathlib.Path | None = None) -> None:
    """Has programs kept from now on, and those kept before loaded: before the first.

    In `shared` where it is given, else below the user's cache folder; or wherever
    JAX_COMPILATION_CACHE_DIR says, and nowhere where that is empty. A folder that
    cannot be written costs a line.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    given = jax.config.values["jax_compilation_cache_dir"]
    if given is not None:
        # Of an empty name JAX would make a folder here for autotuning.
        jax.config.update("jax_compilation_cache_dir", given or None)
        if given:
            tell(pathlib.Path(given))
        return
    folder = shared or usual()
    try:
        if not folder.is_absolute():
            raise OSError("it is no absolute path")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError("it cannot be written")
    except OSError as error:
        say(f"what is compiled is not kept in {folder}: {error.strerror or error}")
        return
    trim(folder, MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    tell(folder)


def usual() -> pathlib.Path:
    """The folder below the user's cache, where the XDG base directories put it."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(caches, "mimjax", "compiled", f"{len(cores.usable())}_cores")


def trim(folder: pathlib.Path, most: int) -> None:
    """Leaves at most that many bytes there, those used last."""
    found = []
    for path in folder.glob("*-cache"):
        # Another process may be about the same.
        with contextlib.suppress(OSError):
            there = path.stat()
            found.append((max(there.st_atime, there.st_mtime), there.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def tell(folder: pathlib.Path) -> None:
    """Has it said in a line, once, where something cannot be read or written there.

    What a process was killed in the middle of writing would fail for ever: it goes.
    """
    usually, said = warnings.showwarning, set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        failed = FAILED.match(str(message))
        if not failed:
            usually(message, category, filename, lineno, file, line)
            return
        action, name, why = failed.groups()
        told = f"what is compiled cannot be kept in {folder}"
        if action == "reading":
            drop_broken(folder, name)
            told = f"some of what was kept in {folder} is broken, and compiled anew"
        if told not in said:
            said.add(told)
            say(f"{told}: {why}")

    warnings.showwarning = show


def drop_broken(folder: pathlib.Path, name: str) -> None:
    """Removes the programs of that name that do not unpack.

    Where JAX finds zstandard it packs with that, and they stay. So do young ones, which
    another process may still be writing.
    """
    for path in folder.glob(f"{name}-*-cache"):
        with contextlib.suppress(OSError):
            packed, age = path.read_bytes(), time.time() - path.stat().st_mtime
            if packed.startswith(ZSTANDARD) or age < YOUNG_SECONDS:
                continue
            try:
                zlib.decompress(packed)
            except zlib.error:
                path.unlink()


def say(line: str) -> None:
    """A line on standard error, of the first process."""
    if jax.process_index() == 0:
        print(line[:300], file=sys.stderr, flush=True)
