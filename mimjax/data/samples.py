"""One augmented training image for each position, from each kind of source.

Every sample is (image uint8 [H, W, C], label int32, faults, u): `faults` lists, as
JSON, the unreadable images met on the way as [number, reason], "" or "[]" for none, and
`u` are the random numbers of the position.
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
KINDS = (tf.uint8, tf.int32, tf.string)


class Wanted(NamedTuple):
    """What the loop asks of the stream."""

    image_size: tuple[int, int]
    channels: int
    seed: int
    batch_size: int
    rows: Int[np.ndarray, " R"]


def from_digits(data: Data, wanted: Wanted, start_step: int, stop_step: int) -> Any:
    """Digits, drawn a batch at a time, which is how numpy is fast."""
    ratio = _ratio(data, wanted)

    def draw(index: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = digits.draw(index, "train", wanted.image_size)
        images = sources.to_channels(images, wanted.channels)
        for n, image in enumerate(images):
            box = augment.random_box(u[n], *wanted.image_size, data.crop_scale, ratio)
            images[n] = _resized(data, wanted, augment.cut(image, box))
        return images, labels

    @graph
    def load(position: Any, u: Any) -> Any:
        index = order.example(position, wanted.seed, data.num_images)
        image, label = tf.numpy_function(draw, [index, u], KINDS[:2])
        image = tf.ensure_shape(image, (None, *wanted.image_size, wanted.channels))
        label = tf.ensure_shape(label, (None,))
        return image, label, tf.fill(tf.shape(label), ""), u

    @graph
    def with_uniforms(position: Any) -> Any:
        return position, _uniforms(position, wanted)

    return (
        order.positions(start_step, stop_step, wanted.batch_size, wanted.rows)
        .map(with_uniforms)
        .batch(len(wanted.rows))
        .map(load, num_parallel_calls=workers(data))
        .unbatch()
    )


def from_numbered(
    data: Data,
    wanted: Wanted,
    start_step: int,
    stop_step: int,
    found: sources.Records,
) -> Any:
    """Images of a source whose records are read by number."""

    def draw(position: Any, index: Any, u: np.ndarray) -> tuple[np.ndarray, Any, str]:
        def first() -> tuple[bytes, int]:
            return found.read(int(index))

        return _fill(data, wanted, first, int(index), int(position), u, found)

    @graph
    def load(position: Any) -> Any:
        u = _uniforms(position, wanted)
        index = order.example(position, wanted.seed, found.length)
        return _sample(tf.numpy_function(draw, [position, index, u], KINDS), u)

    at = order.positions(start_step, stop_step, wanted.batch_size, wanted.rows)
    return at.map(load, num_parallel_calls=workers(data))


def from_stream(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, found: sources.Streamed
) -> Any:
    """Images of a source that is read from first to last."""
    spares = found.head(SPARES)
    mine = np.zeros(wanted.batch_size, bool)
    mine[wanted.rows] = True

    def draw(
        position: Any, index: Any, record: bytes, u: np.ndarray
    ) -> tuple[np.ndarray, Any, str]:
        def first() -> tuple[bytes, int]:
            return found.parse(record)

        return _fill(data, wanted, first, int(index), int(position), u, spares)

    @graph
    def is_mine(position: Any, _: Any) -> Any:
        return tf.constant(mine)[position % wanted.batch_size]

    @graph
    def load(position: Any, numbered: Any) -> Any:
        u = _uniforms(position, wanted)
        inputs = [position, *numbered, u]
        return _sample(tf.numpy_function(draw, inputs, KINDS), u)

    start = start_step * wanted.batch_size
    stream = found.stream(start, wanted.seed).enumerate(start).filter(is_mine)
    stream = stream.take((stop_step - start_step) * len(wanted.rows))
    return stream.map(load, num_parallel_calls=workers(data))


def workers(data: Data) -> int:
    """How many samples are made at a time."""
    return data.workers or tf.data.AUTOTUNE


def _fill(
    data: Data,
    wanted: Wanted,
    first: Callable[[], tuple[bytes, int]],
    number: int,
    position: int,
    u: Float[np.ndarray, " U"],
    spares: sources.Records,
) -> tuple[UInt8[np.ndarray, "H W C"], Any, str]:
    """The image `number`, or where that is unreadable another in its place."""
    faults: list[tuple[int, str]] = []
    for attempt in range(REDRAWS):
        try:
            content, label = first() if attempt == 0 else spares.read(number)
            image = _image(data, wanted, content, u)
            return image, np.int32(label), json.dumps(faults)
        except Unusable as error:
            faults.append((number, error.reason))
            number = order.replacement(position, wanted.seed, attempt, spares.length)
    empty = np.zeros((*wanted.image_size, wanted.channels), np.uint8)
    return empty, np.int32(-1), json.dumps(faults)


def _image(
    data: Data, wanted: Wanted, content: bytes, u: Float[np.ndarray, " U"]
) -> UInt8[np.ndarray, "H W C"]:
    """Decode the random crop of one image and bring it to size."""
    picture = decode.open_picture(content, data.min_side, data.max_pixels)
    size = picture.height, picture.width
    box = augment.random_box(u, *size, data.crop_scale, _ratio(data, wanted))
    return _resized(data, wanted, decode.crop(picture, box, wanted.channels))


def _ratio(data: Data, wanted: Wanted) -> tuple[float, float]:
    """Limits of width/height of a crop: the distortion allowed, times the shape."""
    shape = wanted.image_size[1] / wanted.image_size[0]
    return data.crop_ratio[0] * shape, data.crop_ratio[1] * shape


def _resized(data: Data, wanted: Wanted, image: np.ndarray) -> np.ndarray:
    return augment.resize(image, wanted.image_size, data.interpolation, data.antialias)


def _uniforms(position: Any, wanted: Wanted) -> Any:
    return order.uniforms(position, wanted.seed, augment.NUM_UNIFORMS)


def _sample(drawn: Any, u: Any) -> Any:
    image, label, faults = drawn
    return image, tf.ensure_shape(label, ()), tf.ensure_shape(faults, ()), u
