"""The training stream: positions -> examples -> augmented batches, by tf.data.

Everything is a function of the position, and order is kept at every stage, so that the
number of workers, the depth of prefetching and the moment of a restart cannot matter.
"""

import atexit
import json
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mimjax.data import Data, augment, decode, digits, order, sources
from mimjax.data.faults import BadDataError, Ledger, Unusable
from mimjax.data.quiet import tf

REDRAWS = 16  # images tried for one place of a batch before the source is given up
_running: weakref.WeakSet[Generator] = weakref.WeakSet()


class Wanted(NamedTuple):
    """What the loop asks of the stream."""

    image_size: tuple[int, int]
    channels: int
    seed: int
    batch_size: int
    rows: Int[np.ndarray, " R"]


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
        stream.close()


def _batches(
    data: Data, wanted: Wanted, start_step: int, stop_step: int, workdir: Path | None
) -> Generator[dict[str, np.ndarray]]:
    at = order.positions(start_step, stop_step, wanted.batch_size, wanted.rows)
    path: Callable[[int], str] = str
    length = data.num_images
    if data.source == "digits":
        samples = _digits(data, wanted, at)
    else:
        found = sources.records(data, "train")
        path, length = found.path, found.length
        samples = _random_access(data, wanted, at, found)
    limit = max(data.bad_minimum, int(data.bad_fraction * length))
    ledger = Ledger(workdir, limit, int(wanted.rows[0]) // len(wanted.rows))
    iterator = _batched(data, wanted, samples).as_numpy_iterator()
    try:
        for step in range(start_step, stop_step):
            image, label, faults = next(iterator)
            for entries in faults:
                _note(ledger, path, entries, step)
            yield {"image": image, "label": label}
    finally:
        del iterator


def _batched(data: Data, wanted: Wanted, samples: Any) -> Any:
    """Mirror and jitter single images, then batch them."""
    shape = (*wanted.image_size, wanted.channels)

    def finish(image: Any, label: Any, faults: Any, u: Any) -> Any:
        image = tf.ensure_shape(image, shape)
        if data.flip:
            image = augment.flip(image, u)
        if any(data.jitter):
            image = augment.jitter(image, u, data.jitter, data.jitter_rate)
        return image, label, faults

    samples = samples.map(finish, num_parallel_calls=_workers(data))
    batched = samples.batch(len(wanted.rows), drop_remainder=True)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1
    if data.workers:
        options.threading.private_threadpool_size = data.workers
    return batched.prefetch(data.prefetch).with_options(options)


def _workers(data: Data) -> int:
    return data.workers or tf.data.AUTOTUNE


def _draws(position: Any, seed: int) -> Any:
    return order.uniforms(position, seed, augment.NUM_UNIFORMS)


def _digits(data: Data, wanted: Wanted, at: Any) -> Any:
    """Samples drawn a batch at a time, which is how numpy is fast."""
    ratio = _ratio(data, wanted)

    def draw(index: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = digits.draw(index, "train", wanted.image_size)
        images = sources.to_channels(images, wanted.channels)
        for n, image in enumerate(images):
            box = augment.random_box(u[n], *image.shape[:2], data.crop_scale, ratio)
            images[n] = _resized(data, wanted, _cut(image, box))
        return images, labels

    def load(position: Any, u: Any) -> Any:
        index = order.example(position, wanted.seed, data.num_images)
        image, label = tf.numpy_function(draw, [index, u], (tf.uint8, tf.int32))
        image = tf.ensure_shape(image, (None, *wanted.image_size, wanted.channels))
        label = tf.ensure_shape(label, (None,))
        return image, label, tf.fill(tf.shape(label), ""), u

    return (
        at.map(lambda position: (position, _draws(position, wanted.seed)))
        .batch(len(wanted.rows))
        .map(load, num_parallel_calls=_workers(data))
        .unbatch()
    )


def _random_access(
    data: Data, wanted: Wanted, at: Any, found: sources.Records
) -> Any:
    """Samples of a source whose records are read by number."""
    length = found.length

    def draw(position: Any, index: Any, u: np.ndarray) -> tuple[np.ndarray, int, str]:
        faults: list[tuple[int, str]] = []
        number = int(index)
        for attempt in range(REDRAWS):
            try:
                content, label = found.read(number)
                return _image(data, wanted, content, u), np.int32(label), json.dumps(faults)
            except Unusable as error:
                faults.append((number, error.reason))
                number = order.replacement(int(position), wanted.seed, attempt, length)
        empty = np.zeros((*wanted.image_size, wanted.channels), np.uint8)
        return empty, np.int32(-1), json.dumps(faults)

    def load(position: Any) -> Any:
        u = _draws(position, wanted.seed)
        index = order.example(position, wanted.seed, length)
        kinds = (tf.uint8, tf.int32, tf.string)
        image, label, faults = tf.numpy_function(draw, [position, index, u], kinds)
        return image, tf.ensure_shape(label, ()), tf.ensure_shape(faults, ()), u

    return at.map(load, num_parallel_calls=_workers(data))


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


def _cut(image: np.ndarray, box: augment.Box) -> np.ndarray:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def _note(
    ledger: Ledger, path: Callable[[int], str], entries: bytes, step: int
) -> None:
    """Enter the unreadable images met for one place of a batch."""
    if not entries:
        return
    faults = json.loads(entries)
    for number, reason in faults:
        ledger.note(path(number), reason, step)
    if len(faults) == REDRAWS:
        raise BadDataError(
            f"step {step}: {REDRAWS} images drawn one after another were unreadable, "
            f"the last, {path(faults[-1][0])}, because it is {faults[-1][1]}"
        )
