"""Groups of augmented training images for groups of positions, from each source.

A group is (u [n, U], label int32 [n], faults [n], image uint8 [n, H, W, C]) and, where
they are wanted, a second view of the same crop, uint8 [n, h, w, C], and its mask, uint8
[n, H, W]: `u` are the random numbers of the positions, `faults` lists, as JSON, the
unreadable images met on the way as [number, reason]. Jitter is all that is left to be
done.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mimjax.data import (
    Data,
    augment,
    decode,
    digits,
    order,
    randaugment,
    scaled,
    sources,
    upright,
)
from mimjax.data.faults import Unusable
from mimjax.data.quiet import graph, tf

REDRAWS = 16  # images tried for one place of a batch before the source is given up
SPARES = 64  # records that may stand in for unreadable ones of a streamed source
# Images decoded by one call of Python, which costs TensorFlow a fifth of an image.
GROUP = 8
Drawn = tuple[np.ndarray, ...]  # label, faults, image and perhaps view and mask


class Wanted(NamedTuple):
    """What the loop asks of the stream; a view of (0, 0) is none, as no mask values."""

    image_size: tuple[int, int]
    view_size: tuple[int, int]
    channels: int
    seed: int
    batch_size: int
    rows: Int[np.ndarray, " R"]
    mask_values: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of an image and, where there are such, of its second view and its mask."""
        found = {"image": (*self.image_size, self.channels)}
        if all(self.view_size):
            found["view"] = (*self.view_size, self.channels)
        return {**found, "mask": self.image_size} if self.mask_values else found

    def empty(self, count: int) -> list[np.ndarray]:
        """Images, and perhaps views and masks, to be filled in."""
        return [np.zeros((count, *shape), np.uint8) for shape in self.shapes.values()]

    @property
    def group(self) -> int:
        """The largest group that divides the rows of this host."""
        return max(n for n in range(1, GROUP + 1) if len(self.rows) % n == 0)


def from_digits(data: Data, wanted: Wanted, start_step: int, stop_step: int) -> Any:
    """Digits or letters, drawn a batch at a time, which is how numpy is fast."""

    def draw(index: np.ndarray, u: np.ndarray) -> Drawn:
        where = "train", wanted.image_size, data.source
        drawn, labels, masks = digits.draw_with_masks(index, *where)
        drawn = sources.to_channels(drawn, wanted.channels)
        images = wanted.empty(len(index))
        for n, both in enumerate(zip(drawn, masks, strict=True)):
            box = _box(data, wanted, *wanted.image_size, u[n])
            both = both[: 1 + bool(wanted.mask_values)]
            parts = [augment.cut(array, box) for array in both]
            _finish(data, wanted, parts, u[n], n, images)
        return labels, np.full(len(index), b"[]", object), *images

    @graph
    def load(position: Any, u: Any) -> Any:
        position = tf.reshape(position, [-1])
        index = order.example(position, wanted.seed, data.num_images)
        return _group(wanted, draw, index, tf.reshape(u, [-1, u.shape[-1]]))

    at = order.positions(
        start_step, stop_step, wanted.batch_size, wanted.rows, wanted.group
    )
    numbered = graph(lambda position: (position, _uniforms(wanted, position)))
    groups = at.map(numbered, num_parallel_calls=workers(data))
    whole = groups.batch(len(wanted.rows) // wanted.group)
    return whole.map(load, num_parallel_calls=workers(data))


def from_numbered(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, found: sources.Records
) -> Any:
    """Images of a source whose records are read by number."""

    def draw(position: np.ndarray, index: np.ndarray, u: np.ndarray) -> Drawn:
        return _fill(data, wanted, found.read, index, position, u, found)

    @graph
    def load(position: Any) -> Any:
        index = order.example(position, wanted.seed, found.length)
        return _group(wanted, draw, position, index, _uniforms(wanted, position))

    at = order.positions(
        start_step, stop_step, wanted.batch_size, wanted.rows, wanted.group
    )
    return at.map(load, num_parallel_calls=workers(data))


def from_stream(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, found: sources.Streamed
) -> Any:
    """Images of a source that is read from first to last."""
    spares = next(found.head(SPARES, SPARES))
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
    def load(position: Any, numbered: Any) -> Any:
        u = _uniforms(wanted, position)
        return _group(wanted, draw, position, *numbered, u)

    start = start_step * wanted.batch_size
    stream = found.stream(start, wanted.seed).enumerate(start).filter(is_mine)
    stream = stream.take((stop_step - start_step) * len(wanted.rows))
    groups = stream.batch(wanted.group)
    return groups.map(load, num_parallel_calls=workers(data))


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
                mask = sources.mask_of(spares, number) if wanted.mask_values else b""
                parts = _crop(data, wanted, content, u[row], mask)
                _finish(data, wanted, parts, u[row], row, images)
                labels[row] = label
                break
            except Unusable as error:
                met.append((number, error.reason))
                place = int(position[row]), wanted.seed, attempt
                number = order.replacement(*place, spares.length)
        faults[row] = json.dumps(met).encode()
    return labels, faults, *images


def _crop(
    data: Data,
    wanted: Wanted,
    content: bytes,
    u: Float[np.ndarray, " U"],
    mask_content: bytes = b"",
) -> list[np.ndarray]:
    """Decode the random crop of one image [h, w, C], and of its mask [h, w]."""
    picture = decode.open_picture(content, data.min_side, data.max_pixels)
    size = picture.height, picture.width
    box = _box(data, wanted, *size, u)
    parts = [decode.crop(picture, box, wanted.channels)]
    if wanted.mask_values:
        values, most = wanted.mask_values, data.max_pixels
        mask = upright.read_mask(mask_content, size, values, most)
        parts.append(augment.cut(mask, box))
    return parts


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
    parts: list[np.ndarray],
    u: Float[np.ndarray, " U"],
    row: int,
    images: list[np.ndarray],
) -> None:
    """Put a crop, and perhaps its mask, mirrored or not and changed, into a row."""
    size, (part, *masks) = wanted.image_size, parts
    made = [scaled.resize(part, size, data.interpolation, data.antialias)]
    if all(wanted.view_size):
        made.append(scaled.second_view(part, wanted.view_size))
    made += [scaled.nearest(mask, size) for mask in masks]
    for array, image in zip(images, made, strict=True):
        array[row] = augment.flip(image, u) if data.flip else image
    if data.randaugment:
        changes = u[augment.RANDAUGMENT]
        images[0][row] = randaugment.changed(data, images[0][row], changes)


def _uniforms(wanted: Wanted, position: Any) -> Any:
    """The random numbers of a group of positions, float32 [n, U]."""
    alone = tf.unstack(position, wanted.group)
    drawn = [order.uniforms(p, wanted.seed, augment.NUM_UNIFORMS) for p in alone]
    return tf.stack(drawn)


def _group(wanted: Wanted, draw: Callable[..., Drawn], *inputs: Any) -> Any:
    """What `draw` makes of the inputs, with the shapes that TensorFlow cannot see."""
    kinds = [tf.int32, tf.string, *(tf.uint8 for _ in wanted.shapes)]
    shapes = [(), (), *wanted.shapes.values()]
    drawn = tf.numpy_function(draw, inputs, kinds)
    known = [tf.ensure_shape(x, (None, *s)) for x, s in zip(drawn, shapes, strict=True)]
    return inputs[-1], *known
