"""Checkpoints by Orbax: saved in the background, verified, newest good one restored.

Orbax does not check the arrays it reads back and does not fall back to an older step.
So a fingerprint of every array is saved with it, computed on the device before the copy
and again after the restore.
"""

import inspect
import logging
import pathlib
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from mimjax.hosts.agree import everywhere, first_lists
from mimjax.train import State
from mimjax.trees import differing, named_fingerprints

# Orbax reports every phase of every save, and where one file fails all it then drops;
# the failure itself it raises as well.
for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


class StorageError(Exception):
    """Saving or restoring failed; the message is one line."""


def quieten() -> None:
    """Drops what Python would print of Orbax's threads after a failure.

    For good: they may still be at work when the failure has long been reported.
    """
    thread, late = threading.excepthook, sys.unraisablehook

    def of_threads(failure: threading.ExceptHookArgs) -> None:
        # They hand it on to `wait` and to `save`.
        if not type(failure.thread).__module__.startswith("orbax."):
            thread(failure)

    def of_callbacks(failure: Any) -> None:
        # Reads and writes that it gave up with the one that failed: those that end
        # later, and those that never will. Nothing else here has coroutines.
        given_up = inspect.iscoroutine(failure.object)
        if not given_up and str(failure.exc_value) != "Event loop is closed":
            late(failure)

    threading.excepthook, sys.unraisablehook = of_threads, of_callbacks


quieten()


class Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask for signals.

    It would by steps, and from a thread of the first process only; that is counted with
    the calls of the loop (`run/stop.py`), which would miss the one to stop at.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never: the loop asks, and saves by itself."""
        return False


class Checkpoints:
    """Checkpoints of a workdir: the newest `keep_last`, and every `keep_every`th."""

    def __init__(self, workdir: pathlib.Path, keep_last: int, keep_every: int):
        self.folder = workdir / "checkpoints"
        self.aside = workdir / "bad_checkpoints"
        self.options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_period=keep_every or None,
        )
        self.manager = self.open()
        self.saving = 0

    def open(self) -> Manager:
        """Orbax's manager of the folder as it is now, without saves that were cut off.

        Orbax would remove those in a thread that goes on when its manager is closed,
        and could take what the next one is saving for one of them.
        """
        if jax.process_index() == 0:
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
        # Of what several devices hold each would write a part, every cut a program: of
        # many small arrays that is seconds in the first save. So only parts of a MiB or
        # more are. Orbax's own record of arrays goes with its default handler; whether
        # they are whole the fingerprints tell.
        parts = ocp.type_handlers.ArrayHandler(
            min_slice_bytes_for_replica_parallel=2**20
        )
        kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, parts))
        handlers = ocp.handlers.create_default_handler_registry(
            state=ocp.PyTreeCheckpointHandler(type_handler_registry=kinds),
            meta=ocp.JsonCheckpointHandler(),
        )
        place = self.folder.absolute()
        return Manager(place, options=self.options, handler_registry=handlers)

    def steps(self) -> list[int]:
        """Steps there is a checkpoint of, oldest first; all processes must ask."""
        # Another may not see yet what was saved before, or not see it moved.
        return first_lists(sorted(self.manager.all_steps()))

    def save(self, state: State, step: int) -> None:
        """Copies the state to the host and writes it in the background."""
        if step in self.steps():
            return
        # Orbax would wait as well, but blame this step for what the last one met.
        self.wait()
        self.saving = step
        try:
            meta = {"fingerprints": named_fingerprints(plain(state))}
            arguments = ocp.args.Composite(
                state=ocp.args.PyTreeSave(plain(state)), meta=ocp.args.JsonSave(meta)
            )
            self.manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> StorageError:
        """What to say of the last save."""
        return StorageError(f"cannot save step {self.saving}: {first_line(error)}")

    def restore(self, abstract: State) -> tuple[State | None, list[str]]:
        """The newest checkpoint that verifies, placed as `abstract` says, and remarks.

        Newer ones that cannot be read, or whose arrays are not those that were saved,
        are moved to `bad_checkpoints`. (None, []) where there are none; StorageError,
        and all left in place, where there are some and none is good.
        """
        remarks: list[str] = []
        bad: list[int] = []
        for step in reversed(self.steps()):
            state, problem = self.read(step, abstract)
            if state is not None:
                if bad:
                    self.set_aside(bad)
                return state, remarks
            bad.append(step)
            remarks.append(f"checkpoint {step} is not usable: {problem}")
        if remarks:
            raise StorageError("; ".join([*remarks, f"none is left in {self.folder}"]))
        return None, []

    def read(self, step: int, abstract: State) -> tuple[State | None, str]:
        """The state of one step, or None and what is wrong; alike in all processes."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(plain(abstract)), meta=ocp.args.JsonRestore()
        )
        # Not by the manager, where all wait for each other at the end: one that cannot
        # read its part would never come.
        reader = ocp.CompositeCheckpointHandler(
            state=ocp.StandardCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
        )
        place = self.manager.directory / str(step)
        restored, problem = attempt(lambda: reader.restore(place, args=arguments))
        if not everywhere(restored is not None) or restored is None:
            return None, problem or "another process cannot read it"
        wrong = differing(restored["state"], restored["meta"])
        if wrong:
            return None, f"{wrong[0]} is not what was saved ({len(wrong)} arrays)"
        return State(**restored["state"]), ""

    def set_aside(self, steps: list[int]) -> None:
        """Moves bad checkpoints out of the way; nothing is deleted."""
        self.manager.close()
        if jax.process_index() == 0:
            self.aside.mkdir(exist_ok=True)
            for step in steps:
                target = self.aside / str(step)
                while target.exists():
                    target = target.with_name(target.name + "_")
                shutil.move(self.folder / str(step), target)
        everywhere(True)
        self.manager = self.open()

    def wait(self) -> None:
        """Until the last save is on disk; raises StorageError if it failed."""
        try:
            self.manager.wait_until_finished()
            self.manager.check_for_errors()
        except Exception as error:
            raise self.failure(error) from error

    def close(self) -> None:
        """Waits, on every way out."""
        try:
            self.wait()
        finally:
            self.manager.close()


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """What `work` returns, or None and what went wrong, on one line."""
    try:
        return work(), ""
    except Exception as error:
        return None, first_line(error)


def plain(state: State) -> dict[str, Any]:
    """The state as a dict, the form on disk."""
    return {name: getattr(state, name) for name in State.__dataclass_fields__}


def first_line(error: BaseException) -> str:
    """What an error says, on one line; the first cause names the file.

    Of a long text the beginning and the end, where the reason stands.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 400 else f"{text[:120]} ... {text[-270:]}"
