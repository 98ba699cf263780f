"""Batches that are late, wrong or not wanted any more."""

import threading

import jax
import numpy as np
import pytest
import tiny

from mimjax import sharding
from mimjax.run.feed import Feed


def feed_of(batches):
    return Feed(batches, sharding.batch(tiny.mesh_of(2)), 4)


def numbers(go_on, count):
    """Batches of rows 0 to 3, 4 to 7, ...; each waits until it may come."""
    for step in range(count):
        go_on.wait()
        yield {"row": np.arange(4 * step, 4 * step + 4)}
    raise ValueError("no more")


def test_batches_come_in_order_and_then_the_error():
    go_on = threading.Event()
    go_on.set()
    feed = feed_of(numbers(go_on, 5))
    for step in range(5):
        batch = feed.next(lambda: False)
        assert batch["row"].sharding.is_equivalent_to(feed.sharding, 1)
        np.testing.assert_array_equal(batch["row"], np.arange(4 * step, 4 * step + 4))
    with pytest.raises(ValueError, match="no more"):
        feed.next(lambda: False)
    feed.close()
    assert not feed.thread.is_alive()


def test_a_stop_is_heard_while_data_hang_and_a_full_feed_ends_when_it_is_closed():
    go_on = threading.Event()
    feed = feed_of(numbers(go_on, 100))
    assert feed.late()
    assert feed.next(lambda: True) is None
    go_on.set()
    assert isinstance(feed.next(lambda: False)["row"], jax.Array)
    feed.close()
    assert not feed.thread.is_alive()
