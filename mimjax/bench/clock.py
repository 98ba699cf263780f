"""What a measuring process times itself with; it imports neither JAX nor PyTorch."""

import collections
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

# Updates handed to the device before the host waits for the oldest, as in a run.
AHEAD = 2
# Updates timed at least, however slow they are.
LEAST = 3


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
    update: Callable[[], Any], wait: Callable[[Any], Any], seconds: float, platform: str
) -> list[float]:
    """Seconds between the ends of updates, a few of which are always under way.

    On a CPU, where an update ends before the call that starts it, none is.

    Args:
        update: starts one; returns what `wait` takes.
        wait: returns when it has ended.
        seconds: no update is started after that many.
    """
    waiting: collections.deque[Any] = collections.deque()
    times: list[float] = []
    ahead = 0 if platform == "cpu" else AHEAD
    start = last = time.perf_counter()
    while waiting or len(times) < LEAST or last - start < seconds:
        more = len(times) + len(waiting) < LEAST or last - start < seconds
        if more:
            waiting.append(update())
        if len(waiting) > ahead or not more:
            wait(waiting.popleft())
            now = time.perf_counter()
            times.append(now - last)
            last = now
    return times


def best(update: Callable[[], Any], seconds: float = 1.0) -> float:
    """The shortest time of `update`, which returns when it has ended."""
    times, start = [], time.perf_counter()
    while len(times) < LEAST or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        update()
        times.append(time.perf_counter() - before)
    return min(times)


def resident() -> int:
    """The most bytes this process has had in memory."""
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes


def answer(laps: Laps, times: list[float], **found: Any) -> None:
    """Prints what was measured, as one line."""
    told = {
        "median": statistics.median(times),
        "best": min(times),
        "updates": len(times),
        "start": laps.seconds,
        **found,
    }
    print(json.dumps(told), flush=True)
