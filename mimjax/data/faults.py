"""Unreadable images: the reasons, the list in the workdir, and the limit."""

import collections
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mimjax.metrics import replacing

FILE_NAME = "data_errors.jsonl"
# And the class behind it; the objective has fewer.
UNKNOWN_CLASS = "mask of unknown class"
RETRY_SECONDS = (0.05, 0.2, 0.8, 2.0)


class Unusable(Exception):
    """One image cannot be used; `reason` is one of the few words it is counted by."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class BadDataError(Exception):
    """Too many images are unreadable to go on; the message is one line for people."""


def persistent(read: Callable[[], Any], failing: type[Exception]) -> Any:
    """What `read` gives; a failing store is asked again before Unusable is raised."""
    for pause in RETRY_SECONDS:
        try:
            return read()
        except Unusable:
            raise
        except failing:
            time.sleep(pause)
    try:
        return read()
    except failing as error:
        raise Unusable("unreadable") from error


class Ledger:
    """Counts every unreadable image once a run, however often it is drawn.

    Paths already listed in the workdir, by an earlier attempt of the run or another
    process, are not listed again. Each process counts what it meets itself and what
    stands in the file when it does, of its own source and part alone: "train", or
    "probe_train" and "test" of an evaluation.
    """

    def __init__(
        self,
        workdir: Path | None,
        limit: float,
        process: int,
        source: str,
        part: str = "train",
    ):
        self._file = None if workdir is None else workdir / FILE_NAME
        self._limit = limit
        self._process = process
        self._of = {"source": source, "part": part}
        self._reasons: dict[str, str] = {}
        self._read = 0  # bytes of the file
        self._look()

    def note(self, path: str, reason: str, step: int) -> None:
        """Count one image; raises BadDataError past the limit."""
        if path not in self._reasons:
            self._look()  # what other processes have met meanwhile
        if path in self._reasons:
            return
        self._reasons[path] = reason
        if self._file:
            entry = {"path": path, "reason": reason, "step": step}
            line = json.dumps({**entry, "process": self._process, **self._of}) + "\n"
            with open(self._file, "a", encoding="utf-8") as out:
                out.write(line)
        if len(self._reasons) > self._limit:
            raise BadDataError(self._summary(step))

    def _look(self) -> None:
        """Takes in the lines that are new in the file."""
        if self._file and self._file.exists():
            with open(self._file, "rb") as file:
                file.seek(self._read)
                # The last may be half written.
                lines = file.read().rpartition(b"\n")[0]
            self._read += len(lines)
            for (*of, path), why in _entries(lines):
                if of == list(self._of.values()):
                    self._reasons.setdefault(path, why)

    def _summary(self, step: int) -> str:
        where = f", all listed in {self._file}" if self._file else ""
        path, reason = list(self._reasons.items())[-1]
        if reason.startswith(UNKNOWN_CLASS):
            count = f"{len(self._reasons)} images are unreadable{where}"
            return f"step {step}: {told(path, reason)} ({count})"
        counts = collections.Counter(self._reasons.values()).most_common()
        named = ", ".join(f"{count} {reason}" for reason, count in counts)
        return (
            f"step {step}: {len(self._reasons)} images are unreadable ({named}), more "
            f"than the {self._limit} that config.data.bad_fraction and "
            f"config.data.bad_minimum allow{where}"
        )


def told(path: str, reason: str) -> str:
    """What is wrong with one image, and what is to be done where that is known."""
    if reason.startswith(UNKNOWN_CLASS):
        return f"{path} has a {reason}: raise config.objective.num_classes"
    return f"{path} is unreadable ({reason})"


def error_counts(workdir: Path) -> dict[str, int]:
    """How many distinct images of a run were unreadable, by reason."""
    file = workdir / FILE_NAME
    lines = file.read_bytes() if file.exists() else b""
    # Those of a source that a probe learns from are those that are trained on.
    reasons = {(of, part == "test", x): why for (of, part, x), why in _entries(lines)}
    return dict(collections.Counter(reasons.values()))


def begin(workdir: Path, before: str | None, source: str) -> None:
    """Makes the list of an earlier attempt that of a run of this source.

    `before` is where its images lay, None where it left no checkpoint to go on from:
    all images are read anew then, and the list is deleted.
    """
    file = workdir / FILE_NAME
    if before is None:
        file.unlink(missing_ok=True)
    elif file.exists():
        old, new = (
            f'"source": {json.dumps(name)},'.encode() for name in (before, source)
        )
        lines = file.read_bytes().replace(old, new)
        with replacing(file) as temporary:
            # A kill may have cut the last line short.
            temporary.write_bytes(lines + b"\n" * (not lines.endswith(b"\n")))


def _entries(lines: bytes) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Source, part and path of each, and the reason."""
    for line in lines.splitlines():
        try:
            entry = json.loads(line)
            source, part = entry.get("source", ""), entry.get("part", "")
            yield (str(source), str(part), str(entry["path"])), str(entry["reason"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line cut short when an earlier attempt was killed
