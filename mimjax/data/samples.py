"""Groups of augmented training images for groups of positions, from each source.

A group is (u [n, U], label int32 [n], faults [n], image uint8 [n, H, W, C]) and, where
one is wanted, a second view of the same crop, uint8 [n, h, w, C]: `u` are the random
numbers of the positions, `faults` lists, as JSON, the unreadable images met on the way
as [number, reason]. Jitter is all that is left to be done.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mimjax.data import Data, augment, decode, digits, order, scaled, sources
from mimjax.data.faults import Unusable
from mimjax.data.quiet import graph, tf

REDRAWS = 16  # images tried for one place of a batch before the source is given up
SPARES = 64  # records that may stand in for unreadable ones of a streamed source
# Images decoded by one call of Python, which costs TensorFlow a fifth of an image.
GROUP = 8
Drawn = tuple[np.ndarray, ...]  # label, faults, image and perhaps view


class Wanted(NamedTuple):
    """What the loop asks of the stream; a view of (0, 0) is none."""

    image_size: tuple[int, int]
    view_size: tuple[int, int]
    channels: int
    seed: int
    batch_size: int
    rows: Int[np.ndarray, " R"]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of an image and, where there is one, of its second view."""
        sizes = [self.image_size, self.view_size][: 1 + all(self.view_size)]
        return [(*size, self.channels) for size in sizes]

    def empty(self, count: int) -> list[np.ndarray]:
        """Images, and perhaps views, to be filled in."""
        return [np.zeros((count, *shape), np.uint8) for shape in self.shapes]

    @property
    def group(self) -> int:
        """The largest group that divides the rows of this host."""
        return max(n for n in range(1, GROUP + 1) if len(self.rows) % n == 0)


def from_digits(data: Data, wanted: Wanted, start_step: int, stop_step: int) -> Any:
    """Digits, drawn a batch at a time, which is how numpy is fast."""

    def draw(index: np.ndarray, u: np.ndarray) -> Drawn:
        drawn, labels = digits.draw(index, "train", wanted.image_size)
        drawn = sources.to_channels(drawn, wanted.channels)
        images = wanted.empty(len(index))
        for n, image in enumerate(drawn):
            box = _box(data, wanted, *wanted.image_size, u[n])
            _finish(data, wanted, augment.cut(image, box), u[n], n, images)
        return labels, np.full(len(index), b"[]", object), *images

    @graph
    def load(position: Any, u: Any) -> Any:
        index = order.example(position, wanted.seed, data.num_images)
        return _group(wanted, draw, index, u)

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
        return _group(wanted, draw, position, index, u)

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
        return _group(wanted, draw, position, *numbered, u)

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
    images = wanted.empty(count)
    labels = np.full(count, -1, np.int32)
    faults = np.empty(count, object)
    for row in range(count):
        number, met = int(index[row]), []
        for attempt in range(REDRAWS):
            try:
                content, label = (spares.read if attempt else read)(number)
                part = _crop(data, wanted, content, u[row])
                _finish(data, wanted, part, u[row], row, images)
                labels[row] = label
                break
            except Unusable as error:
                met.append((number, error.reason))
                place = int(position[row]), wanted.seed, attempt
                number = order.replacement(*place, spares.length)
        faults[row] = json.dumps(met).encode()
    return labels, faults, *images


def _crop(
    data: Data, wanted: Wanted, content: bytes, u: Float[np.ndarray, " U"]
) -> UInt8[np.ndarray, "h w C"]:
    """Decode the random crop of one image."""
    picture = decode.open_picture(content, data.min_side, data.max_pixels)
    box = _box(data, wanted, picture.height, picture.width, u)
    return decode.crop(picture, box, wanted.channels)


def _box(
    data: Data, wanted: Wanted, height: int, width: int, u: Float[np.ndarray, " U"]
) -> augment.Box:
    """The crop of an image; limits of its shape are relative to the shape wanted."""
    shape = wanted.image_size[1] / wanted.image_size[0]
    ratio = data.crop_ratio[0] * shape, data.crop_ratio[1] * shape
    return augment.random_box(u, height, width, data.crop_scale, ratio)


def _finish(
    data: Data,
    wanted: Wanted,
    part: UInt8[np.ndarray, "h w C"],
    u: Float[np.ndarray, " U"],
    row: int,
    images: list[np.ndarray],
) -> None:
    """Put a crop, at the sizes wanted and mirrored or not, into a row."""
    size = wanted.image_size
    made = [scaled.resize(part, size, data.interpolation, data.antialias)]
    if len(images) == 2:
        made.append(scaled.second_view(part, wanted.view_size))
    for array, image in zip(images, made, strict=True):
        array[row] = augment.flip(image, u) if data.flip else image


def _with_uniforms(wanted: Wanted) -> Callable[..., Any]:
    @graph
    def add(position: Any, *rest: Any) -> Any:
        u = order.uniforms(position, wanted.seed, augment.NUM_UNIFORMS)
        return position, *rest, u

    return add


def _group(wanted: Wanted, draw: Callable[..., Drawn], *inputs: Any) -> Any:
    """What `draw` makes of the inputs, with the shapes that TensorFlow cannot see."""
    kinds = [tf.int32, tf.string, *(tf.uint8 for _ in wanted.shapes)]
    shapes = [(), (), *wanted.shapes]
    drawn = tf.numpy_function(draw, inputs, kinds)
    known = [tf.ensure_shape(x, (None, *s)) for x, s in zip(drawn, shapes, strict=True)]
    return inputs[-1], *known
