"""What a measuring process times itself with; it imports neither JAX nor PyTorch."""

import collections
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from mimjax.schema import ConfigError

# Updates handed to the device before the host waits for the oldest, as in a run.
AHEAD = 2
# Updates timed at least, however slow they are.
LEAST = 3
# The shortest time that the probe takes.
PROBE = 1.0
# Sides of the two matrices whose product is the probe, by platform.
SIDES = {"cpu": 2048, "gpu": 8192, "tpu": 8192}

Answer = dict[str, Any]


def main(measure: Callable[[Answer], Answer]) -> None:
    """Answers what the command line asks, as one line."""
    try:
        found = measure(json.loads(sys.argv[1]))
    except ConfigError as error:
        found = {"problems": error.problems}
    print(json.dumps(found), flush=True)


class Laps:
    """Seconds of each part of starting up, from the time the process was asked for."""

    def __init__(self, spawned: float) -> None:
        self.seconds = {"process": time.time() - spawned}
        self.last = time.perf_counter()

    def end(self, name: str) -> float:
        """Ends the part of that name; returns its seconds."""
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now
        return self.seconds[name]


def paced(
    update: Callable[[], Any],
    wait: Callable[[Any], Any],
    seconds: float,
    platform: str,
) -> Answer:
    """Times updates, a few of which are always under way; none is started after that.

    On a CPU an update ends before the call that starts it.

    Args:
        update: starts one; returns what `wait` takes.
        wait: returns when it has ended.
        seconds: how long to go on; LEAST updates are made in any case.
    """
    waiting: collections.deque[Any] = collections.deque()
    times: list[float] = []
    ahead = 0 if platform == "cpu" else AHEAD
    start = last = time.perf_counter()
    while True:
        more = len(times) + len(waiting) < LEAST or last - start < seconds
        if not more and not waiting:
            break
        if more:
            waiting.append(update())
        if len(waiting) > ahead or not more:
            wait(waiting.popleft())
            now = time.perf_counter()
            times.append(now - last)
            last = now
    return {
        "median": statistics.median(times),
        "fastest": min(times),
        "updates": len(times),
    }


def probed(product: Callable[[], Any], side: int) -> float:
    """FLOP/s of the fastest of many products of two square matrices.

    Args:
        product: makes one, and returns when it has ended.
        side: of the matrices.
    """
    product()
    times, start = [], time.perf_counter()
    while len(times) < LEAST or time.perf_counter() - start < PROBE:
        before = time.perf_counter()
        product()
        times.append(time.perf_counter() - before)
    return 2 * side**3 / min(times)


def resident() -> int:
    """The most bytes this process has had in memory."""
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
