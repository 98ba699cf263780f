"""SIGTERM and SIGINT as a question the loop asks, so that a run saves before it ends.

A process alone needs nothing but this. Where jax.distributed runs, its own service
catches SIGTERM and agrees with all processes on the step to stop after.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

# sysexits has no code for it; 75 (EX_TEMPFAIL) asks the supervisor to start us again.
STOPPED = 75

# Seconds in which a signal is still the same wish: Slurm and shells may send it twice.
ECHO = 1.0


def leave(number: int, frame: FrameType | None) -> None:
    """The handler while there is nothing to save: ends the process at once."""
    print("stopped before the first step", file=sys.stderr, flush=True)
    os._exit(STOPPED)


class Stop:
    """Whether the program was asked to stop.

    Until `ready` is called there is nothing to save, and a signal ends the process at
    once with status 75, even while the compiler holds the main thread. So does another
    one a second or more after the first.
    """

    def __init__(self) -> None:
        import jax

        self.flag = False
        self.started = False
        self.calls = 0
        self.alone = jax.process_count() == 1
        self.signals = (signal.SIGINT, signal.SIGTERM)
        if not self.alone:
            # Ours would replace the handler of jax.distributed.
            self.signals = (signal.SIGINT,)
        self.before = {s: signal.signal(s, self.caught) for s in self.signals}
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.wakeup = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        threading.Thread(target=self.watch, daemon=True).start()

    def caught(self, number: int, frame: FrameType | None) -> None:
        """The Python handler; runs when the main thread is back in Python."""
        if self.alone:
            self.flag = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def watch(self) -> None:
        """Sees each signal at once, whatever the main thread does."""
        first = 0.0
        while os.read(self.reader, 1):
            now = time.monotonic()
            if not self.started:
                leave(0, None)
            if first and now - first > ECHO:
                print("stopped again: not saved", file=sys.stderr, flush=True)
                os._exit(STOPPED)
            if not first and self.alone:
                said = "stopping; a second signal ends the run at once, unsaved"
                print(said, file=sys.stderr, flush=True)
            first = first or now
        os.close(self.reader)

    def ready(self) -> None:
        """From here on there is a state to save."""
        self.started = True

    def asked(self) -> bool:
        """Whether this process was asked to stop; may differ between processes."""
        return self.alone and self.flag

    def agreed(self) -> bool:
        """Whether all processes stop now; all must ask after every step."""
        if self.alone:
            return self.flag
        from jax.experimental import multihost_utils

        # They stop at the call after the latest that one of them has made when the
        # signal comes, 1 where that is before the first. The step of a run that is
        # resumed has passed that: it would never stop.
        self.calls += 1
        return multihost_utils.reached_preemption_sync_point(self.calls)

    def close(self) -> None:
        """Puts the old handlers back, but for `leave`: it is no longer before all."""
        signal.set_wakeup_fd(self.wakeup)
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if handler is leave else handler)
        os.close(self.writer)
