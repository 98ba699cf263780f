"""What the processes of a run must see alike before they go on together."""

import jax
import numpy as np


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


def first_says(answer: bool) -> bool:
    """The answer of the first process, which may see a file sooner or alone."""
    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))
