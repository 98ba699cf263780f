"""Batches from the host's data pipeline onto the devices, ahead of the step."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

HostBatch = dict[str, np.ndarray]


class Feed:
    """Takes batches from a generator in a thread and puts them on the devices.

    `depth` batches wait there. An error of the generator is raised by `next`.
    """

    def __init__(
        self,
        batches: Generator[HostBatch],
        sharding: jax.sharding.NamedSharding,
        batch_size: int,
        depth: int = 2,
    ):
        self.batches = batches
        self.sharding = sharding
        self.batch_size = batch_size
        self.ready: queue.Queue[Any] = queue.Queue(depth)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.fill, daemon=True)
        self.thread.start()

    def put(self, batch: HostBatch) -> dict[str, jax.Array]:
        """The rows of this process as part of the batch of all of them."""
        return {
            name: jax.make_array_from_process_local_data(
                self.sharding, rows, (self.batch_size, *rows.shape[1:])
            )
            for name, rows in batch.items()
        }

    def fill(self) -> None:
        """The thread: keeps the queue full until the end, an error or `close`."""
        last, placed = None, None
        try:
            for batch in self.batches:
                # A source that hands out the same batch again has it there already.
                if batch is not last:
                    last, placed = batch, self.put(batch)
                if not self.hand_over(placed):
                    return
        except BaseException as error:
            self.hand_over(error)
        finally:
            self.batches.close()

    def hand_over(self, item: Any) -> bool:
        """Queues an item; False once the feed is closed."""
        while not self.stopped.is_set():
            try:
                self.ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def late(self) -> bool:
        """Whether the next batch is not there yet."""
        return self.ready.empty()

    def next(self, asked: Callable[[], bool]) -> dict[str, jax.Array] | None:
        """The next batch, on the devices; None if we are asked to stop first."""
        while True:
            try:
                item = self.ready.get(timeout=0.5)
                break
            except queue.Empty:
                if asked():
                    return None
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread.

        Nobody needs it any more, and TensorFlow now and then takes long to end what it
        has begun to read: a process that is told to stop may have half a minute.
        """
        self.stopped.set()
        self.thread.join(timeout=2)
