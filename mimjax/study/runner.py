"""The runs of a study, each a process of its own, one or a few of them at once."""

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from types import FrameType

from mimjax import cores
from mimjax.metrics import read_json
from mimjax.report.progress import duration
from mimjax.run.endings import BAD_CONFIG
from mimjax.run.stop import STOPPED
from mimjax.run.workdir import write
from mimjax.study import outcome, problems
from mimjax.study.plan import Run, Study

# In the workdir: when its runs were at work, and how they ended.
RECORD = "study.json"


class Children:
    """The processes at work; signals to this one are passed on to them."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catches SIGINT and SIGTERM; stops the runs if something goes wrong here."""
        before = {
            number: signal.signal(number, self.caught)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        except BaseException:
            self.stop()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def caught(self, number: int, frame: FrameType | None) -> None:
        """The handler: a run saves and ends; a second signal ends it at once."""
        self.asked = True
        for process in [*self.processes]:
            process.send_signal(number)

    def stop(self) -> None:
        """Has all of them save and end, and none started any more, if not asked yet.

        A second signal would end them unsaved.
        """
        if not self.asked:
            self.caught(signal.SIGTERM, None)

    def make(self, study: Study, run: Run) -> tuple[int, float]:
        """Makes a run: its exit status, 75 where it was told to stop, and seconds."""
        if self.asked:
            return STOPPED, 0.0
        began = time.monotonic()
        command = [sys.executable, *run.command(study.workdir)]
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / outcome.LOG).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            self.processes.append(process)
            if self.asked:
                # It came while there was no process to pass it on to.
                process.terminate()
            status = process.wait()
        self.processes.remove(process)
        # Before it listens itself Python ends it, by the signal or with 1.
        unheard = self.asked and (status < 0 or status == 1)
        return STOPPED if unheard else status, time.monotonic() - began


def pool(jobs: int) -> futures.ThreadPoolExecutor:
    """Threads whose processes have a share of the cores each."""
    known, numbers = cores.usable(), itertools.count()
    shared = 1 < jobs <= len(known) and hasattr(os, "sched_setaffinity")

    def take() -> None:
        # Of this thread alone, and of the processes that it starts.
        if shared:
            os.sched_setaffinity(0, cores.share(known, next(numbers), jobs))

    return futures.ThreadPoolExecutor(jobs, initializer=take)


def note(
    study: Study, run: Run, command: list[str], status: int, took: float, passed: float
) -> None:
    """Writes down how a run has ended, and that so many seconds have passed.

    Another command may be at work on other runs: what it wrote stays. Seconds of a run
    are those since it was begun anew.
    """
    path, started = study.workdir / RECORD, outcome.facts(run).get("started")
    with (study.workdir / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = {"runs": {}, "seconds": 0.0, **read_json(path), "command": command}
        before = record["runs"].get(run.name, {})
        if before.get("started", started) == started:
            took += before.get("seconds", 0.0)
        ended = {"status": status, "seconds": took, "started": started}
        record["runs"][run.name] = ended
        record["seconds"] += passed
        write(path, record)


def figures(run: Run) -> str:
    """The main values of its last step, in words."""
    return outcome.figures(outcome.last_values(run))


def run(
    study: Study, command: list[str], told: Callable[[], None], jobs: int = 1
) -> int:
    """Makes all runs that are not finished, `jobs` at once; calls `told` after each.

    Returns 0, 75 where a signal has stopped it, else the status of the first run that
    has failed, 128 + N where signal N has killed it. A run that needs a failed one is
    not started.
    """
    children, failed, stopped, status = Children(), {}, False, 0
    seen = time.monotonic()
    total, places = len(study.runs), {n: i for i, n in enumerate(study.runs, 1)}

    def say(run: Run, text: str) -> None:
        place = f"{places[run.name]:>{len(str(total))}}"
        print(f"[{place}/{total}] {run.name}  {text}", flush=True)

    waiting, working = dict(study.runs), {}
    with pool(jobs) as threads, children.listening():
        while waiting or working:
            for one in [*waiting.values()]:
                needs, busy = one.needs.values(), {r.name for r in working.values()}
                lost = [other for other in needs if other in failed]
                if len(busy) == jobs:
                    break
                if lost:
                    failed[one.name] = f"not started: it needs {lost[0]}"
                    say(one, failed[one.name])
                elif any(other in waiting or other in busy for other in needs):
                    continue
                elif older := problems.outdated(study, one):
                    failed[one.name] = older[0]
                    say(one, older[0])
                    status = status or BAD_CONFIG
                elif outcome.finished(one):
                    say(one, f"finished before  {figures(one)}")
                else:
                    working[threads.submit(children.make, study, one)] = one
                del waiting[one.name]
            done, _ = futures.wait(working, return_when=futures.FIRST_COMPLETED)
            for future in done:
                one, (ended, took) = working.pop(future), future.result()
                now = time.monotonic()
                note(study, one, command, ended, took, now - seen)
                seen = now
                if ended == STOPPED:
                    say(one, "stopped; the same command goes on")
                    stopped = True
                    children.stop()
                    continue
                if ended:
                    why = outcome.failure(one, ended)
                    failed[one.name] = f"{why} (see {one.folder / outcome.LOG})"
                    say(one, why)
                    # As shells have it of a signal.
                    status = status or (ended if ended > 0 else 128 - ended)
                else:
                    say(one, f"done in {duration(took)}  {figures(one)}")
                told()
            if children.asked:
                stopped, waiting = stopped or bool(waiting), {}
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return STOPPED if stopped else status
