"""The training stream: samples -> jittered, batched, counted, by tf.data.

Everything is a function of the position, and order is kept at every stage, so that the
number of workers, the depth of prefetching and the moment of a restart cannot matter.
"""

import atexit
import inspect
import json
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from mimjax.data import Data, augment, digits, samples, sources
from mimjax.data.faults import BadDataError, Ledger, told
from mimjax.data.quiet import graph, reading, tf
from mimjax.data.samples import REDRAWS, Wanted

_running: weakref.WeakSet[Generator] = weakref.WeakSet()


def batches(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, workdir: Path | None
) -> Generator[dict[str, np.ndarray]]:
    """See mimjax.data.train_batches."""
    stream = _batches(data, wanted, start_step, stop_step, workdir)
    _running.add(stream)
    return stream


@atexit.register
def _close_all() -> None:
    """Stop the threads of forgotten streams before the interpreter is taken down."""
    for stream in list(_running):
        # A thread that is inside one is past helping: closing would raise.
        if inspect.getgeneratorstate(stream) != inspect.GEN_RUNNING:
            stream.close()


def _batches(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, workdir: Path | None
) -> Generator[dict[str, np.ndarray]]:
    steps = start_step, stop_step
    path: Callable[[int], str] = str
    length = data.num_images
    if data.source in digits.CLASSES:
        groups = samples.from_digits(data, wanted, *steps)
    else:
        found = sources.records(data, "train")
        path, length = found.path, found.length
        if isinstance(found, sources.Streamed):
            groups = samples.from_stream(data, wanted, *steps, found)
        else:
            groups = samples.from_numbered(data, wanted, *steps, found)
    limit = max(data.bad_minimum, int(data.bad_fraction * length))
    process = int(wanted.rows[0]) // len(wanted.rows)
    ledger = Ledger(workdir, limit, process, data.source)
    iterator = _batched(data, wanted, groups).as_numpy_iterator()
    try:
        for step in range(*steps):
            label, faults, *images = _next(iterator, step)
            for entries in faults:
                _note(ledger, path, entries, step)
            yield {"label": label, **dict(zip(wanted.shapes, images, strict=True))}
    finally:
        del iterator


def _next(iterator: Any, step: int) -> Any:
    with reading(f"step {step}: "):
        return next(iterator)


def _batched(data: Data, wanted: Wanted, groups: Any) -> Any:
    """Batches of (label, faults, images ...) out of groups; jitters the images."""
    count = len(wanted.rows)

    @graph
    def jitter(u: Any, label: Any, faults: Any, *images: Any) -> Any:
        strengths = data.jitter, data.jitter_rate
        made = [
            x if name == "mask" else augment.jitter(x, u, *strengths)
            for name, x in zip(wanted.shapes, images, strict=True)
        ]
        return u, label, faults, *made

    @graph
    def flat(_: Any, *parts: Any) -> Any:
        return tuple(tf.reshape(p, (count, *p.shape[2:])) for p in parts)

    if any(data.jitter):
        at_a_time = samples.workers(data)
        single = groups.unbatch().map(jitter, num_parallel_calls=at_a_time)
        groups = single.batch(wanted.group)
    in_one = data.source in digits.CLASSES and not any(data.jitter)
    share = 1 if in_one else count // wanted.group
    batched = groups.batch(share, drop_remainder=True).map(flat)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1
    if data.workers:
        options.threading.private_threadpool_size = data.workers
    return batched.prefetch(data.prefetch).with_options(options)


def _note(
    ledger: Ledger, path: Callable[[int], str], entries: bytes, step: int
) -> None:
    """Enter the unreadable images met for one place of a batch."""
    if entries == b"[]":
        return
    faults = json.loads(entries)
    for number, reason in faults:
        ledger.note(path(number), reason, step)
    if len(faults) == REDRAWS:
        raise BadDataError(
            f"step {step}: {REDRAWS} images drawn one after another were unreadable; "
            f"the last, {told(path(faults[-1][0]), faults[-1][1])}"
        )
