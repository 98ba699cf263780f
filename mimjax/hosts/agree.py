"""What the processes of a run must see alike before they go on together."""

import pathlib
import secrets
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mimjax.schema import ConfigError


def everywhere(good: bool) -> bool:
    """Whether it is so in all processes; all wait here for each other."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(good))))


def same(number: int) -> bool:
    """Whether all processes have the same number, below 2^32."""
    if jax.process_count() == 1:
        return True
    from jax.experimental import multihost_utils

    every = multihost_utils.process_allgather(np.array(number, np.uint32))
    return bool(np.all(every == every[0]))


def unlike(told: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same in all processes, or that not all of them have."""
    if jax.process_count() == 1:
        return []
    from jax.experimental import multihost_utils

    def known(text: str) -> int:
        return zlib.crc32(text.encode())

    names = sorted(told)
    mine = {known(name): known(repr(told[name])) for name in names}
    size = np.array(len(mine), np.int32)
    most = int(multihost_utils.process_allgather(size).max())
    table = np.zeros((most, 2), np.uint32)  # as many rows in every process
    table[: len(mine)] = list(mine.items())
    every = multihost_utils.process_allgather(table)
    seen = [{tuple(row) for row in rows.tolist()} for rows in every]
    return [n for n in names if any((known(n), mine[known(n)]) not in x for x in seen)]


def first_says(answer: bool) -> bool:
    """The answer of the first process, which may see a file sooner or alone."""
    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))


def first_lists(numbers: list[int]) -> list[int]:
    """The numbers, below 2^31, that the first process has."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    count = int(multihost_utils.broadcast_one_to_all(np.array(len(numbers), np.int32)))
    listed = np.zeros(count, np.int32)
    if jax.process_index() == 0:
        listed[:] = numbers
    return multihost_utils.broadcast_one_to_all(listed).tolist() if count else []


def one_workdir(folder: pathlib.Path) -> None:
    """Raises ConfigError where the workdir of the first process is not that of all."""
    if jax.process_count() == 1:
        return
    # A name that is new: a file system of the network remembers what was not there.
    (token,) = first_lists([secrets.randbits(31)])
    mark = folder / f".all_see_{token}"
    if jax.process_index() == 0:
        mark.touch()
    everywhere(True)
    seen = everywhere(mark.exists())
    if jax.process_index() == 0:
        mark.unlink()
    if not seen:
        told = f"--workdir: {folder} must be one folder that all hosts see, on a file"
        raise ConfigError([f"{told} system they share"])
