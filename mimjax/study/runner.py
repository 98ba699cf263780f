"""The runs of a study one after another, each a process of its own."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from mimjax.metrics import read_json
from mimjax.report.progress import duration
from mimjax.run.stop import STOPPED
from mimjax.run.workdir import write
from mimjax.study import outcome
from mimjax.study.plan import Run, Study

# In the workdir: when its runs were at work, and how they ended.
RECORD = "study.json"


class Child:
    """The process at work; signals to this one are passed on to it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catches SIGINT and SIGTERM."""
        before = {
            number: signal.signal(number, self.caught)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def caught(self, number: int, frame: FrameType | None) -> None:
        """The handler: a run saves and ends; a second signal ends it at once."""
        self.asked = True
        if self.process:
            self.process.send_signal(number)

    def status(self, study: Study, run: Run) -> int:
        """The exit status of a run; 75 where it was a signal that ended it."""
        if self.asked:
            return STOPPED
        command = [sys.executable, *run.command(study.workdir)]
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / outcome.LOG).open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            if self.asked:
                # It came while there was no process to pass it on to.
                self.process.terminate()
            status = self.process.wait()
        self.process = None
        # Before it listens itself, Python ends it with another status.
        return STOPPED if self.asked else status


def run(study: Study, command: list[str], told: Callable[[], None]) -> int:
    """Makes all runs that are not finished; `told` is called after each.

    Returns 0, 75 where a signal has stopped it, else the status of the first run that
    has failed. A run that needs a failed one is not started.
    """
    child, failed = Child(), {}
    record = read_json(study.workdir / RECORD)
    record = {"runs": {}, **record, "command": command}
    total = len(study.runs)
    with child.listening():
        for number, run in enumerate(study.runs.values(), 1):
            said = f"[{number:>{len(str(total))}}/{total}] {run.name}  "
            lost = [other for other in run.needs.values() if other in failed]
            if lost:
                failed[run.name] = f"not started: it needs {lost[0]}"
                print(said + failed[run.name], flush=True)
                continue
            if outcome.finished(run):
                print(f"{said}finished before  {outcome.figures(run)}", flush=True)
                continue
            began = time.monotonic()
            status = child.status(study, run)
            took = time.monotonic() - began
            before = record["runs"].get(run.name, {"seconds": 0.0})["seconds"]
            record["runs"][run.name] = {"status": status, "seconds": before + took}
            write(study.workdir / RECORD, record)
            if status == STOPPED:
                print(f"{said}stopped; the same command goes on", flush=True)
                return STOPPED
            if status:
                why = f"status {status}: {outcome.last_words(run)}"
                failed[run.name] = f"{why} (see {run.folder / outcome.LOG})"
                print(said + why, flush=True)
            else:
                done = f"done in {duration(took)}  {outcome.figures(run)}"
                print(said + done, flush=True)
            told()
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return record["runs"][next(iter(failed))]["status"] if failed else 0
