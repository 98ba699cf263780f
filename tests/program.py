"""The program as its users start it: another process, watched by what it writes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / "tests" / "tiny_config.py")
PATIENCE = 150.0  # seconds


class Program:
    """`python -m mimjax.main` at work in a workdir; standard error goes to a file.

    Of the environment what is None is unset.
    """

    def __init__(self, workdir: pathlib.Path, *flags: str, **environment: str | None):
        self.workdir = workdir
        self.said = workdir.with_name(f"{workdir.name}.{time.monotonic_ns()}.stderr")
        command = [sys.executable, "-m", "mimjax.main", f"--workdir={workdir}", *flags]
        inherited = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        inherited |= {"JAX_NUM_CPU_DEVICES": "1", **environment}
        with self.said.open("w") as end:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=end,
                env={k: v for k, v in inherited.items() if v is not None},
            )

    def stderr(self) -> str:
        """What it has said so far."""
        return self.said.read_text()

    def until(self, moment: Callable[[], Any]) -> "Program":
        """Waits for a moment; fails if the program ends before."""
        deadline = time.monotonic() + PATIENCE
        while not moment():
            ended = self.process.poll()
            assert ended is None, f"ended with {ended}:\n{self.stderr()}"
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"in vain:\n{self.stderr()}")
            time.sleep(0.002)
        return self

    def until_it_says(self, text: str) -> "Program":
        """Waits for a text on standard error."""
        return self.until(lambda: text in self.stderr())

    def send(self, number: signal.Signals) -> int:
        """Sends a signal; the exit status that follows."""
        self.process.send_signal(number)
        return self.status()

    def status(self) -> int:
        """The exit status, once there is one."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"never ended:\n{self.stderr()}") from None

    def records(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def steps(self) -> list[int]:
        """The steps whose loss is written down."""
        return [r["step"] for r in self.records() if "loss" in r]

    def evaluated(self) -> list[int]:
        """The steps whose evaluation is written down."""
        return [r["step"] for r in self.records() if "eval/loss" in r]

    def saved(self) -> list[int]:
        """The steps of the whole checkpoints."""
        found = (self.workdir / "checkpoints").glob("*")
        return sorted(int(p.name) for p in found if p.name.isdigit())

    def curve(self) -> list[tuple[str, ...]]:
        """Step, loss, gradient norm and rate of every line, as they are written."""
        names = ("step", "loss", "grad_norm", "lr")
        return [
            tuple(json.dumps(record[name]) for name in names)
            for record in self.records()
            if "loss" in record
        ]

    def fingerprints(self) -> dict[str, list[int]]:
        """Of every array in the newest checkpoint."""
        newest = self.workdir / "checkpoints" / str(self.saved()[-1])
        return json.loads((newest / "meta" / "metadata").read_text())["fingerprints"]
