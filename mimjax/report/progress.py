"""The line on the console that says how a run goes."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from mimjax.metrics import DETAIL

BAR = 20  # characters


def duration(seconds: float | int) -> str:
    """Whole seconds as h:mm:ss, with days in front where there are any."""
    days, rest = divmod(round(max(seconds, 0)), 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock


def _fields(values: Mapping[str, Any]) -> list[str]:
    """The known metrics of one log step, formatted, in a fixed order."""
    shown = {
        "loss": lambda v: f"loss {v:.4f}",
        "lr": lambda v: f"lr {v:.2e}",
        "images_per_sec": lambda v: f"{v:,.0f} img/s" if v >= 10 else f"{v:.2f} img/s",
        "mfu": lambda v: f"MFU {100 * v:.1f}%",
        "data_wait": lambda v: f"data wait {100 * v:.0f}%",
    }
    return [show(float(values[key])) for key, show in shown.items() if key in values]


def held_out(values: Mapping[str, Any]) -> str:
    """An evaluation in a line: what is looked at first, and what it took."""
    shown = [
        f"{key.removeprefix('eval/')} {value:.4g}"
        for key, value in values.items()
        if not DETAIL.fullmatch(key) or key.startswith("eval/few_")
    ]
    return "  ".join([*shown, f"({values['eval/seconds']:.1f} s)"])


class Progress:
    """A line on standard error that rewrites itself on a terminal, else one a log step.

    Args:
      total: steps of the whole run.
      silent: for every process but the first, which speaks for all.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        *,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._clock = total, clock
        self._silent = silent
        self._stream = sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._first: tuple[int, float] | None = None
        self._spent = 0.0  # seconds since that were no updates
        self._to_come: dict[str, float] = {}
        self._line = ""

    def aside(self, kind: str, seconds: float, left: int) -> None:
        """Took `seconds` for what is no update, and as much `left` times more."""
        self._spent += seconds
        self._to_come[kind] = seconds * left

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows `step` and, of `values`, loss, lr, images_per_sec, mfu, data_wait."""
        now = self._clock()
        if self._first is None:
            self._first, self._spent = (step, now), 0.0
        since, start = self._first
        # Checkpoints are part of the rate, as of what is to come.
        elapsed = (now - start - self._spent) / max(step - since, 1)
        rate = elapsed if step > since else float(values.get("step_time", 0))
        aside = sum(self._to_come.values())
        left = duration(rate * (self._total - step) + aside)
        count = f"step {step:>{len(str(self._total))}}/{self._total}"
        self._line = "  ".join([count, *_fields(values), f"ETA {left}"])
        if self._silent:
            return
        if self._live:
            self._draw(step)
        else:
            print(self._line, file=self._stream, flush=True)

    def _draw(self, step: int) -> None:
        columns = shutil.get_terminal_size().columns
        done = BAR * step // max(self._total, 1)
        line = f"[{'#' * done}{'.' * (BAR - done)}] {self._line}"
        if len(line) >= columns:
            line = self._line
        # Return, the line cut to the window, erase the rest.
        self._stream.write(f"\r{line[: columns - 1]}\x1b[K")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Prints a message on lines of its own; the progress line continues below."""
        if self._silent:
            return
        if not (self._live and self._line):
            print(text, file=self._stream, flush=True)
            return
        columns = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[K{text}\n{self._line[: columns - 1]}")
        self._stream.flush()

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._live and self._line and not self._silent:
            print(file=self._stream, flush=True)
        self._line = ""
