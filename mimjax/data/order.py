"""Which example stands at which position: a pure function of the seed and the step.

The permutation of an epoch is TensorFlow's RandomIndexShuffle, a Simon block cipher
over [0, N-1]: no table and no shuffle buffer, so a run may start at any position of a
data set of any size, and every host computes the same order by itself.
"""

import hashlib
import struct
from typing import Any

import numpy as np
from jaxtyping import Int

from mimjax.data.quiet import graph, tf

# `tf.random.experimental.index_shuffle` fixes 4 rounds, which is no shuffle: for 1,797
# examples a batch of 128 stays nearly sorted (ten times the class variance of a fair
# draw), and successive epochs are correlated even at 8 rounds. At 16 both are as in a
# fair draw (tests/test_data_order.py), for under a microsecond.
ROUNDS = 16
# Of each of the three words of its key the cipher takes half a block, 8 bits or more.
# The third has the next ones of seed and epoch; the factor keeps the two apart.
BITS, MIXES = 8, 167


def positions(
    start_step: int,
    stop_step: int,
    batch_size: int,
    rows: Int[np.ndarray, " R"],
    group: int,
) -> Any:
    """A tf.data.Dataset of the positions this host supplies, in batch order, int64 [n].

    Position = step * batch_size + row of the global batch; steps run from
    `start_step` to `stop_step` - 1. They come `group` at a time, a divisor of the rows,
    for an element of a dataset costs as much as reading an image.
    """
    host_rows = tf.constant(rows, tf.int64)
    count = len(rows)

    @graph
    def position(i: Any) -> Any:
        step = start_step + i // count
        return step * batch_size + tf.gather(host_rows, i % count)

    groups = tf.data.Dataset.range((stop_step - start_step) * count).batch(group)
    return groups.map(position)


def example(position: Any, seed: int, length: int) -> Any:
    """Index in [0, length) of the example at an int64 `position`, a scalar or [n].

    Every epoch, `length` consecutive positions, is another permutation of all examples.
    Runs eagerly and inside a graph alike. Seeds that differ by a multiple of 2**16, and
    epochs by one of 2**16, may have the same.
    """
    position = tf.convert_to_tensor(position, tf.int64)
    epoch = position // length
    more = seed // 2**BITS * MIXES + epoch // 2**BITS
    words = tf.stack([tf.fill(tf.shape(epoch), _word(seed)), epoch, more], -1)
    # Its block has a bit too few for a largest index that is a power of 4.
    most = length - 1
    most += most >= 2**16 and most & (most - 1) == 0 and most.bit_length() % 2

    def shuffled(index: Any) -> Any:
        limit = tf.fill(tf.shape(epoch), tf.constant(most, tf.int64))
        return tf.raw_ops.RandomIndexShuffle(
            index=index, seed=words, max_index=limit, rounds=ROUNDS
        )

    index = shuffled(position % length)
    if most < length:
        return index
    # One more than there are: what falls on it goes where it falls itself.
    return tf.where(index == length, shuffled(index), index)


def uniforms(position: Any, seed: int, count: int) -> Any:
    """The `count` float32 numbers of [0, 1) that belong to one scalar position."""
    seeds = tf.stack([_word(seed), tf.cast(position, tf.int64)])
    # The algorithm is named because the automatic choice depends on the device.
    return tf.random.stateless_uniform([count], seeds, alg="philox")


def _word(seed: int) -> Any:
    return tf.constant(seed, tf.int64)


def replacement(position: int, seed: int, attempt: int, length: int) -> int:
    """Index of the image that stands in for an unreadable one at a position.

    From a stream of its own: no other position is moved by it.
    """
    words = struct.pack("<qqq", position, seed, attempt)
    digest = hashlib.blake2b(words, digest_size=8, person=b"replacement").digest()
    return int.from_bytes(digest, "little") % length
