"""What a run records of itself: metrics.jsonl, TensorBoard events, speed."""

import contextlib
import importlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"
# JSON has no such numbers: they are written as these strings, which float() reads.
NON_FINITE = ("nan", "inf", "-inf")

# Held-out values that are neither an objective's own nor those looked at first.
DETAIL = re.compile(r"eval/(seconds|rankme|knn_\d+|few_\d+|health/.*|accuracy@.*)")

Record = dict[str, Any]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` at the end, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temp
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def _plain(value: Any) -> float | int | str:
    """A number as JSON can hold it; float32 keeps its exact value as a double."""
    number = np.asarray(value).item()
    if not isinstance(number, int):
        number = float(number)
    return number if math.isfinite(number) else str(number)


def _parse(line: str) -> Record | None:
    """One line of metrics.jsonl, or None where it is torn."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return {k: float(v) if v in NON_FINITE else v for k, v in record.items()}


def read_metrics(workdir: Path) -> list[Record]:
    """All whole records of workdir/metrics.jsonl in order; [] where there is none.

    "nan", "inf" and "-inf" come back as floats.
    """
    path = Path(workdir) / METRICS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [record for record in map(_parse, lines) if record is not None]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none or it is torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Writer:
    """Appends records to workdir/metrics.jsonl and to TensorBoard event files.

    For process 0; the others take `Silent`. Each record is one JSON object on one
    line, with its "step", flushed to the system at once: a killed process loses none.
    Floats that JSON cannot hold are the strings "nan", "inf", "-inf".

    Args:
      workdir: made if absent.
      resume_step: records after this step are dropped, for they came from a run that
        was killed later than its last checkpoint and will be written again; so is a
        torn last line. -1 when nothing was restored: everything is dropped.
      tensorboard: whether to write event files under workdir/tensorboard too.

    Raises:
      OSError: where the workdir cannot be written.
    """

    def __init__(
        self, workdir: Path, *, resume_step: int, tensorboard: bool = True
    ) -> None:
        path = Path(workdir) / METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _drop_after(path, resume_step)
        self._file = path.open("a", encoding="utf-8")
        self._events = None
        if tensorboard:
            self._events = _Events(Path(workdir) / EVENTS, resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends {"step": step, **values}; each value a number or a 0-d array."""
        record = {"step": int(step)} | {k: _plain(v) for k, v in values.items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if self._events is not None:
            self._events.write(step, {k: float(v) for k, v in values.items()})

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


class Silent:
    """The writer of every process but the first: takes records, keeps nothing."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def _drop_after(path: Path, step: int) -> None:
    """Rewrites metrics.jsonl without torn lines and records later than `step`."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    read = ((line + "\n", _parse(line)) for line in lines)
    kept = [line for line, record in read if record and record["step"] <= step]
    with replacing(path) as temp:
        temp.write_text("".join(kept), encoding="utf-8")


class _Events:
    """One TensorBoard event file.

    Records are framed by tensorboard's RecordWriter, not by its EventFileWriter:
    that one imports TensorFlow where it is installed, which takes seconds.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Generated modules: their classes are not to be seen by a type checker.
        proto: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._event, self._summary = proto.Event, summary.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a run in the order of their names.
        seconds, nanos = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nanos:09d}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("ab"))
        self._put(file_version="brain.Event:2")
        # Makes TensorBoard forget what a killed run wrote from this step on.
        start = proto.SessionLog(status=proto.SessionLog.START)
        self._put(step=resume_step + 1, session_log=start)

    def _put(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
        self._records.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [
            self._summary.Value(tag=key, simple_value=value)
            for key, value in values.items()
        ]
        self._put(step=step, summary=self._summary(value=scalars))

    def close(self) -> None:
        self._records.close()


class Meter:
    """Wall-clock accounting between log steps.

    Args:
      batch_size: images of one step over all processes.
      step: the step at which the first window opens.
      flops_per_step: FLOPs of one training step over all devices, 0 if unknown.
      peak: FLOP/s of all devices together, None if unknown.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        step: int = 0,
        flops_per_step: int = 0,
        peak: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batch_size, self._clock = batch_size, clock
        self._flops, self._peak = flops_per_step, peak
        self._open(step)

    def _open(self, step: int) -> None:
        self._step, self._start = step, self._clock()
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time inside out: evaluation, checkpoints, pictures."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def read(self, step: int) -> dict[str, float]:
        """Speed since the last reading; opens the next window at `step`.

        Returns:
          images_per_sec, step_time (s), data_wait (share of the time, 0 to 1), and
          mfu (share of the peak, 0 to 1) where FLOPs and peak are known; {} where no
          step was made.
        """
        steps = step - self._step
        seconds = max(self._clock() - self._start - self._paused, 1e-9)
        waited = self._waited
        self._open(step)
        if steps <= 0:
            return {}
        speed = {
            "images_per_sec": steps * self._batch_size / seconds,
            "step_time": seconds / steps,
            "data_wait": min(waited / seconds, 1.0),
        }
        if self._flops and self._peak:
            speed["mfu"] = self._flops * steps / seconds / self._peak
        return speed
