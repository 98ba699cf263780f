"""Groups of augmented training images for groups of positions, from each source.

A group is (image uint8 [n, H, W, C], label int32 [n], faults [n], u [n, U]): `faults`
lists, as JSON, the unreadable images met on the way as [number, reason], and `u` are
the random numbers of the positions. Jitter is all that is left to be done.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mimjax.data import Data, augment, decode, digits, order, sources
from mimjax.data.faults import Unusable
from mimjax.data.quiet import graph, tf

REDRAWS = 16  # images tried for one place of a batch before the source is given up
SPARES = 64  # records that may stand in for unreadable ones of a streamed source
# Images decoded by one call of Python, which costs TensorFlow a fifth of an image.
GROUP = 8
KINDS = (tf.uint8, tf.int32, tf.string)
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


class Wanted(NamedTuple):
    """What the loop asks of the stream."""

    image_size: tuple[int, int]
    channels: int
    seed: int
    batch_size: int
    rows: Int[np.ndarray, " R"]

    @property
    def group(self) -> int:
        """The largest group that divides the rows of this host."""
        return max(n for n in range(1, GROUP + 1) if len(self.rows) % n == 0)


def from_digits(data: Data, wanted: Wanted, start_step: int, stop_step: int) -> Any:
    """Digits, drawn a batch at a time, which is how numpy is fast."""

    def draw(index: np.ndarray, u: np.ndarray) -> Drawn:
        images, labels = digits.draw(index, "train", wanted.image_size)
        images = sources.to_channels(images, wanted.channels)
        for n, image in enumerate(images):
            box = _box(data, wanted, *wanted.image_size, u[n])
            images[n] = _finished(data, wanted, augment.cut(image, box), u[n])
        return images, labels, np.full(len(index), b"[]", object)

    @graph
    def load(position: Any, u: Any) -> Any:
        index = order.example(position, wanted.seed, data.num_images)
        return _group(wanted, tf.numpy_function(draw, [index, u], KINDS), u)

    at = order.positions(start_step, stop_step, wanted.batch_size, wanted.rows)
    drawn = at.map(_with_uniforms(wanted)).batch(len(wanted.rows))
    return drawn.map(load, num_parallel_calls=workers(data))


def from_numbered(
    data: Data,
    wanted: Wanted,
    start_step: int,
    stop_step: int,
    found: sources.Records,
) -> Any:
    """Images of a source whose records are read by number."""

    def draw(position: np.ndarray, index: np.ndarray, u: np.ndarray) -> Drawn:
        return _fill(data, wanted, found.read, index, position, u, found)

    @graph
    def load(position: Any, u: Any) -> Any:
        index = order.example(position, wanted.seed, found.length)
        return _group(wanted, tf.numpy_function(draw, [position, index, u], KINDS), u)

    at = order.positions(start_step, stop_step, wanted.batch_size, wanted.rows)
    drawn = at.map(_with_uniforms(wanted)).batch(wanted.group)
    return drawn.map(load, num_parallel_calls=workers(data))


def from_stream(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, found: sources.Streamed
) -> Any:
    """Images of a source that is read from first to last."""
    spares = found.head(SPARES)
    mine = np.zeros(wanted.batch_size, bool)
    mine[wanted.rows] = True

    def draw(
        position: np.ndarray, index: np.ndarray, records: np.ndarray, u: np.ndarray
    ) -> Drawn:
        at_hand = dict(zip(index.tolist(), records, strict=True))

        def first(number: int) -> tuple[bytes, int]:
            return found.parse(at_hand[number])

        return _fill(data, wanted, first, index, position, u, spares)

    @graph
    def is_mine(position: Any, _: Any) -> Any:
        return tf.constant(mine)[position % wanted.batch_size]

    @graph
    def load(position: Any, numbered: Any, u: Any) -> Any:
        inputs = [position, *numbered, u]
        return _group(wanted, tf.numpy_function(draw, inputs, KINDS), u)

    start = start_step * wanted.batch_size
    stream = found.stream(start, wanted.seed).enumerate(start).filter(is_mine)
    stream = stream.take((stop_step - start_step) * len(wanted.rows))
    drawn = stream.map(_with_uniforms(wanted)).batch(wanted.group)
    return drawn.map(load, num_parallel_calls=workers(data))


def workers(data: Data) -> int:
    """How many groups are made at a time."""
    return data.workers or tf.data.AUTOTUNE


def _fill(
    data: Data,
    wanted: Wanted,
    read: Callable[[int], tuple[bytes, int]],
    index: Int[np.ndarray, " n"],
    position: Int[np.ndarray, " n"],
    u: Float[np.ndarray, "n U"],
    spares: sources.Records,
) -> Drawn:
    """The images of the given numbers, others in place of those that are unreadable."""
    count = len(index)
    images = np.zeros((count, *wanted.image_size, wanted.channels), np.uint8)
    labels = np.full(count, -1, np.int32)
    faults = np.empty(count, object)
    for row in range(count):
        number, met = int(index[row]), []
        for attempt in range(REDRAWS):
            try:
                content, label = (spares.read if attempt else read)(number)
                images[row] = _image(data, wanted, content, u[row])
                labels[row] = label
                break
            except Unusable as error:
                met.append((number, error.reason))
                place = int(position[row]), wanted.seed, attempt
                number = order.replacement(*place, spares.length)
        faults[row] = json.dumps(met).encode()
    return images, labels, faults


def _image(
    data: Data, wanted: Wanted, content: bytes, u: Float[np.ndarray, " U"]
) -> UInt8[np.ndarray, "H W C"]:
    """Decode the random crop of one image and bring it to size."""
    picture = decode.open_picture(content, data.min_side, data.max_pixels)
    box = _box(data, wanted, picture.height, picture.width, u)
    return _finished(data, wanted, decode.crop(picture, box, wanted.channels), u)


def _box(
    data: Data, wanted: Wanted, height: int, width: int, u: Float[np.ndarray, " U"]
) -> augment.Box:
    """The crop of an image; limits of its shape are relative to the shape wanted."""
    shape = wanted.image_size[1] / wanted.image_size[0]
    ratio = data.crop_ratio[0] * shape, data.crop_ratio[1] * shape
    return augment.random_box(u, height, width, data.crop_scale, ratio)


def _finished(
    data: Data, wanted: Wanted, part: np.ndarray, u: Float[np.ndarray, " U"]
) -> UInt8[np.ndarray, "H W C"]:
    """A crop at the size wanted, mirrored or not."""
    size = wanted.image_size
    image = augment.resize(part, size, data.interpolation, data.antialias)
    return augment.flip(image, u) if data.flip else image


def _with_uniforms(wanted: Wanted) -> Callable[..., Any]:
    @graph
    def add(position: Any, *rest: Any) -> Any:
        u = order.uniforms(position, wanted.seed, augment.NUM_UNIFORMS)
        return position, *rest, u

    return add


def _group(wanted: Wanted, drawn: Any, u: Any) -> Any:
    """Tell TensorFlow the shapes that it cannot see."""
    image, label, faults = drawn
    image = tf.ensure_shape(image, (None, *wanted.image_size, wanted.channels))
    return image, tf.ensure_shape(label, (None,)), tf.ensure_shape(faults, (None,)), u
